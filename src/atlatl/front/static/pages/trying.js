// A form that calls a function and shows what comes back.

import * as api from "../api.js";
import { h, put, setText } from "../dom.js";
import { cut, milliseconds } from "../format.js";
import { badge, executionAddress } from "../parts.js";

const MOST = 200000;
const EXAMPLES = {
  int: 1, float: 1.5, bool: true, str: "text", list: [], dict: {}, bytes: "",
};

export function tryIt(name) {
  const value = h("textarea", {
    id: "try-value", rows: "4", spellcheck: "false", autocapitalize: "off", autocomplete: "off",
  }, "{}");
  const mode = h("select", { id: "try-mode" },
    h("option", { value: "sync" }, "Wait for the result"),
    h("option", { value: "stream" }, "Stream"),
    h("option", { value: "async" }, "Accept it, run it later"));
  const limit = h("input", {
    id: "try-limit", type: "number", min: "1", step: "1", placeholder: "as deployed",
  });
  const call = h("button", { type: "submit", class: "primary", id: "try-call" }, "Call");
  const stop = h("button", { type: "button", hidden: true, on: { click: () => own?.abort() } },
    "Hang up");
  const signature = h("code", { class: "muted signature" });
  const result = h("div", { class: "result", role: "status", "aria-live": "polite", hidden: true });
  const form = h("form", { class: "trying", on: { submit: run, keydown: quick } },
    h("label", { for: "try-value" }, "Body"), value,
    h("div", { class: "row" },
      h("label", { for: "try-mode" }, "How"), mode,
      h("label", { for: "try-limit" }, "Time limit, ms"), limit, call, stop));
  const node = h("section", { class: "panel" },
    h("div", { class: "toolbar" }, h("h2", {}, "Try it"), signature), form, result);
  let own = null;
  let version = 0;

  function quick(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  }

  async function run(event) {
    event.preventDefault();
    own = new AbortController();
    call.disabled = true;
    stop.hidden = false;
    const begun = performance.now();
    result.hidden = false;
    put(result, h("p", { class: "muted" }, "Waiting …"));
    try {
      const answer = await api.ask(`functions/${api.segment(name)}`, {
        method: "POST", body: value.value, signal: own.signal, headers: headers(),
      });
      await show(answer, begun);
    } catch (error) {
      put(result, h("p", { class: "bad" }, own.signal.aborted ? "You hung up." : error.message));
    } finally {
      call.disabled = false;
      stop.hidden = true;
    }
  }

  function headers() {
    const text = value.value.trim();
    const given = { "Content-Type": isJson(text) ? "application/json" : "text/plain" };
    if (limit.value) given["Atlatl-Timeout-Ms"] = limit.value;
    if (mode.value === "async") given.Prefer = "respond-async";
    if (mode.value === "stream") given.Accept = "text/event-stream";
    return given;
  }

  async function show(answer, begun) {
    const place = h("pre", { tabindex: "0", "aria-label": "Answer" });
    const facts = h("p", { class: "line" });
    put(result, facts, place);
    const text = await read(answer, (part) => setText(place, part));
    const document = json(text);
    const id = answer.headers.get("Atlatl-Execution-Id") || document?.execution_id;
    const took = answer.headers.get("Atlatl-Duration-Ms");
    put(facts,
      badge(`${answer.status} ${answer.statusText}`.trim(), answer.ok ? "ok" : "bad").node,
      document?.code && !answer.ok ? h("code", {}, document.code) : null,
      h("span", { class: "muted" }, took ? `${milliseconds(Number(took))} in the function, ` : "",
        `${milliseconds(performance.now() - begun)} in all`),
      answer.headers.get("Atlatl-Cold-Start") ? badge("cold start", "calm").node : null,
      id ? h("a", { href: executionAddress(id) }, "Its execution") : null);
    setText(place, cut(document === undefined ? text : JSON.stringify(document, null, 2), MOST));
  }

  return {
    node,
    update(task) {
      if (task.version === version) return;
      const first = version === 0;
      version = task.version;
      const shape = task.functions.find((each) => task.handler.endsWith(`:${each.name}`))
        || task.functions[0];
      if (!shape) return;
      setText(signature, `${shape.is_async ? "async " : ""}${shape.name}(${shape.parameters
        .map((each) => each.name + (each.type ? `: ${each.type}` : "")
          + (each.required ? "" : " = …")).join(", ")})`);
      if (first) value.value = example(shape);
      if (first && shape.streams) mode.value = "stream";
    },
    close: () => own?.abort(),
  };
}

function example(shape) {
  if (shape.kind !== "parameters") return "{}";
  const needed = shape.parameters.filter((each) => each.required);
  const pairs = needed.map((each) => [each.name, EXAMPLES[each.type] ?? "text"]);
  return JSON.stringify(Object.fromEntries(pairs), null, pairs.length > 1 ? 2 : 0);
}

function json(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const isJson = (text) => json(text) !== undefined;

/** The body as text, shown as it comes, up to a bound. */
async function read(answer, show) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let shown = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text;
    text += value;
    if (text.length > MOST) {
      await reader.cancel();
      return `${text.slice(0, MOST)}\n… and more`;
    }
    const now = performance.now();
    if (now - shown > 250) {
      shown = now;
      show(text);
    }
  }
}
