// The first page: how the service does, what fails, and all tasks.

import { chart, spark } from "../charts.js";
import { acting, h, keep, setText } from "../dom.js";
import { NONE, bytes, count, duration, milliseconds, percent, rate } from "../format.js";
import {
  badge, breakerTone, breakerWord, failureRow, happeningRow, poolBar, setBreaker, taskAddress,
  whyOf,
} from "../parts.js";
import { liveOf, poolOf, seriesOf, store } from "../store.js";

const PER_PAGE = 50;
// "task-9" stands before "task-10".
const byName = new Intl.Collator("en", { numeric: true }).compare;
const most = (value) => (a, b) => value(b) - value(a) || byName(a.name, b.name);
const SORTS = {
  name: (a, b) => byName(a.name, b.name),
  calls: most((row) => row.live.calls_per_s),
  errors: most((row) => row.live.errors_per_s),
  p99: most((row) => row.live.p99_ms ?? -1),
  pool: most((row) => row.pool.in_use + row.pool.idle + row.pool.starting),
};

// Stays while one looks at other pages.
const chosen = { text: "", trouble: false, sort: "name", page: 0 };

export function tasksPage() {
  const tiles = figures();
  const calls = chart({
    title: "Calls per second", show: (v) => rate(v),
    lines: [
      { name: "calls", column: "calls", colour: "--series-a", fill: true },
      { name: "errors", column: "errors", colour: "--series-bad", fill: true },
    ],
  });
  const latency = chart({
    title: "Latency", show: (v) => milliseconds(v),
    lines: [
      { name: "p50", column: "p50", colour: "--series-b" },
      { name: "p99", column: "p99", colour: "--series-c" },
    ],
  });
  const trouble = list("What failed", failureRow, (row) => `${row.error_code} ${row.task_name}`,
    "Nothing has failed.");
  const happened = list("What happened", happeningRow,
    (row) => `${row.kind} ${row.task_name} ${row.at}`, "Nothing since this page was opened.");
  const table = taskTable();
  const node = h("div", { class: "page" },
    h("h1", { class: "aside" }, "Tasks"),
    tiles.node,
    h("div", { class: "charts" }, calls.node, latency.node),
    table.node,
    h("div", { class: "pair" }, trouble.node, happened.node));
  return {
    node,
    title: "Tasks",
    update() {
      tiles.update();
      calls.update(seriesOf(""));
      latency.update(seriesOf(""));
      table.update();
      trouble.update(store.failures.slice(0, 12));
      happened.update(store.happenings.slice(0, 12));
    },
    close() {
      calls.close();
      latency.close();
    },
  };
}

function figures() {
  const names = [
    ["calls", "Calls"], ["errors", "Errors"], ["refused", "Refused"], ["latency", "p50 / p99"],
    ["instances", "Instances"], ["waiting", "Waiting"], ["memory", "Memory"], ["uptime", "Up"],
  ];
  const values = Object.fromEntries(names.map(([key]) => [key, h("dd", {}, "–")]));
  const details = Object.fromEntries(names.map(([key]) => [key, h("dd", { class: "more" })]));
  const node = h("dl", { class: "tiles" }, names.map(([key, name]) => h("div", { class: "tile" },
    h("dt", {}, name), values[key], details[key])));
  const tell = (key, value, more = "") => {
    setText(values[key], value);
    setText(details[key], more);
  };
  return {
    node,
    update() {
      const { total, health } = store;
      const pools = [...store.tasks.keys()].map(poolOf);
      const all = (name) => pools.reduce((sum, pool) => sum + (pool[name] || 0), 0);
      const open = [...store.breakers.values()].filter((one) => one.state !== "closed").length;
      tell("calls", `${rate(total.calls_per_s)}/s`, `${count(store.executions)} since the start`);
      tell("errors", percent(total.errors_per_s, total.calls_per_s),
        `${count(store.errors)} since the start`);
      values.errors.classList.toggle("bad", total.errors_per_s > 0);
      tell("refused", `${rate(total.refused_per_s)}/s`,
        open ? `${open} breaker${open > 1 ? "s" : ""} not closed` : "all breakers closed");
      values.refused.classList.toggle("bad", total.refused_per_s > 0);
      details.refused.classList.toggle("bad", open > 0);
      const p99 = milliseconds(total.p99_ms);
      const p50 = milliseconds(total.p50_ms);
      tell("latency", `${p99.endsWith(" ms") ? p50.replace(" ms", "") : p50} / ${p99}`,
        store.mode === "polling" ? "since the start" : "newest second");
      tell("instances", count(all("in_use") + all("idle")),
        [`${all("in_use")} busy`, `${all("idle")} idle`,
          all("starting") ? `${all("starting")} starting` : ""].filter(Boolean).join(" · "));
      tell("waiting", count(all("waiting")), `${count(store.queued)} queued`);
      tell("memory", bytes(health.instances_memory_bytes),
        `of ${bytes(health.memory_budget_bytes)} for instances`);
      tell("uptime", health.uptime_s === undefined ? NONE : duration(health.uptime_s),
        health.status || "");
      details.uptime.title = health.message || "";
      details.uptime.classList.toggle("bad", Boolean(health.status) && health.status !== "healthy");
    },
  };
}

