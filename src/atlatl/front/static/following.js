// Follows the service: by events, or by asking again and again where there are none.

import * as api from "./api.js";
import {
  CALM, addPoint, changed, onEvent, refresh, refreshFailures, soon, store,
} from "./store.js";

const POLL_MS = 2000;
const REFRESH_MS = 15000;
const TRY_AGAIN_MS = 30000;
const SILENT_MS = 10000;
const SOONEST_MS = 500;
const LONGEST_MS = 2000;
const KINDS = [
  "figures", "lost", "execution_finished", "execution_died", "breaker_changed", "instance_ended",
  "start_failed", "pool_scaled", "task_deployed", "task_deleted",
];

// --- polling, where there are no events ---

let counts = new Map();
let polledAt = 0;

async function poll() {
  await refresh();
  const now = performance.now();
  const seconds = (now - polledAt) / 1000;
  const before = counts;
  counts = new Map([...store.tasks].map(([name, row]) => [name, row.execution_count]));
  store.total = { ...rates(store.window), ...latencies(store.sinceStart) };
  const active = [...counts].filter(([name, count]) => count > (before.get(name) ?? count));
  store.live = new Map();
  if (polledAt) {
    for (const [name, count] of active) {
      const calls = Math.max(0, count - before.get(name)) / seconds;
      store.live.set(name, { ...CALM, task_name: name, calls_per_s: calls });
    }
    await Promise.all(active.slice(0, 20).map(([name]) => pollTask(name)));
  }
  polledAt = now;
  store.executionsChanged += 1;
  const at = Math.round(Date.now() / 1000);
  addPoint("", at, store.total);
  for (const [name, row] of store.live) addPoint(name, at, row);
  await refreshFailures();
}

async function pollTask(name) {
  const figures = await api.get("api/serverless/metrics", { window: "10s", task: name });
  Object.assign(store.live.get(name), rates(figures.window), latencies(figures.total));
}

function rates(window) {
  const seconds = Math.max(window.duration_seconds, 1);
  return {
    calls_per_s: window.qps, errors_per_s: window.error_count / seconds,
    refused_per_s: window.rejected_count / seconds,
  };
}

/** Since the start: those of a window are told by events alone. */
function latencies({ p50_latency_ms, p99_latency_ms }) {
  return { p50_ms: p50_latency_ms, p99_ms: p99_latency_ms };
}

// --- connected ---

function setMode(mode) {
  if (store.mode === mode) return;
  store.mode = mode;
  store.lostAt = mode === "lost" ? Date.now() : null;
  changed();
}

const sleep = (ms, signal) => new Promise((done) => {
  const timer = setTimeout(done, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); done(); }, { once: true });
});

/** Follows the service until `signal` says to stop: by events, else by polling. */
export async function follow(signal) {
  let wait = SOONEST_MS;
  while (!signal.aborted) {
    try {
      // A stream ends by itself now and then, so that the token is asked for again.
      await followEvents(signal, () => { wait = SOONEST_MS; });
    } catch (error) {
      if (signal.aborted || error.status === 401) return;
      if (refused(error)) {
        await pollFor(TRY_AGAIN_MS, signal);
        continue;
      }
      setMode("lost");
    }
    await sleep(wait, signal);
    wait = Math.min(wait * 2, LONGEST_MS);
  }
}

/** The service is there, and gives no events: something in between, or too many who read them. */
function refused(error) {
  return error instanceof api.Problem && error.code !== "DRAINING"
    && (error.status < 500 || error.status === 501 || error.code === "RESOURCE_EXHAUSTED");
}

async function followEvents(signal, onOpen) {
  const own = new AbortController();
  const stop = () => own.abort();
  signal.addEventListener("abort", stop, { once: true });
  let heard = performance.now();
  // Figures come each second: a long silence is a connection that nobody has told of its end.
  const watch = setInterval(() => {
    if (performance.now() - heard > SILENT_MS) own.abort();
  }, 1000);
  const again = setInterval(() => document.hidden || soon(), REFRESH_MS);
  try {
    await api.events(`api/v1/events?kinds=${KINDS.join(",")}`, own.signal, (kind, event) => {
      heard = performance.now();
      onEvent(kind, event);
    }, () => {
      onOpen();
      heard = performance.now();
      setMode("live");
      refresh().then(refreshFailures).catch(() => {});
    });
  } finally {
    clearInterval(watch);
    clearInterval(again);
    signal.removeEventListener("abort", stop);
  }
}

async function pollFor(ms, signal) {
  const ends = performance.now() + ms;
  while (!signal.aborted && performance.now() < ends) {
    try {
      await poll();
      setMode("polling");
    } catch (error) {
      if (error.status === 401) return;
      setMode("lost");
    }
    changed();
    await sleep(POLL_MS, signal);
  }
}
