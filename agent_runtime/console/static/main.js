// Which page is shown, by the address behind `#`; and the API key.

import { key } from "./api.js";
import { askForKey } from "./dialogs.js";
import { put } from "./dom.js";
import { showFleet } from "./fleet.js";
import { showSessions } from "./list.js";
import { SessionPage } from "./session.js";

const main = document.getElementById("main");
const forget = document.getElementById("forget");
let leaving = new AbortController();
let isAsking = false;

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, id] = path.split("/");
  for (const link of document.querySelectorAll("nav [data-page]")) {
    if (link.dataset.page === (page || "sessions")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  forget.hidden = !key.get();
  // Each page has a place of its own, so that what comes late of one is not shown in another.
  const root = document.createElement("div");
  root.className = "page";
  put(main, root);
  if (page === "fleet") await showFleet(root, signal);
  else if (page === "sessions" && id) await new SessionPage(root, id, signal).open();
  else await showSessions(root, new URLSearchParams(query), signal);
}

document.addEventListener("torpor-key-needed", async () => {
  if (isAsking) return;
  isAsking = true;
  await askForKey(Boolean(key.get()), key.set);
  isAsking = false;
  show();
});

forget.addEventListener("click", () => {
  key.forget();
  show();
});

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

window.addEventListener("hashchange", async () => {
  await show();
  main.focus({ preventScroll: true }); // so that a screen reader begins at the new page
});

show();
