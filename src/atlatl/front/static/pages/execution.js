// One execution: what became of it, its life as a timeline, what it printed, what it returned.

import * as api from "../api.js";
import { acting, ask, h, note, put, setText } from "../dom.js";
import { bytes, cut, date, milliseconds, moment, time } from "../format.js";
import { badge, facts, taskAddress, toneOf } from "../parts.js";

const EVERY_MS = 1000;
const ENDED = new Set(["COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"]);
const MOST_LINES = 2000;
const MOST_TEXT = 100000;
const TEXTUAL = /^text\/|json|xml|javascript/i;

export function executionPage(id) {
  const status = badge("");
  const cause = h("p", { class: "cause-line", hidden: true });
  const record = h("div");
  const steps = h("ol", { class: "timeline" });
  const summary = h("p", { class: "reason" });
  const logs = logPanel();
  const result = h("pre", { tabindex: "0", "aria-label": "Result" }, "–");
  const stop = h("button", {
    type: "button", class: "danger", hidden: true, on: { click: acting(cancel) },
  }, "Cancel it");
  const parts = h("div", { class: "split" },
    h("section", { class: "panel" }, h("h2", {}, "Timeline"), summary, steps),
    h("div", { class: "stack" },
      h("section", { class: "panel" }, h("h2", {}, "Record"), record),
      h("section", { class: "panel" }, h("h2", {}, "Result"), result)));
  const node = h("div", { class: "page" },
    h("div", { class: "title" }, h("h1", { class: "id" }, id), status.node,
      h("span", { class: "actions" }, stop)),
    cause, parts, logs.node);
  const base = `api/v1/executions/${api.segment(id)}`;
  let timer = null;
  let closed = false;

  async function cancel() {
    const options = await ask({
      title: "Cancel this execution?", text: "It ends as CANCELLED, and is not tried again.",
      verb: "Cancel it", options: [{ name: "force", label: "At once, without a grace" }],
    });
    if (!options) return;
    const answer = await api.post(`${base}/cancel`, {
      reason: "from the dashboard", force: options.force,
    });
    note(answer.message || answer.status, answer.cancelled ? "ok" : "");
    await load();
  }

  async function load() {
    clearTimeout(timer);
    // Without an answer it is asked again too: perhaps the service comes back.
    let again = true;
    try {
      const row = await api.get(base);
      if (closed) return;
      show(row);
      await Promise.all([loadSteps(row), loadLogs(row), loadResult(row)]);
      again = !ENDED.has(row.status);
    } catch (error) {
      if (error.status === 401) return;
      if (error.status) fail(error);
      again = !error.status;
    }
    if (!closed && again) timer = setTimeout(load, EVERY_MS);
  }

  function fail(error) {
    put(cause, error.message);
    cause.hidden = false;
    parts.hidden = logs.node.hidden = error.status === 404;
  }

  function show(row) {
    status.update(row.status);
    stop.hidden = ENDED.has(row.status);
    cause.hidden = !row.error_code;
    if (row.error_code) put(cause, h("code", {}, row.error_code), " ", cut(row.error_message, 2000));
    put(record, facts([
      ["Task", h("a", { href: taskAddress(row.task_name) }, row.task_name)],
      ["Function", row.version ? `${row.function_name}, version ${row.version}` : row.function_name],
      ["Mode", `${row.mode}, attempt ${row.attempt}`],
      ["Accepted", date(row.queued_at)],
      ["Waited", milliseconds(row.queue_time_ms)],
      ["Ran", milliseconds(row.execution_time_ms)],
      ["Instance", row.instance_id ? `${row.instance_id}${row.cold_start ? ", cold start" : ""}`
        : "–"],
      ["Memory", row.memory_used_bytes ? bytes(row.memory_used_bytes) : "–"],
      row.trace_id ? ["Trace", row.trace_id] : null,
      ...Object.entries(row.metadata || {}).slice(0, 20),
    ]));
  }

  async function loadSteps(row) {
    let told;
    try {
      told = await api.get(`${base}/explain`);
    } catch (error) {
      if (!error.status) throw error;
      told = { summary: "", steps: ofRecord(row) };
    }
    if (closed) return;
    setText(summary, told.summary || "");
    summary.hidden = !told.summary;
    put(steps, told.steps.map((each) => step(each, row.status)));
  }

  async function loadLogs(row) {
    try {
      const told = await api.get(`${base}/logs`);
      logs.show(told, ENDED.has(row.status));
    } catch (error) {
      if (!error.status) throw error;
      logs.fail(error.message);
    }
  }

  async function loadResult(row) {
    if (!ENDED.has(row.status)) return setText(result, "Not yet.");
    const answer = await api.ask(`${base}/result`);
    const type = answer.headers.get("Content-Type") || "";
    if (!TEXTUAL.test(type)) {
      const { size } = await answer.blob();
      return setText(result, `${bytes(size)} of ${type || "no stated type"}`);
    }
    const text = cut(await answer.text(), MOST_TEXT);
    let shown = text;
    try {
      shown = JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      // Shown as it is.
    }
    return setText(result, shown || "Empty.");
  }

  load();
  return {
    node,
    title: `Execution ${id}`,
    update() {},
    close() {
      closed = true;
      clearTimeout(timer);
    },
  };
}

