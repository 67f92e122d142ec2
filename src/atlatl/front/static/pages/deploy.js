// Deploying by a form, or by a file that is dropped anywhere on the page.

import * as api from "../api.js";
import { h, note, put, setText } from "../dom.js";
import { bytes } from "../format.js";
import { taskAddress } from "../parts.js";
import { soon, store } from "../store.js";

const KINDS = /\.(py|zip)$/i;
let dropped = null;

/** Keeps a file for the form; the page is shown after it. */
export function take(file) {
  dropped = file;
}

export function deployPage(query) {
  let file = null;
  const input = h("input", {
    type: "file", id: "deploy-file", class: "aside", accept: ".py,.zip", on: { change: () => choose(input.files[0]) },
  });
  const chosen = h("span", { class: "muted" }, "a .py file, or a .zip with several");
  const name = h("input", {
    id: "deploy-name", type: "text", required: true, autocomplete: "off", spellcheck: "false",
    maxlength: "128", value: query.get("task") || "",
  });
  const handler = h("input", {
    id: "deploy-handler", type: "text", placeholder: "main of its only file", spellcheck: "false",
    autocomplete: "off",
  });
  const settings = h("textarea", {
    id: "deploy-settings", rows: "4", spellcheck: "false", autocomplete: "off",
    placeholder: '{"timeout_ms": 5000, "pool": {"max_size": 4}}',
  });
  const secret = h("p", { class: "muted hint", hidden: true });
  const go = h("button", { type: "submit", class: "primary", id: "deploy-go" }, "Deploy");
  const outcome = h("div", { role: "status", "aria-live": "polite" });
  const field = (label, node, hint) => [h("label", { for: node.id }, label), node,
    hint ? h("p", { class: "muted hint" }, hint) : null];
  const form = h("form", { class: "deploying", on: { submit } },
    h("label", { class: "zone", for: "deploy-file" },
      h("strong", {}, "Drop a file here, or choose one"), chosen, input),
    field("Name", name),
    field("Handler", handler, "file:function; empty takes main"),
    field("Settings", settings, "JSON as in the documentation; empty takes the defaults"), secret,
    h("div", { class: "actions" }, go));
  const node = h("div", { class: "page narrow" },
    h("div", { class: "title" }, h("h1", {}, "Deploy")),
    h("section", { class: "panel" }, form, outcome));

  function choose(next) {
    if (!next) return;
    if (!KINDS.test(next.name)) {
      fail(`${next.name} is neither a .py file nor a .zip; put a directory into a .zip.`);
      return;
    }
    put(outcome);
    file = next;
    setText(chosen, `${file.name}, ${bytes(file.size)}`);
    if (!name.value) name.value = file.name.replace(KINDS, "");
  }

  function wanted() {
    const text = settings.value.trim();
    const tree = text ? JSON.parse(text) : {};
    if (tree === null || typeof tree !== "object" || Array.isArray(tree)) {
      throw new SyntaxError("they are not a JSON object");
    }
    return handler.value.trim() ? { ...tree, handler: handler.value.trim() } : tree;
  }

  async function submit(event) {
    event.preventDefault();
    if (!file) return fail("Choose a file first.");
    let tree;
    try {
      tree = wanted();
    } catch (error) {
      settings.focus();
      return fail(`The settings cannot be read: ${error.message}`);
    }
    go.disabled = true;
    put(outcome, h("p", { class: "muted" }, "Deploying …"));
    try {
      const row = await api.deploy(name.value.trim(), file, tree);
      soon();
      const done = row.created ? "is deployed" : row.changed ? `is version ${row.version} now`
        : "was deployed like this already";
      note(`${row.task_name} ${done}`, "ok");
      put(outcome, h("p", { class: "ok" }, h("a", { href: taskAddress(row.task_name) },
        row.task_name), ` ${done}.`), row.log ? h("pre", { class: "log" }, row.log) : null);
    } catch (error) {
      fail(error.message, error.log);
    } finally {
      go.disabled = false;
    }
  }

  function fail(text, log = "") {
    put(outcome, h("p", { class: "bad" }, text), log ? h("pre", { class: "log bad" }, log) : null);
  }

  function takeDropped() {
    if (!dropped) return;
    choose(dropped);
    dropped = null;
    name.focus();
  }

  let known = !name.value;

  /** A deploy sets all settings anew: those of a task that is deployed again stand there. */
  function remember() {
    const task = known ? null : store.tasks.get(name.value);
    if (!task) return;
    known = true;
    const { env, ...kept } = task.settings;
    if (!settings.value && Object.keys(kept).length) settings.value = JSON.stringify(kept, null, 2);
    secret.hidden = !env;
    setText(secret, env ? `It has values in env (${Object.keys(env).join(", ")}), which are not `
      + "told: write them again." : "");
  }

  takeDropped();
  return {
    node,
    title: "Deploy",
    update() {
      takeDropped();
      remember();
    },
    close() {},
  };
}

/** Lets a file be dropped anywhere: it opens the form with it. */
export function watchDrops() {
  const sign = document.getElementById("drop");
  const carries = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  const on = (kind, act) => window.addEventListener(kind, (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    act(event);
  });
  on("dragenter", () => { sign.hidden = false; });
  on("dragover", (event) => { event.dataTransfer.dropEffect = "copy"; });
  on("dragleave", (event) => { if (!event.relatedTarget) sign.hidden = true; });
  on("drop", (event) => {
    sign.hidden = true;
    const file = event.dataTransfer.files[0];
    if (!file) return;
    if (event.dataTransfer.files.length > 1) note("One file at a time: several go into a .zip.");
    take(file);
    if (!location.hash.startsWith("#/deploy")) location.hash = "#/deploy";
    else window.dispatchEvent(new Event("atlatl-draw"));
  });
}
