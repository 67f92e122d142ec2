// The dashboard: signs in, shows the page that the address names, and draws at a calm pace.

import * as api from "./api.js";
import { repaint } from "./charts.js";
import { note, setClass, setText } from "./dom.js";
import { follow } from "./following.js";
import { time } from "./format.js";
import { deadPage } from "./pages/dead.js";
import { deployPage, watchDrops } from "./pages/deploy.js";
import { entryPage } from "./pages/entry.js";
import { executionPage } from "./pages/execution.js";
import { executionsPage } from "./pages/executions.js";
import { taskPage } from "./pages/task.js";
import { tasksPage } from "./pages/tasks.js";
import { listen, store } from "./store.js";

const DRAW_MS = 400;
const IDLE_MS = 5000;
const main = document.getElementById("main");
const nav = document.getElementById("nav");
const link = document.getElementById("link");
const leave = document.getElementById("leave");
const dead = document.getElementById("dead");
const lost = document.getElementById("lost");

let page = null;
let following = null;

// --- pages ---

function pageOf(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  const id = rest.length ? decode(rest.join("/")) : "";
  const given = new URLSearchParams(query || "");
  if (name === "tasks" && id) return ["tasks", taskPage(id)];
  if (name === "executions") {
    return ["executions", id ? executionPage(id) : executionsPage(given)];
  }
  if (name === "dead-letters") return ["dead-letters", deadPage()];
  if (name === "deploy") return ["deploy", deployPage(given)];
  return ["tasks", tasksPage()];
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function show(next, name = "") {
  page?.close();
  page = next;
  main.replaceChildren(page.node);
  document.title = `${page.title} · atlatl`;
  for (const each of nav.querySelectorAll("a")) {
    if (each.dataset.page === name) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  draw();
}

function route() {
  api.keepToken();
  const [name, next] = pageOf(location.hash);
  show(next, name);
}

function turn() {
  if (!following) return;
  route();
  window.scrollTo(0, 0);
  // Whoever listens hears where they are.
  main.focus({ preventScroll: true });
}

// --- drawing ---

let drawn = 0;
let timer = null;

function draw() {
  timer = null;
  drawn = performance.now();
  page?.update();
  const words = { live: "live", polling: "polling", lost: "no connection", connecting: "…" };
  setText(link, words[store.mode]);
  setClass(link, `link ${store.mode}`);
  lost.hidden = !following || store.mode !== "lost";
  setText(lost, lost.hidden ? "" : `No connection to the service since ${time(store.lostAt / 1000)}. `
    + "What is shown is of then; it goes on by itself when the service is there again.");
  dead.hidden = !store.deadLetters;
  setText(dead, store.deadLetters || "");
}

function wish() {
  if (timer || document.hidden) return;
  timer = setTimeout(() => requestAnimationFrame(draw), DRAW_MS - Math.min(DRAW_MS, performance.now() - drawn));
}

// --- who is signed in ---

function begin() {
  if (following) return;
  following = new AbortController();
  nav.hidden = leave.hidden = link.hidden = false;
  follow(following.signal);
  route();
}

function end(why) {
  following?.abort();
  following = null;
  api.useToken("");
  nav.hidden = leave.hidden = link.hidden = true;
  show(entryPage(why, enter));
  document.getElementById("token").focus({ preventScroll: true });
}

async function enter(token) {
  api.useToken(token);
  // The page shows all tasks: a token that may do less is told so here, not in every corner.
  try {
    await Promise.all([api.get("api/v1/breakers"), api.get("api/serverless/metrics")]);
  } catch (error) {
    api.useToken("");
    throw error;
  }
  begin();
}

async function start() {
  const code = /^#code=(.+)$/.exec(location.hash);
  const kept = api.tokenOfEntry();
  if (code) {
    // Out of the address before anything else: it stands in no history and on no screen.
    history.replaceState(null, "", "#/");
    try {
      await enter(await api.exchange(code[1]));
    } catch (error) {
      end(error.message);
    }
    return;
  }
  try {
    await enter(kept);
  } catch (error) {
    end(kept || error.status !== 401 ? error.message : "");
  }
}

// --- light and dark ---

const THEMES = ["auto", "light", "dark"];
const theme = document.getElementById("theme");

function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  setText(theme, { auto: "Auto", light: "Light", dark: "Dark" }[name]);
  theme.setAttribute("aria-label", `Colours: ${name}`);
  localStorage.setItem("atlatl-theme", name);
  repaint();
}

theme.addEventListener("click", () => {
  const now = THEMES.indexOf(localStorage.getItem("atlatl-theme") || "auto");
  setTheme(THEMES[(now + 1) % THEMES.length]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

// --- the rest ---

leave.addEventListener("click", async () => {
  await api.remove("api/v1/dashboard/session").catch(() => {});
  end("");
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, textarea, select, dialog");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const field = document.getElementById("find");
  if (!field) return;
  event.preventDefault();
  field.focus();
});

api.signedOut((problem) => end(following
  ? "You are signed out: a sign-in ends with the service that gave it, and after twelve hours."
  : problem.message));
listen(wish);
window.addEventListener("hashchange", turn);
window.addEventListener("atlatl-draw", draw);
document.addEventListener("visibilitychange", () => document.hidden || wish());
// What is said about the past grows older without any event.
setInterval(wish, IDLE_MS);
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name !== "AbortError") note(String(event.reason?.message || event.reason), "bad");
});
setTheme(THEMES.includes(localStorage.getItem("atlatl-theme")) ? localStorage.getItem("atlatl-theme") : "auto");
watchDrops();
start();
