// Async executions that failed for good: look at them, try again, let them go.

import * as api from "../api.js";
import { acting, ask, h, keep, note, setText } from "../dom.js";
import { ago, count, cut } from "../format.js";
import { executionAddress, taskAddress } from "../parts.js";
import { soon, store } from "../store.js";

const PER_PAGE = 50;

export function deadPage() {
  const rows = new Map();
  const body = h("tbody");
  const table = h("table", { class: "executions" }, h("caption", { class: "aside" }, "Dead letters"),
    h("thead", {}, h("tr", {}, ["Execution", "Task", "Given up", "Attempts", "Cause", "Do"].map(
      (each) => h("th", { scope: "col" }, each)))), body);
  const empty = h("p", { class: "empty" }, "There are no dead letters.");
  const again = h("button", { type: "button", on: { click: acting(redriveAll) } },
    "Try all of these again");
  const more = h("button", { type: "button", on: { click: acting(() => load(true)) } }, "Older ones");
  const node = h("div", { class: "page" },
    h("div", { class: "title" }, h("h1", {}, "Dead letters"), h("span", { class: "actions" }, again)),
    h("section", { class: "panel" }, h("div", { class: "scroll" }, table), empty,
      h("div", { class: "actions" }, more)));
  let letters = [];
  let next = null;
  let known = -1;
  let closed = false;

  function draw() {
    keep(body, rows, letters, (row) => row.execution_id, (row) => letterRow(row, load));
    table.hidden = letters.length === 0;
    empty.hidden = letters.length > 0;
    again.hidden = letters.length < 2;
    more.hidden = !next;
  }

  async function load(older = false) {
    const page = await api.get("api/v1/dead-letters", {
      limit: PER_PAGE, start_after: older === true ? next : "",
    });
    if (closed) return;
    letters = older === true ? [...letters, ...page.dead_letters] : page.dead_letters;
    next = page.next_start_after;
    draw();
  }

  async function redriveAll() {
    const ids = letters.map((row) => row.execution_id);
    const agreed = await ask({
      title: `Try ${ids.length} dead letters again?`,
      text: "Each runs once more under its id, by the current version of its task.",
      verb: "Try them again",
    });
    if (!agreed) return;
    let done = 0;
    for (const id of ids) {
      try {
        await api.post(`api/v1/dead-letters/${api.segment(id)}/redrive`);
        done += 1;
      } catch (error) {
        note(error.message, "bad");
      }
    }
    note(`${done} are tried again`, "ok");
    soon();
    await load();
  }

  draw();
  empty.hidden = true;
  return {
    node,
    title: "Dead letters",
    update() {
      if (known === store.deadLetters) return;
      known = store.deadLetters;
      load().catch((error) => note(error.message, "bad"));
    },
    close() {
      closed = true;
    },
  };
}

function letterRow(letter, load) {
  const base = `api/v1/dead-letters/${api.segment(letter.execution_id)}`;
  const when = h("td", { "data-label": "Given up" });
  const redrive = h("button", {
    type: "button", "aria-label": `Try ${letter.execution_id} again`,
    on: { click: acting(async () => {
      await api.post(`${base}/redrive`);
      note(`${cut(letter.execution_id, 20)} is tried again`, "ok");
      soon();
      await load();
    }) },
  }, "Try again");
  const drop = h("button", {
    type: "button", class: "danger", "aria-label": `Let ${letter.execution_id} go`,
    on: { click: acting(async () => {
      const agreed = await ask({
        title: "Let this dead letter go?",
        text: "It cannot be tried again then. Its record stays.", verb: "Let it go",
      });
      if (!agreed) return;
      await api.remove(base);
      soon();
      await load();
    }) },
  }, "Let go");
  const node = h("tr", {},
    h("th", { scope: "row" }, h("a", { href: executionAddress(letter.execution_id),
      title: letter.execution_id }, cut(letter.execution_id, 20))),
    h("td", { "data-label": "Task" }, h("a", { href: taskAddress(letter.task_name) },
      letter.task_name)),
    when,
    h("td", { class: "number", "data-label": "Attempts" }, count(letter.attempts)),
    h("td", { class: "cause", "data-label": "Cause" }, h("code", {}, letter.error_code || ""), " ",
      cut(letter.error_message, 140)),
    h("td", { class: "do", "data-label": "" }, h("div", { class: "actions" }, redrive, drop)));
  return { node, update: (row) => setText(when, ago(row.died_at)) };
}
