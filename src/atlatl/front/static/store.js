// What is known of the service now. Events bring it, or polling where there are none (following.js);
// the views only read it, at their own pace.

import * as api from "./api.js";

export const KEPT_S = 300;
/** What is called a rate is the mean of so many seconds: that of one alone flickers. */
export const RECENT_S = 10;
const FAILURES = 40;
const HAPPENINGS = 60;
const SOON_MS = 300;
const LATEST_MS = 2000;

export const CALM = { calls_per_s: 0, errors_per_s: 0, refused_per_s: 0, p50_ms: null, p99_ms: null };

export const store = {
  mode: "connecting", // live, polling, or lost
  lostAt: null,
  known: false, // the tasks have been asked for
  tasks: new Map(),
  pools: new Map(),
  breakers: new Map(),
  live: new Map(),
  series: new Map(),
  total: { ...CALM },
  health: {},
  queued: null,
  executions: null,
  errors: null,
  deadLetters: null,
  failures: [],
  happenings: [],
  window: {},
  sinceStart: {},
  executionsChanged: 0,
};

const listeners = new Set();

export function listen(act) {
  listeners.add(act);
  return () => listeners.delete(act);
}

export function changed() {
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
    points = { at: [], calls: [], errors: [], refused: [], p50: [], p99: [] };
    store.series.set(name, points);
  }
  return points;
}

export function addPoint(name, at, figures) {
  const points = seriesOf(name);
  points.at.push(at);
  points.calls.push(figures.calls_per_s);
  points.errors.push(figures.errors_per_s);
  points.refused.push(figures.refused_per_s ?? 0);
  points.p50.push(figures.p50_ms ?? null);
  points.p99.push(figures.p99_ms ?? null);
  while (points.at.length && points.at[0] < at - KEPT_S) {
    for (const column of Object.values(points)) column.shift();
  }
}

/** The newest seconds of a series as rates; null when nothing was called in them. */
function recent(points) {
  const { at } = points;
  const sums = { calls: 0, errors: 0, refused: 0 };
  const newest = { p50: null, p99: null };
  let n = 0;
  for (let i = at.length - 1; i >= 0 && at[i] > at[at.length - 1] - RECENT_S; i -= 1) {
    n += 1;
    for (const name of Object.keys(sums)) sums[name] += points[name][i];
    for (const name of Object.keys(newest)) newest[name] ??= points[name][i];
  }
  if (!n || !(sums.calls || sums.refused)) return null;
  return {
    calls_per_s: sums.calls / n, errors_per_s: sums.errors / n, refused_per_s: sums.refused / n,
    p50_ms: newest.p50, p99_ms: newest.p99,
  };
}

// --- events ---

function onFigures(event) {
  const at = Math.round(Date.parse(event.at) / 1000);
  const rows = new Map(event.tasks.map((row) => [row.task_name, row]));
  const service = event.service || {};
  const total = sum(event.tasks, service);
  addPoint("", at, total);
  for (const row of event.tasks) addPoint(row.task_name, at, row);
  for (const name of store.series.keys()) {
    if (name && !rows.has(name)) addPoint(name, at, CALM);
  }
  for (const [name, row] of store.live) {
    if (!rows.has(name) && row.in_use !== undefined) rest(name, row);
  }
  // Of another size than it was: the reason is told with the pool.
  if (event.tasks.some((row) => row.in_use + row.idle !== store.pools.get(row.task_name)?.total)) {
    soon(["pools"]);
  }
  store.total = recent(seriesOf("")) || CALM;
  store.live = new Map();
  for (const name of store.series.keys()) {
    const rates = name ? recent(store.series.get(name)) : null;
    if (rates || rows.has(name)) store.live.set(name, { ...rows.get(name), ...(rates || CALM) });
  }
  tellQueue(event.queue);
  store.health = { ...store.health, ...service };
  store.executions = service.executions ?? store.executions;
  store.errors = service.errors ?? store.errors;
  if (total.calls_per_s > 0) store.executionsChanged += 1;
}

/** What is not told of any more has nothing to do: its pool is as it was, and idle. */
function rest(name, row) {
  store.pools.set(name, {
    ...store.pools.get(name), in_use: 0, available: row.in_use + row.idle,
    total: row.in_use + row.idle, starting: row.starting, waiting: 0,
  });
}

function tellQueue(queue) {
  if (!queue) return;
  store.queued = queue.ready + queue.delayed;
  store.deadLetters = queue.dead ?? queue.dead_letters;
}

function sum(rows, service) {
  const calls = rows.reduce((all, row) => all + row.calls_per_s, 0);
  const weighed = (name) => calls
    ? rows.reduce((all, row) => all + (row[name] ?? 0) * row.calls_per_s, 0) / calls
    : null;
  return {
    calls_per_s: service.calls_per_s ?? calls,
    errors_per_s: service.errors_per_s ?? rows.reduce((all, row) => all + row.errors_per_s, 0),
    refused_per_s: service.refused_per_s ?? 0,
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

export function onEvent(kind, event) {
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

/** The newest of each kind that a task has: one that fails all the time hides no other. */
function addFailure(row) {
  const failure = {
    at: row.at, task_name: row.task_name, execution_id: row.execution_id,
    error_code: row.error_code || row.outcome, error_message: row.error_message || "", times: 1,
  };
  const same = store.failures.findIndex((one) => one.task_name === failure.task_name
    && one.error_code === failure.error_code);
  if (same >= 0) failure.times += store.failures.splice(same, 1)[0].times;
  store.failures.unshift(failure);
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
    store.known = true;
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
    store.window = figures.window;
    store.sinceStart = figures.total;
    store.executions = figures.total.request_count;
    store.errors = figures.total.error_count;
    store.health = {
      ...store.health, status: health.status, message: health.message,
      uptime_s: Number(health.details.uptime_seconds),
      instances_memory_bytes: figures.total.memory_used_bytes,
      memory_budget_bytes: figures.total.memory_limit_bytes,
    };
    tellQueue(figures.queue);
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
  const rows = found.flatMap((page) => page.executions)
    .map((row) => ({ ...row, at: row.completed_at || row.queued_at, outcome: row.status }));
  store.failures = [];
  for (const row of rows.sort((a, b) => (a.at < b.at ? -1 : 1))) addFailure(row);
  changed();
}