function list(title, make, key, nothing) {
  const rows = new Map();
  const items = h("ul", { class: "feed" });
  const empty = h("p", { class: "empty" }, nothing);
  const node = h("section", { class: "panel" }, h("h2", {}, title), items, empty);
  return {
    node,
    update(found) {
      keep(items, rows, found, key, make);
      empty.hidden = found.length > 0;
    },
  };
}

function taskTable() {
  const rows = new Map();
  const again = () => {
    chosen.page = 0;
    update();
  };
  const search = h("input", {
    type: "search", id: "find", placeholder: "Find a task  ( / )", "aria-label": "Find a task",
    value: chosen.text, on: { input: () => { chosen.text = search.value; again(); } },
  });
  const trouble = h("input", {
    type: "checkbox", checked: chosen.trouble,
    on: { change: () => { chosen.trouble = trouble.checked; again(); } },
  });
  const summary = h("span", { class: "muted", role: "status" });
  const body = h("tbody");
  const heads = [
    ["Task", "name"], ["Calls", "calls"], ["Trend", null], ["Errors", "errors"], ["p50", null],
    ["p99", "p99"], ["Pool", "pool"], ["Breaker", null],
  ].map(([name, key]) => head(name, key, again));
  const table = h("table", { class: "tasks" }, h("caption", { class: "aside" }, "Tasks"),
    h("thead", {}, h("tr", {}, heads.map((each) => each.node))), body);
  const empty = h("p", { class: "empty" }, "Nothing is deployed. ",
    h("a", { href: "#/deploy" }, "Deploy a function"), ", or drop a .py file anywhere.");
  const none = h("p", { class: "empty" }, "No task is like that.");
  const pager = pages(update);
  const node = h("section", { class: "panel" },
    h("div", { class: "toolbar" }, search, h("label", { class: "check" }, trouble, "Only trouble"),
      summary, pager.node),
    h("div", { class: "scroll" }, table), none, empty);

  function update() {
    const text = chosen.text.trim().toLowerCase();
    let found = [...store.tasks.keys()].map((name) => ({
      name, live: liveOf(name), pool: poolOf(name), breaker: store.breakers.get(name),
      task: store.tasks.get(name),
    }));
    const known = found.length;
    if (text) found = found.filter((row) => row.name.toLowerCase().includes(text));
    if (chosen.trouble) found = found.filter(isTrouble);
    found.sort(SORTS[chosen.sort]);
    const most = Math.max(1, Math.ceil(found.length / PER_PAGE));
    chosen.page = Math.min(chosen.page, most - 1);
    const from = chosen.page * PER_PAGE;
    keep(body, rows, found.slice(from, from + PER_PAGE), (row) => row.name, taskRow);
    pager.update(chosen.page, most);
    setText(summary, found.length === known ? `${known} task${known === 1 ? "" : "s"}`
      : `${found.length} of ${known}`);
    table.hidden = found.length === 0;
    empty.hidden = known > 0 || !store.known;
    none.hidden = known === 0 || found.length > 0;
    for (const each of heads) each.update();
  }
  return { node, update };
}

