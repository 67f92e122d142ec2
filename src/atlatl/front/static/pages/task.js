// One task: its figures, its pool and breaker, a form to try it, and its newest executions.

import * as api from "../api.js";
import { chart } from "../charts.js";
import { acting, ask, h, keep, note, put, setText } from "../dom.js";
import { NONE, ago, bytes, count, cut, date, duration, milliseconds, percent, rate } from "../format.js";
import {
  badge, breakerTone, breakerWord, facts, poolBar, setBreaker, whyOf,
} from "../parts.js";
import { liveOf, poolOf, refresh, seriesOf, soon, store } from "../store.js";
import { executionTable } from "./executions.js";
import { tryIt } from "./trying.js";

const LOOK_MS = 3000;

export function taskPage(name) {
  const state = badge("");
  const version = h("span", { class: "muted" });
  const gone = h("p", { class: "empty", hidden: true }, `There is no task ${name}.`);
  const tiles = figures(name);
  const calls = chart({
    title: "Calls per second", show: (v) => rate(v), height: 116,
    lines: [
      { name: "calls", column: "calls", colour: "--series-a", fill: true },
      { name: "errors", column: "errors", colour: "--series-bad", fill: true },
    ],
  });
  const latency = chart({
    title: "Latency", show: (v) => milliseconds(v), height: 116,
    lines: [
      { name: "p50", column: "p50", colour: "--series-b" },
      { name: "p99", column: "p99", colour: "--series-c" },
    ],
  });
  const pool = poolPanel(name);
  const breaker = breakerPanel(name);
  const trial = tryIt(name);
  const about = aboutPanel();
  const executions = executionTable({ task: name, limit: 15 });
  const body = h("div", { class: "stack" },
    tiles.node,
    h("div", { class: "charts" }, calls.node, latency.node),
    h("div", { class: "pair" }, pool.node, breaker.node),
    trial.node,
    h("section", { class: "panel" },
      h("div", { class: "toolbar" }, h("h2", {}, "Newest executions"),
        h("a", { href: `#/executions?task=${encodeURIComponent(name)}` }, "All")),
      executions.node),
    about.node);
  const node = h("div", { class: "page" },
    h("div", { class: "title" }, h("h1", {}, name), state.node, version,
      h("span", { class: "actions" },
        h("a", { class: "button", href: `#/deploy?task=${encodeURIComponent(name)}` }, "Deploy anew"),
        h("button", { type: "button", class: "danger", on: { click: acting(() => erase(name)) } },
          "Delete"))),
    gone, body);
  let shown = 0;

  return {
    node,
    title: name,
    update() {
      const task = store.tasks.get(name);
      gone.hidden = Boolean(task) || !store.known;
      body.hidden = !task;
      if (!task) return;
      state.update(task.state);
      setText(version, `version ${task.version}`);
      tiles.update();
      calls.update(seriesOf(name));
      latency.update(seriesOf(name));
      pool.update();
      breaker.update();
      trial.update(task);
      about.update(task);
      if (shown !== store.executionsChanged) {
        shown = store.executionsChanged;
        executions.refresh();
      }
    },
    close() {
      calls.close();
      latency.close();
      pool.close();
      trial.close();
    },
  };
}

async function erase(name) {
  const options = await ask({
    title: `Delete ${name}?`,
    text: "Its code, its pool and its figures go. Calls of it are answered with 404 from then on.",
    verb: "Delete it",
    options: [
      { name: "force", label: "Cancel executions that are in progress" },
      { name: "cleanup", label: "Forget its executions too" },
    ],
  });
  if (!options) return;
  const query = `force=${options.force}&cleanup_executions=${options.cleanup}`;
  await api.remove(`api/v1/tasks/${api.segment(name)}?${query}`);
  store.tasks.delete(name);
  soon();
  note(`${name} is deleted`, "ok");
  location.hash = "#/";
}

function figures(name) {
  const names = [["calls", "Calls"], ["errors", "Errors"], ["p50", "p50"], ["p99", "p99"],
    ["executions", "Executions"]];
  const values = Object.fromEntries(names.map(([key]) => [key, h("dd", {}, NONE)]));
  const refused = h("dd", { class: "more bad" });
  const node = h("dl", { class: "tiles" }, names.map(([key, label]) => h("div", { class: "tile" },
    h("dt", {}, label), values[key], key === "calls" ? refused : null)));
  return {
    node,
    update() {
      const live = liveOf(name);
      setText(values.calls, `${rate(live.calls_per_s)}/s`);
      setText(refused, live.refused_per_s ? `${rate(live.refused_per_s)}/s refused` : "");
      setText(values.errors, percent(live.errors_per_s, live.calls_per_s));
      values.errors.classList.toggle("bad", live.errors_per_s > 0);
      setText(values.p50, milliseconds(live.p50_ms));
      setText(values.p99, milliseconds(live.p99_ms));
      setText(values.executions, count(store.tasks.get(name)?.execution_count));
    },
  };
}

