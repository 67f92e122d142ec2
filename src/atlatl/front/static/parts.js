// Small pieces that several pages show.

import * as api from "./api.js";
import { NONE, ago, cut } from "./format.js";
import { h, note, setClass, setText } from "./dom.js";
import { soon, store } from "./store.js";

export const taskAddress = (name) => `#/tasks/${encodeURIComponent(name)}`;
export const executionAddress = (id) => `#/executions/${encodeURIComponent(id)}`;

const TONES = {
  COMPLETED: "ok", READY: "ok", RUNNING: "busy", BUSY: "busy", PENDING: "calm", FAILED: "bad",
  TIMEOUT: "bad", CANCELLED: "calm", ERROR: "bad", closed: "ok", open: "bad", "half-open": "warn",
  INITIALIZING: "busy",
};

export const toneOf = (word) => TONES[word] || "calm";

/** A word with the colour of its meaning; the word alone says it too. */
export function badge(word, tone = TONES[word] || "calm") {
  const node = h("span", { class: `badge ${tone}` }, word || NONE);
  return {
    node,
    update(next, nextTone = TONES[next] || "calm") {
      setText(node, next || NONE);
      setClass(node, `badge ${nextTone}`);
    },
  };
}

export function breakerWord(breaker) {
  if (!breaker) return NONE;
  if (breaker.mode === "disabled") return "off";
  return breaker.mode === "forced_open" ? "held open" : breaker.state;
}

export function breakerTone(breaker) {
  if (!breaker || breaker.mode === "disabled") return "calm";
  return TONES[breaker.state] || "bad";
}

/** The size of a pool as a bar of in use, idle and starting, with the words. */
export function poolBar() {
  const parts = ["use", "idle", "starting"].map((name) => h("i", { class: name }));
  const words = h("span", { class: "words" });
  const node = h("div", { class: "pool" }, h("span", { class: "strip", "aria-hidden": "true" },
    parts), words);
  return {
    node,
    update(pool) {
      const counts = [pool.in_use, pool.idle, pool.starting];
      const size = counts[0] + counts[1] + counts[2];
      parts.forEach((part, i) => { part.style.flexGrow = String(counts[i]); });
      node.classList.toggle("none", size === 0);
      const told = size === 0 ? "no instance" : [
        `${pool.in_use}/${pool.in_use + pool.idle} busy`,
        pool.starting ? `${pool.starting} starting` : "",
      ].filter(Boolean).join(" · ");
      setText(words, pool.waiting ? `${told} · ${pool.waiting} waiting` : told);
    },
  };
}

/** Why a pool has its size: the last step, or the last decision to take none. */
export function whyOf(pool) {
  if (pool.last_decision) return pool.last_decision;
  return pool.in_use + pool.idle + pool.starting === 0 ? "nobody has called it yet"
    : "started with its deploy; scaling has not looked at it yet";
}

/** The row of a failure: when, whose, what. */
export function failureRow(failure) {
  const when = h("time");
  const times = h("span", { class: "muted" });
  const message = h("span");
  const link = h("a", {},
    h("span", { class: "line" }, h("b", {}, failure.task_name), times, when),
    h("span", { class: "cause" }, h("code", {}, failure.error_code), " ", message));
  return {
    node: h("li", {}, link),
    update(row) {
      link.href = executionAddress(row.execution_id);
      setText(when, ago(row.at));
      setText(times, row.times > 1 ? `${row.times} times` : "");
      setText(message, cut(row.error_message, 160));
    },
  };
}

const TOLD = {
  breaker_changed: (e) => [e.new === "open" ? "bad" : e.new === "closed" ? "ok" : "warn",
    `breaker ${e.old} → ${e.new}`],
  instance_ended: (e) => [e.expected ? "" : "bad", `instance ended: ${e.reason}`],
  start_failed: (e) => ["bad", `instance did not start: ${e.reason}`],
  pool_scaled: (e) => ["", `pool ${e.direction} to ${e.size}: ${e.reason}`],
  task_deployed: (e) => ["ok", `${e.created ? "deployed" : "changed"}, version ${e.version}`],
  task_deleted: () => ["", "deleted"],
  execution_died: (e) => ["bad", `dead letter after ${e.attempts} attempts: ${e.code}`],
};

export function happeningRow(event) {
  const [tone, text] = (TOLD[event.kind] || (() => ["", event.kind]))(event);
  const when = h("time", {}, ago(event.at));
  const node = h("li", { class: tone },
    h("a", { href: event.kind === "task_deleted" ? "#/" : taskAddress(event.task_name) },
      h("span", { class: "line" }, h("b", {}, event.task_name), when),
      h("span", { class: "cause" }, cut(text, 200))));
  return { node, update: (row) => setText(when, ago(row.at)) };
}

/** Names and values, one below the other. */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value]) => h("div", {},
    h("dt", {}, name), h("dd", {}, value ?? NONE))));
}

export async function setBreaker(name, verb) {
  const row = await api.post(`api/v1/breakers/${api.segment(name)}/${verb}`);
  store.breakers.set(name, row);
  soon();
  note(`breaker of ${name}: ${breakerWord(row)}`, "ok");
}
