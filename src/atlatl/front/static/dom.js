// Elements out of data. Texts become text nodes, never markup: nothing here can make HTML of them.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "selected", "open", "required"]);

/** An element: `h("a", {href, class, on: {click}}, "text", child, [more])`; null is left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for drawings. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name === "on") {
      for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    } else if (PROPERTIES.has(name)) node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  add(node, children);
  return node;
}

function add(node, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) add(node, child);
    else node.append(child);
  }
}

/** Gives an element other children. */
export function put(node, ...children) {
  node.replaceChildren();
  add(node, children);
  return node;
}

/** Sets a text, and touches nothing when it is that already. */
export function setText(node, text) {
  const wanted = String(text);
  if (node.textContent !== wanted) node.textContent = wanted;
}

export function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

/** Keeps a row for each item, by key, in the order of the items; rows that stay are not remade. */
export function keep(parent, rows, items, key, make) {
  const wanted = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    wanted.add(name);
    let row = rows.get(name);
    if (!row) rows.set(name, (row = make(item)));
    row.update(item);
    if (row.node === place) place = place.nextElementSibling;
    else parent.insertBefore(row.node, place);
  }
  for (const [name, row] of rows) {
    if (!wanted.has(name)) {
      row.node.remove();
      rows.delete(name);
    }
  }
}

const notes = document.getElementById("notes");

/** Says something for a while, aloud to who listens to the page. */
export function note(text, kind = "") {
  const node = h("p", { class: `note ${kind}` }, text);
  notes.append(node);
  while (notes.children.length > 4) notes.firstElementChild.remove();
  setTimeout(() => node.remove(), kind === "bad" ? 12000 : 5000);
}

/** Asks before something is done; true when it shall be. Gives the form's ticked boxes too. */
export function ask({ title, text, verb, options = [] }) {
  return new Promise((answer) => {
    const boxes = options.map(({ name, label }) => ({
      name,
      input: h("input", { type: "checkbox" }),
      label,
    }));
    const agree = h("button", { type: "submit", class: "danger", value: "yes" }, verb);
    const dialog = h(
      "dialog",
      { "aria-labelledby": "ask-title" },
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: "ask-title" }, title),
        h("p", {}, text),
        boxes.map(({ input, label }) => h("label", { class: "check" }, input, label)),
        h(
          "div",
          { class: "actions" },
          h("button", { type: "submit", value: "no", autofocus: true }, "Keep it"),
          agree,
        ),
      ),
    );
    dialog.addEventListener("close", () => {
      const ticked = Object.fromEntries(boxes.map(({ name, input }) => [name, input.checked]));
      answer(dialog.returnValue === "yes" ? ticked : null);
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Does something for a button: it is off meanwhile, and a failure is said. */
export function acting(work) {
  return async (event) => {
    const button = event.currentTarget;
    button.disabled = true;
    try {
      await work(event);
    } catch (error) {
      note(error.message, "bad");
    } finally {
      button.disabled = false;
    }
  };
}