function poolPanel(name) {
  const bar = poolBar();
  const why = h("p", { class: "reason" });
  const numbers = h("div");
  const rows = new Map();
  const body = h("tbody");
  const table = h("table", { class: "small" }, h("caption", { class: "aside" }, "Instances"),
    h("thead", {}, h("tr", {}, ["Instance", "State", "Uses", "Memory", "Age", "From"].map((each) =>
      h("th", { scope: "col" }, each)))), body);
  const warm = h("button", {
    type: "button",
    on: { click: acting(async () => {
      const wanted = (poolOf(name).total || 0) + 1;
      await api.post(`api/v1/pools/${api.segment(name)}/prewarm?count=${wanted}`);
      soon();
      look();
    }) },
  }, "Warm one more");
  const node = h("section", { class: "panel" },
    h("div", { class: "toolbar" }, h("h2", {}, "Pool"), warm), bar.node, why, numbers,
    h("div", { class: "scroll" }, table));

  async function look() {
    if (document.hidden) return;
    try {
      const [{ instances }] = await Promise.all([
        api.get("api/v1/instances"), refresh(["pools", "breakers"]),
      ]);
      const own = instances.filter((row) => row.task_name === name).slice(0, 12);
      keep(body, rows, own, (row) => row.instance_id, instanceRow);
      table.hidden = own.length === 0;
    } catch {
      // Said by the state of the connection.
    }
  }
  table.hidden = true;
  look();
  const timer = setInterval(look, LOOK_MS);
  let told = "";
  return {
    node,
    update() {
      const pool = poolOf(name);
      bar.update(pool);
      setText(why, `Why this size: ${whyOf(pool)}`);
      const facts_now = [
        ["Mean wait", milliseconds(pool.avg_wait_ms)],
        ["p95 wait", milliseconds(pool.p95_wait_ms)],
        ["Utilisation", percent(pool.utilization ?? 0, 1)],
        ["Grown / shrunk", `${count(pool.scale_up_count)} / ${count(pool.scale_down_count)}`],
        pool.zygote ? ["Zygote", pool.zygote] : null,
      ];
      const text = JSON.stringify(facts_now);
      if (text !== told) put(numbers, facts(facts_now));
      told = text;
    },
    close: () => clearInterval(timer),
  };
}

function instanceRow() {
  const cells = Array.from({ length: 6 }, () => h("td"));
  const state = badge("");
  cells[1].append(state.node);
  return {
    node: h("tr", {}, cells),
    update(row) {
      setText(cells[0], `${cut(row.instance_id, 8)} pid ${row.pid}`);
      cells[0].title = row.instance_id;
      state.update(row.state);
      setText(cells[2], count(row.uses));
      setText(cells[3], row.memory_bytes ? bytes(row.memory_bytes) : NONE);
      setText(cells[4], duration(row.age_s));
      setText(cells[5], row.origin.replace("_", " "));
    },
  };
}

function breakerPanel(name) {
  const state = badge("");
  const words = h("p", { class: "reason" });
  const numbers = h("div");
  const button = (verb, label, kind = "") => h("button", {
    type: "button", class: kind, id: `breaker-${verb}`,
    on: { click: acting(() => setBreaker(name, verb)) },
  }, label);
  const node = h("section", { class: "panel" },
    h("div", { class: "toolbar" }, h("h2", {}, "Circuit breaker"), state.node), words, numbers,
    h("div", { class: "actions" }, button("reset", "Reset", "primary"),
      button("open", "Hold open"), button("disable", "Switch off")));
  let told = "";
  return {
    node,
    update() {
      const row = store.breakers.get(name);
      if (!row) return;
      state.update(breakerWord(row), breakerTone(row));
      setText(words, sentence(row));
      const facts_now = [
        ["Failures", count(row.failure_count)],
        ["Refused", count(row.rejected_count)],
        ["Since", date(row.last_state_change_at)],
        row.last_error ? ["Last error", row.last_error] : null,
        row.last_failure_at ? ["Last failure", ago(row.last_failure_at)] : null,
      ];
      const text = JSON.stringify(facts_now);
      if (text !== told) put(numbers, facts(facts_now));
      told = text;
    },
  };
}

function sentence(row) {
  if (row.mode === "disabled") return "Switched off: it admits every call until it is reset.";
  if (row.mode === "forced_open") return "Held open by hand: calls are refused until it is reset.";
  if (row.state === "open") {
    const next = row.retry_after_s ? `the next probe in ${duration(row.retry_after_s)}`
      : "the next call is let through as a probe";
    return `Calls are refused, because too many failed; ${next}.`;
  }
  if (row.state === "half-open") return "A probe decides whether calls are admitted again.";
  return "Calls are admitted.";
}

function aboutPanel() {
  const place = h("div");
  const settings = h("pre");
  let told = "";
  return {
    node: h("section", { class: "panel" }, h("h2", {}, "About"), place,
      h("details", {}, h("summary", {}, "Settings of its deploy"), settings)),
    update(task) {
      const { artifact } = task;
      const text = JSON.stringify([task.version, artifact, task.settings]);
      if (text === told) return;
      told = text;
      put(place, facts([
        ["Handler", task.handler],
        ["Artifact", `${artifact.filename}, ${bytes(artifact.size_bytes)}`],
        ["SHA-256", artifact.checksum],
        ["Deployed", date(task.updated_at)],
        task.description ? ["Description", task.description] : null,
      ]));
      setText(settings, JSON.stringify(task.settings, null, 2));
    },
  };
}
