// What is known of the service now. Events bring it, or polling where there are none; the views
// only read it, at their own pace.

import * as api from "./api.js";

export const KEPT_S = 300;
const FAILURES = 40;
const HAPPENINGS = 60;
const POLL_MS = 2000;
const REFRESH_MS = 15000;
const TRY_AGAIN_MS = 30000;
const SOON_MS = 300;
const LATEST_MS = 2000;
const SILENT_MS = 10000;
const KINDS = [
  "figures", "lost", "execution_finished", "execution_died", "breaker_changed", "instance_ended",
  "start_failed", "pool_scaled", "task_deployed", "task_deleted",
];

const CALM = { calls_per_s: 0, errors_per_s: 0, p50_ms: null, p99_ms: null };

export const store = {
  mode: "connecting", // live, polling, or lost
  tasks: new Map(),
  pools: new Map(),
  breakers: new Map(),
  live: new Map(),
  series: new Map(),
  total: { ...CALM },
  health: {},
  figures: {},
  queue: {},
  deadLetters: null,
  failures: [],
  happenings: [],
  skipped: 0,
  executionsChanged: 0,
};

const listeners = new Set();

export function listen(act) {
  listeners.add(act);
  return () => listeners.delete(act);
}

function changed() {
  for (const act of listeners) act();
}

/** Rates of a task now; zeros when nobody calls it. */
export function liveOf(name) {
  return store.live.get(name) || CALM;
}

/** What its pool is made of now. */
export function poolOf(name) {
  const pool = store.pools.get(name) || {};
  const live = store.live.get(name);
  return {
    ...pool,
    in_use: live?.in_use ?? pool.in_use ?? 0,
    idle: live?.idle ?? pool.available ?? 0,
    starting: live?.starting ?? pool.starting ?? 0,
    waiting: live?.waiting ?? pool.waiting ?? 0,
  };
}

/** One point a second of the last five minutes; `""` is the sum over all tasks. */
export function seriesOf(name) {
  let points = store.series.get(name);
  if (!points) {
    points = { at: [], calls: [], errors: [], p50: [], p99: [] };
    store.series.set(name, points);
  }
  return points;
}

function addPoint(name, at, figures) {
  const points = seriesOf(name);
  points.at.push(at);
  points.calls.push(figures.calls_per_s);
  points.errors.push(figures.errors_per_s);
  points.p50.push(figures.p50_ms ?? null);
  points.p99.push(figures.p99_ms ?? null);
  while (points.at.length && points.at[0] < at - KEPT_S) {
    for (const column of Object.values(points)) column.shift();
  }
}

// --- events ---

function onFigures(event) {
  const at = Math.round(Date.parse(event.at) / 1000);
  store.live = new Map(event.tasks.map((row) => [row.task_name, row]));
  store.total = sum(event.tasks, event.service || {});
  store.skipped = event.skipped || 0;
  if (event.queue) store.queue = event.queue;
  if (event.service) store.health = { ...store.health, ...event.service };
  addPoint("", at, store.total);
  for (const row of event.tasks) addPoint(row.task_name, at, row);
  for (const name of store.series.keys()) {
    if (name && !store.live.has(name)) addPoint(name, at, CALM);
  }
  if (store.total.calls_per_s > 0) store.executionsChanged += 1;
}

function sum(rows, service) {
  const calls = rows.reduce((all, row) => all + row.calls_per_s, 0);
  const weighed = (name) => calls
    ? rows.reduce((all, row) => all + (row[name] ?? 0) * row.calls_per_s, 0) / calls
    : null;
  return {
    calls_per_s: service.calls_per_s ?? calls,
    errors_per_s: service.errors_per_s ?? rows.reduce((all, row) => all + row.errors_per_s, 0),
    p50_ms: service.p50_ms ?? weighed("p50_ms"),
    p99_ms: service.p99_ms
      ?? (calls ? rows.reduce((most, row) => Math.max(most, row.p99_ms ?? 0), 0) : null),
  };
}

const TOUCHED = {
  execution_died: ["figures"], breaker_changed: ["breakers"], instance_ended: ["pools"],
  start_failed: ["pools"], pool_scaled: ["pools"],
};
const FAILED = new Set(["error", "timeout", "crashed"]);

function onEvent(kind, event) {
  if (kind === "figures") onFigures(event);
  else if (kind === "execution_finished") {
    store.executionsChanged += 1;
    if (FAILED.has(event.outcome)) addFailure(event);
  } else if (kind !== "lost") {
    store.happenings.unshift({ ...event, kind });
    store.happenings.length = Math.min(store.happenings.length, HAPPENINGS);
    if (kind === "task_deleted") forget(event.task_name);
    soon(TOUCHED[kind]);
  }
  changed();
}

function addFailure(row) {
  store.failures.unshift({
    at: row.at, task_name: row.task_name, execution_id: row.execution_id,
    error_code: row.error_code || row.outcome, error_message: row.error_message || "",
  });
  store.failures.length = Math.min(store.failures.length, FAILURES);
}