/** What the record alone tells, where the service explains nothing. */
function ofRecord(row) {
  const began = moment(row.queued_at);
  const step = (at, kind, text) => (at
    ? [{ at, kind, text, after_ms: moment(at) - began, details: {} }] : []);
  return [
    ...step(row.queued_at, "accepted", "Accepted"),
    ...step(row.started_at, "started",
      `Began on ${row.instance_id}${row.cold_start ? ", a cold start" : ""}`),
    ...step(row.completed_at, "ended", `Ended: ${row.status}`),
  ];
}

const BAD = /fail|crash|died|lost|refus|kill/i;

function step(each, status) {
  const details = Object.entries(each.details || {});
  const tone = each.kind === "ended" ? toneOf(status)
    : each.details?.new ? toneOf(each.details.new) : BAD.test(each.kind) ? "bad" : "";
  const after = each.after_ms === null || each.after_ms === undefined ? ""
    : `+${milliseconds(each.after_ms)}`;
  return h("li", { class: tone },
    h("span", { class: "when" }, h("time", {}, time(each.at)), h("span", {}, after)),
    h("div", {}, h("b", {}, each.kind.replaceAll("_", " ")), h("p", {}, cut(each.text, 2000)),
      details.length ? h("details", {}, h("summary", {}, "Details"), facts(details.map(
        ([name, value]) => [name.replaceAll("_", " "),
          cut(typeof value === "object" ? JSON.stringify(value) : value, 2000)],
      ))) : null));
}

function logPanel() {
  const find = h("input", {
    type: "search", placeholder: "Find in the log", "aria-label": "Find in the log",
    on: { input: draw },
  });
  const told = h("span", { class: "muted", role: "status" });
  const place = h("pre", { class: "log", tabindex: "0", "aria-label": "Log" });
  const traceback = h("pre", { class: "log bad", tabindex: "0", "aria-label": "Traceback",
    hidden: true });
  const node = h("section", { class: "panel" },
    h("div", { class: "toolbar" }, h("h2", {}, "Log"), find, told), place, traceback);
  let lines = [];
  let ended = false;

  function draw() {
    const text = find.value.toLowerCase();
    const found = text ? lines.filter((line) => line.toLowerCase().includes(text)) : lines;
    const all = `${lines.length} line${lines.length === 1 ? "" : "s"}`;
    setText(told, text ? `${found.length} of ${all}` : all);
    const shown = found.slice(-MOST_LINES);
    put(place, shown.length ? shown.map((line) => h("span", { class: "text" }, `${line}\n`))
      : lines.length ? "" : ended ? "It printed nothing."
        : "What it prints is here when it has ended.");
  }

  return {
    node,
    show(answer, hasEnded) {
      ended = hasEnded;
      if (answer.lines.length !== lines.length || !lines.length) {
        lines = answer.lines;
        draw();
      }
      traceback.hidden = !answer.traceback;
      setText(traceback, answer.traceback || "");
    },
    fail(message) {
      lines = [];
      setText(place, message);
    },
  };
}
