// The page of who is not signed in.

import { h, setText } from "../dom.js";

/** `enter(token)` says whether the service takes it. */
export function entryPage(why, enter) {
  const field = h("input", {
    type: "password", id: "token", required: true, autocomplete: "off", spellcheck: "false",
  });
  const said = h("p", { class: "bad", role: "alert" }, why);
  const form = h("form", {
    class: "entry",
    on: { submit: async (event) => {
      event.preventDefault();
      setText(said, "");
      try {
        await enter(field.value.trim());
      } catch (error) {
        setText(said, error.message);
        field.select();
      }
    } },
  },
  h("label", { for: "token" }, "Token"), field,
  h("button", { type: "submit", class: "primary" }, "Sign in"));
  return {
    node: h("div", { class: "page narrow" }, h("section", { class: "panel" },
      h("h1", {}, "Sign in"),
      h("p", {}, "Open the address that ", h("code", {}, "atlatl serve"), " printed when it started, ",
        "or have a fresh one printed by ", h("code", {}, "atlatl dashboard"), "."),
      h("p", {}, "Or paste a token of scope ", h("code", {}, "admin"), ":"), form, said)),
    title: "Sign in",
    update() {},
    close() {},
  };
}