function isTrouble({ live, breaker, pool, task }) {
  return live.errors_per_s > 0 || live.refused_per_s > 0 || pool.waiting > 0
    || isHeld(breaker) || task.state === "ERROR";
}

function isHeld(breaker) {
  return Boolean(breaker) && breaker.mode !== "disabled"
    && (breaker.state !== "closed" || breaker.mode === "forced_open");
}

function head(name, key, again) {
  if (!key) return { node: h("th", { scope: "col" }, name), update() {} };
  const button = h("button", {
    type: "button", class: "sort", on: { click: () => { chosen.sort = key; again(); } },
  }, name);
  const node = h("th", { scope: "col" }, button);
  const order = key === "name" ? "ascending" : "descending";
  return {
    node,
    update: () => node.setAttribute("aria-sort", chosen.sort === key ? order : "none"),
  };
}

function pages(update) {
  const turn = (by) => () => { chosen.page += by; update(); };
  const back = h("button", { type: "button", on: { click: turn(-1) } }, "Previous");
  const next = h("button", { type: "button", on: { click: turn(1) } }, "Next");
  const where = h("span", { class: "muted" });
  const node = h("span", { class: "pager" }, back, where, next);
  return {
    node,
    update(page, most) {
      node.hidden = most < 2;
      setText(where, `${page + 1} / ${most}`);
      back.disabled = page === 0;
      next.disabled = page >= most - 1;
    },
  };
}

function taskRow({ name }) {
  const cells = {
    calls: h("td", { class: "number", "data-label": "Calls" }),
    errors: h("td", { class: "number", "data-label": "Errors" }),
    p50: h("td", { class: "number", "data-label": "p50" }),
    p99: h("td", { class: "number", "data-label": "p99" }),
  };
  const called = h("span");
  const refused = h("span", { class: "why warn" });
  cells.calls.append(called, refused);
  const reset = h("button", {
    type: "button", class: "small", "aria-label": `Reset the breaker of ${name}`, hidden: true,
    on: { click: acting(() => setBreaker(name, "reset")) },
  }, "Reset");
  const line = spark();
  const pool = poolBar();
  const why = h("span", { class: "why" });
  const breaker = badge("");
  const version = h("span", { class: "muted" });
  const node = h("tr", {},
    h("th", { scope: "row" }, h("a", { href: taskAddress(name), title: name }, name), " ", version),
    cells.calls, h("td", { class: "sparks" }, line.node), cells.errors, cells.p50, cells.p99,
    h("td", { class: "pools", "data-label": "Pool" }, pool.node, why),
    h("td", { class: "breakers", "data-label": "Breaker" }, breaker.node, " ", reset));
  return {
    node,
    update(row) {
      const { live } = row;
      setText(version, `v${row.task.version}`);
      setText(called, live.calls_per_s ? `${rate(live.calls_per_s)}/s` : "0");
      setText(refused, live.refused_per_s ? `${rate(live.refused_per_s)}/s refused` : "");
      setText(cells.errors, percent(live.errors_per_s, live.calls_per_s));
      cells.errors.classList.toggle("bad", live.errors_per_s > 0);
      setText(cells.p50, milliseconds(live.p50_ms));
      setText(cells.p99, milliseconds(live.p99_ms));
      if (store.series.has(name)) line.update(seriesOf(name).calls);
      pool.update(row.pool);
      setText(why, whyOf(row.pool));
      why.title = whyOf(row.pool);
      breaker.update(breakerWord(row.breaker), breakerTone(row.breaker));
      reset.hidden = !isHeld(row.breaker);
    },
  };
}
