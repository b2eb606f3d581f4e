// Dialogs, which the browser keeps the focus in. Escape and Cancel change nothing.

import { button, h } from "./dom.js";
import { tried } from "./problems.js";

let opened = 0;

/** Asks before something is done that cannot be undone. */
export function confirm(title, text, verb, does) {
  return ask(title, [h("p", {}, text)], verb, does, { danger: true });
}

/** A dialog with a form; `does` is called when it is sent, and it is closed unless that throws.
 * Resolves with whether it was done. */
export function ask(title, content, verb, does, { danger = false, closable = true } = {}) {
  const place = h("div", {});
  const send = h("button", { type: "submit", class: danger ? "danger" : "primary" }, verb);
  const cancel = closable && button("Cancel", () => dialog.close(), { autofocus: danger });
  opened += 1;
  const id = `dialog-${opened}`;
  const form = h("form", { method: "dialog" },
    h("h2", { id }, title), content, place,
    h("div", { class: "row end" }, cancel, send),
  );
  const dialog = h("dialog", { "aria-labelledby": id }, form);
  return new Promise((resolve) => {
    let isDone = false;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (send.disabled) return;
      send.disabled = true;
      isDone = await tried(place, does);
      send.disabled = false;
      if (isDone) dialog.close();
    });
    dialog.addEventListener("cancel", (event) => closable || event.preventDefault());
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(isDone);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Edits labels; save: gets all of them. */
export function editLabels(title, labels, save) {
  const rows = h("div", { class: "label-rows" });
  const add = (name = "", value = "") => {
    const row = h("div", { class: "row" },
      h("input", { "aria-label": "Name", placeholder: "name", maxlength: 64, value: name }),
      h("input", { "aria-label": "Value", placeholder: "value", maxlength: 256, value }),
      button("Remove", () => row.remove()),
    );
    rows.append(row);
    return row;
  };
  for (const [name, value] of Object.entries(labels)) add(name, value);
  if (!rows.children.length) add();
  const more = button("Add a label", () => add().querySelector("input").focus());
  return ask(title, [rows, more], "Save", () => {
    const given = [...rows.children].map((row) => [...row.querySelectorAll("input")].map((i) => i.value));
    return save(Object.fromEntries(given.filter(([name]) => name)));
  });
}

/** Asks for an API key until one is given. */
export function askForKey(isWrong, accept) {
  const field = h("input", { type: "password", id: "key", autocomplete: "off", required: true });
  const text = isWrong
    ? "The key is not valid: it is mistyped, revoked or expired. Give another one."
    : "This service needs an API key. It is kept in this tab only, until the tab is closed.";
  const content = [h("p", { role: isWrong ? "alert" : null }, text), h("label", { for: "key" }, "API key"), field];
  return ask("API key", content, "Use the key", () => accept(field.value.trim()), { closable: false });
}

/** A menu of buttons under a button. */
export function menu(title, ...buttons) {
  const list = h("div", { class: "menu-list" }, buttons);
  const node = h("details", { class: "menu" }, h("summary", {}, title), list);
  const close = () => (node.open = false);
  list.addEventListener("click", close);
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !node.open) return;
    close();
    node.firstElementChild.focus();
  });
  node.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !node.contains(event.relatedTarget)) close();
  });
  return node;
}