function forget(name) {
  for (const kept of [store.tasks, store.pools, store.breakers, store.live, store.series]) {
    kept.delete(name);
  }
}

// --- asked for ---

async function all(path, member) {
  const rows = [];
  let after = "";
  do {
    const page = await api.get(path, { limit: 1000, start_after: after });
    rows.push(...page[member]);
    after = page.next_start_after || "";
  } while (after);
  return rows;
}

const byName = (rows) => new Map(rows.map((row) => [row.task_name, row]));

const PARTS = {
  async tasks() {
    store.tasks = byName(await all("api/v1/tasks", "tasks"));
    for (const name of store.series.keys()) {
      if (name && !store.tasks.has(name)) forget(name);
    }
  },
  async pools() {
    // The newest version stands last; an older one only drains.
    store.pools = byName((await api.get("api/v1/pools")).pools);
  },
  async breakers() {
    store.breakers = byName((await api.get("api/v1/breakers")).breakers);
  },
  async figures() {
    const [health, figures] = await Promise.all([
      api.get("api/v1/health"),
      api.get("api/serverless/metrics", { window: "10s" }),
    ]);
    const { memory_used_bytes, memory_limit_bytes } = figures.total;
    store.figures = figures;
    store.health = {
      ...store.health, ...health.details, status: health.status, memory_used_bytes,
      memory_limit_bytes,
    };
    store.deadLetters = figures.queue.dead_letters;
  },
};
const ALL = Object.keys(PARTS);

/** Asks for what events do not bring, or only tell of. */
export async function refresh(parts = ALL) {
  const begun = performance.now();
  await Promise.all(parts.map((part) => PARTS[part]()));
  tookMs = performance.now() - begun;
  changed();
}

let tookMs = 0;
let timer = null;
const wanted = new Set();

/**
 * Asks again shortly, once for all who want it. The more there is to ask for the longer this
 * waits, so that a service with many tasks is not busy with its dashboard.
 */
export function soon(parts = ALL) {
  for (const part of parts) wanted.add(part);
  timer ??= setTimeout(async () => {
    const asked = [...wanted];
    wanted.clear();
    await refresh(asked).catch(() => {});
    timer = null;
    if (wanted.size) soon([]);
  }, Math.min(LATEST_MS, Math.max(SOON_MS, 10 * tookMs)));
}

export async function refreshFailures() {
  const found = await Promise.all(
    ["FAILED", "TIMEOUT"].map((status) => api.get("api/v1/executions", { status, limit: 15 })),
  );
  const rows = found.flatMap((page) => page.executions).map((row) => ({
    at: row.completed_at || row.queued_at, task_name: row.task_name,
    execution_id: row.execution_id, error_code: row.error_code || row.status,
    error_message: row.error_message || "",
  }));
  store.failures = rows.sort((a, b) => (a.at < b.at ? 1 : -1)).slice(0, FAILURES);
  changed();
}

// --- polling, where there are no events ---

let counts = new Map();
let polledAt = 0;

async function poll() {
  await refresh();
  const { figures } = store;
  const now = performance.now();
  const seconds = (now - polledAt) / 1000;
  const before = counts;
  counts = new Map([...store.tasks].map(([name, row]) => [name, row.execution_count]));
  const window = figures.window;
  store.total = {
    calls_per_s: window.qps,
    errors_per_s: window.error_count / window.duration_seconds,
    ...latencies(figures.total),
  };
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
  store.queue = figures.queue;
  const at = Math.round(Date.now() / 1000);
  addPoint("", at, store.total);
  for (const [name, row] of store.live) addPoint(name, at, row);
  await refreshFailures();
}

async function pollTask(name) {
  const figures = await api.get("api/serverless/metrics", { window: "10s", task: name });
  Object.assign(store.live.get(name), {
    errors_per_s: figures.window.error_count / figures.window.duration_seconds,
    ...latencies(figures.total),
  });
}

/** Since the start: those of a window are told by events alone. */
function latencies({ p50_latency_ms, p99_latency_ms }) {
  return { p50_ms: p50_latency_ms, p99_ms: p99_latency_ms };
}

// --- connected ---

function setMode(mode) {
  if (store.mode === mode) return;
  store.mode = mode;
  changed();
}

const sleep = (ms, signal) => new Promise((done) => {
  const timer = setTimeout(done, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); done(); }, { once: true });
});

/** Follows the service until `signal` says to stop: by events, else by polling. */
export async function follow(signal) {
  let wait = 500;
  while (!signal.aborted) {
    try {
      await followEvents(signal, () => { wait = 500; });
    } catch (error) {
      if (signal.aborted || error.status === 401) return;
      if (error instanceof api.Problem && [404, 405, 501].includes(error.status)) {
        await pollFor(TRY_AGAIN_MS, signal);
        continue;
      }
    }
    if (signal.aborted) return;
    setMode("lost");
    await sleep(wait, signal);
    wait = Math.min(wait * 2, 10000);
  }
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
