// Executions: a list that can be filtered and searched, newest first.

import * as api from "../api.js";
import { acting, h, keep, note, setText } from "../dom.js";
import { ago, cut, milliseconds, moment } from "../format.js";
import { badge, executionAddress, taskAddress } from "../parts.js";
import { store } from "../store.js";

const PER_PAGE = 50;
const EVERY_MS = 1500;
const STATUSES = ["PENDING", "RUNNING", "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"];

/** A table of executions; `refresh` asks for the newest again, but not more often than useful. */
export function executionTable({ task = "", status = "", text = () => "", limit = PER_PAGE,
  withTask = false }) {
  const rows = new Map();
  const body = h("tbody");
  const names = ["Execution", withTask ? "Task" : null, "Status", "When", "Waited", "Ran", "Cause"];
  const table = h("table", { class: "executions" }, h("caption", { class: "aside" }, "Executions"),
    h("thead", {}, h("tr", {}, names.filter(Boolean).map((each) =>
      h("th", { scope: "col" }, each)))), body);
  const empty = h("p", { class: "empty", hidden: true }, "There are none.");
  const said = h("p", { class: "muted", role: "status" });
  const node = h("div", {}, h("div", { class: "scroll" }, table), empty, said);
  let newest = [];
  let older = [];
  let next = null;
  let asked = 0;
  let timer = null;
  let asking = false;
  let heard = false;

  function draw() {
    const wanted = text().trim().toLowerCase();
    const known = new Set(newest.map((row) => row.execution_id));
    const all = [...newest, ...older.filter((row) => !known.has(row.execution_id))];
    const found = wanted ? all.filter((row) => searched(row).includes(wanted)) : all;
    keep(body, rows, found, (row) => row.execution_id, () => executionRow(withTask));
    empty.hidden = found.length > 0 || !heard;
    table.hidden = found.length === 0;
    setText(said, wanted ? `${found.length} of the ${all.length} that are loaded`
      + `${next ? "; there are older ones" : ""}` : "");
  }

  async function load() {
    asking = true;
    asked = performance.now();
    try {
      const page = await api.get("api/v1/executions", { task, status, limit });
      newest = page.executions;
      if (!older.length) next = page.next_start_after;
      heard = true;
      draw();
    } catch (error) {
      // That there is no connection is said already; that there is no such task, by the table.
      if (error.status && ![401, 404].includes(error.status)) note(error.message, "bad");
      heard = error.status === 404;
      if (heard) newest = [];
      draw();
    } finally {
      asking = false;
    }
  }

  return {
    node,
    draw,
    more: async () => {
      const page = await api.get("api/v1/executions", { task, status, limit, start_after: next });
      older.push(...page.executions);
      next = page.next_start_after;
      draw();
    },
    hasMore: () => Boolean(next) && older.length < 2000,
    refresh() {
      if (timer || asking) return;
      const left = asked ? Math.max(0, EVERY_MS - (performance.now() - asked)) : 0;
      timer = setTimeout(() => {
        timer = null;
        load();
      }, left);
    },
    close: () => clearTimeout(timer),
  };
}

function searched(row) {
  return [row.execution_id, row.task_name, row.function_name, row.error_code, row.error_message,
    row.instance_id, row.trace_id].join(" ").toLowerCase();
}

function executionRow(withTask) {
  const link = h("a");
  const task = h("a");
  const status = badge("");
  const cell = (label, kind = "") => h("td", { "data-label": label, class: kind });
  const cells = { when: cell("When"), waited: cell("Waited", "number"), ran: cell("Ran", "number"),
    cause: cell("Cause", "cause") };
  const code = h("code");
  const message = h("span");
  const cold = h("span", { class: "muted", hidden: true }, " cold");
  cells.cause.append(code, " ", message);
  const ran = h("span");
  cells.ran.append(ran, cold);
  const node = h("tr", {}, h("th", { scope: "row" }, link),
    withTask ? h("td", { "data-label": "Task" }, task) : null,
    h("td", { "data-label": "Status" }, status.node),
    cells.when, cells.waited, cells.ran, cells.cause);
  return {
    node,
    update(row) {
      setText(link, cut(row.execution_id, 20));
      link.title = row.execution_id;
      link.href = executionAddress(row.execution_id);
      setText(task, row.task_name);
      task.href = taskAddress(row.task_name);
      status.update(row.status);
      setText(cells.when, ago(row.queued_at));
      setText(cells.waited, milliseconds(row.queue_time_ms));
      setText(ran, row.status === "RUNNING" ? `${since(row.started_at)} so far`
        : milliseconds(row.execution_time_ms));
      cold.hidden = !row.cold_start;
      setText(code, row.error_code || "");
      code.hidden = !row.error_code;
      setText(message, row.error_message ? cut(row.error_message, 140)
        : row.attempt > 1 ? `attempt ${row.attempt}` : "");
    },
  };
}

function since(at) {
  return milliseconds(Math.max(0, Date.now() - moment(at)));
}

export function executionsPage(query) {
  const find = h("input", {
    type: "search", id: "find", placeholder: "Find: id, error, instance  ( / )",
    "aria-label": "Find an execution", value: query.get("find") || "",
    on: { input: () => { table.draw(); tell(); }, keydown: open },
  });
  const task = h("input", {
    type: "text", list: "task-names", placeholder: "All tasks", "aria-label": "Task",
    value: query.get("task") || "", on: { change: again },
  });
  const names = h("datalist", { id: "task-names" });
  const status = h("select", { "aria-label": "Status", on: { change: again } },
    h("option", { value: "" }, "Any status"),
    STATUSES.map((each) => h("option", { value: each }, each)));
  status.value = query.get("status") || "";
  const follow = h("input", { type: "checkbox", checked: true });
  const hint = h("span", { class: "muted" });
  const table = executionTable({
    task: task.value, status: status.value, text: () => find.value, withTask: true,
  });
  const more = h("button", { type: "button", on: { click: acting(() => table.more()) } },
    "Older ones");

  function open(event) {
    const id = find.value.trim();
    if (event.key === "Enter" && id) location.hash = executionAddress(id);
  }

  function tell() {
    setText(hint, find.value.trim() ? "Enter opens the execution of this id" : "");
  }

  function again() {
    const given = [["task", task.value.trim()], ["status", status.value], ["find", find.value]];
    const text = new URLSearchParams(given.filter(([, value]) => value)).toString();
    location.hash = `#/executions${text ? `?${text}` : ""}`;
  }

  const node = h("div", { class: "page" },
    h("div", { class: "title" }, h("h1", {}, "Executions")),
    h("section", { class: "panel" },
      h("div", { class: "toolbar" }, find, task, names, status,
        h("label", { class: "check" }, follow, "Follow"), hint),
      table.node,
      h("div", { class: "actions" }, more)));
  let shown = -1;
  let listed = 0;
  return {
    node,
    title: "Executions",
    update() {
      more.hidden = !table.hasMore();
      if (listed !== store.tasks.size) {
        listed = store.tasks.size;
        names.replaceChildren(...[...store.tasks.keys()].slice(0, 1000).map((name) =>
          h("option", { value: name })));
      }
      if (shown !== store.executionsChanged && (follow.checked || shown < 0)) {
        shown = store.executionsChanged;
        table.refresh();
      }
    },
    close: () => table.close(),
  };
}
