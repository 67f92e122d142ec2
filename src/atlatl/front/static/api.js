// Speaks to the service. The token lives in this module and in the state of the history's entry:
// that outlasts a reload, and no other page of this origin can read it (functions answer here too).

const ROOT = new URL("..", import.meta.url);
let token = "";
let onSignedOut = () => {};

export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `the service answered with status ${status}`);
    this.status = status;
    this.code = document.code || "";
    this.log = document.log || "";
    this.executionId = document.execution_id || null;
  }
}

export function signedOut(act) {
  onSignedOut = act;
}

/** Takes the token of this history entry along to the one that is shown now. */
export function keepToken() {
  history.replaceState(token ? { token } : null, "");
}

export function useToken(text) {
  token = text;
  keepToken();
}

export function tokenOfEntry() {
  return (history.state && history.state.token) || "";
}

export function segment(text) {
  return encodeURIComponent(text);
}

/** A raw answer of the service; the caller looks at its status. */
export function ask(path, { headers = {}, ...options } = {}) {
  const all = token ? { ...headers, Authorization: `Bearer ${token}` } : headers;
  return fetch(new URL(path, ROOT), {
    ...options,
    headers: all,
    credentials: "omit",
    referrerPolicy: "no-referrer",
  });
}

async function problemOf(answer) {
  let document = {};
  try {
    document = await answer.json();
  } catch {
    // A proxy in between, perhaps.
  }
  return new Problem(answer.status, document);
}

async function read(answer) {
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  return refuse(answer);
}

async function refuse(answer) {
  const problem = await problemOf(answer);
  if (answer.status === 401) onSignedOut(problem);
  throw problem;
}

export async function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined);
  const text = new URLSearchParams(given).toString();
  return read(await ask(text ? `${path}?${text}` : path));
}

export async function post(path, body) {
  const json = body === undefined ? {} : {
    body: JSON.stringify(body),
    headers: { "Content-Type": "application/json" },
  };
  return read(await ask(path, { method: "POST", ...json }));
}

export async function remove(path) {
  return read(await ask(path, { method: "DELETE" }));
}

export async function deploy(name, file, settings) {
  const form = new FormData();
  form.append("artifact", file, file.name);
  form.append("settings", JSON.stringify(settings));
  return read(await ask(`api/v1/tasks/${segment(name)}`, { method: "PUT", body: form }));
}

/** Exchanges the code of a one-time address for a token. */
export async function exchange(code) {
  const answer = await ask("api/v1/dashboard/session", {
    method: "POST",
    body: JSON.stringify({ code }),
    headers: { "Content-Type": "application/json" },
  });
  if (!answer.ok) throw await problemOf(answer);
  return (await answer.json()).token;
}

/** Reads server-sent events until they end; `EventSource` could not send the token. */
export async function events(path, signal, onEvent, onOpen) {
  const answer = await ask(path, { signal, headers: { Accept: "text/event-stream" } });
  if (!answer.ok) await refuse(answer);
  onOpen();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) tell(block, onEvent);
  }
}

function tell(block, onEvent) {
  let kind = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("event:")) kind = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  if (!data.length) return;
  try {
    onEvent(kind, JSON.parse(data.join("\n")));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
}
