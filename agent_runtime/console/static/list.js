// The sessions, newest first, a page at a time; those with certain labels, or in one residency.

import { page, v1 } from "./api.js";
import { create } from "./create.js";
import { button, h, put } from "./dom.js";
import { address, count, labelsOf, nameOf, otherLabels, RESIDENCIES, residencyOf, short, time } from "./format.js";
import { tried } from "./problems.js";

const LIMIT = 50; // sessions of a page

/** asked: URLSearchParams with `label`s, `residency` and `after`, as the API takes them */
export async function showSessions(root, asked, signal) {
  document.title = "Sessions · Torpor";
  const place = h("div", {});
  const rows = h("tbody", {});
  const pages = h("nav", { class: "row end", "aria-label": "Pages of the list" });
  const read = () => tried(place, async () => {
    const query = new URLSearchParams(asked);
    query.set("limit", LIMIT);
    const found = await page(`${v1("sessions")}?${query}`, { signal });
    put(rows, found.rows.length ? found.rows.map((one) => row(one, asked)) : nothing(asked, found.next));
    put(pages, pagesOf(asked, found.next));
  });
  put(root,
    h("div", { class: "row" }, h("h1", { class: "grow" }, "Sessions"),
      button("Read anew", read), button("New session", create, { class: "primary" })),
    filter(asked), place,
    h("div", { class: "scroll" }, h("table", { class: "list" },
      h("thead", {}, h("tr", {}, ["Session", "Residency", "Tokens", "Head", "Created"].map((name) =>
        h("th", { scope: "col", class: name === "Tokens" ? "number" : null }, name)))),
      rows)),
    pages);
  await read();
}

function row(session, asked) {
  const labels = Object.entries(otherLabels(session)).map(([name, value]) =>
    h("a", { href: only(asked, name, value), title: "Only sessions with this label" }, labelsOf({ [name]: value })));
  return h("tr", {},
    h("th", { scope: "row" },
      h("a", { class: "name", href: address(session.id) }, nameOf(session)),
      session.turn && h("span", { class: "head here" }, session.turn.state), labels),
    h("td", {}, residencyOf(session)),
    h("td", { class: "number" }, count(session.tokens)),
    h("td", {}, session.head ? h("code", {}, short(session.head)) : "none"),
    h("td", {}, time(session.created_at)));
}

function nothing(asked, next) {
  const isFiltered = asked.has("label") || asked.has("residency");
  const text = next ? "None on this page; others follow." : isFiltered ? "No session is like that." : "There are no sessions yet.";
  return h("tr", {}, h("td", { colspan: 5, class: "empty" }, text));
}

function pagesOf(asked, next) {
  const first = new URLSearchParams(asked);
  first.delete("after");
  const following = new URLSearchParams(next || "");
  following.delete("limit");
  return [
    asked.has("after") && h("a", { class: "button", href: `#/?${first}` }, "Newest"),
    next && h("a", { class: "button", href: `#/?${following}` }, "Next page"),
  ];
}

function filter(asked) {
  const label = h("input", { id: "label", placeholder: "NAME=VALUE", "aria-describedby": "label-problem" });
  const problem = h("span", { id: "label-problem", class: "warning", role: "status" });
  const residency = h("select", { id: "residency", onchange: () => go({ residency: residency.value }) },
    h("option", { value: "" }, "any"), Object.keys(RESIDENCIES).map((one) => h("option", {}, one)));
  residency.value = asked.get("residency") || "";
  const go = (change) => (location.hash = `#/?${changed(asked, change)}`);
  const submit = (event) => {
    event.preventDefault();
    const isOne = /^[^=]+=/.test(label.value);
    put(problem, isOne ? null : "Give NAME=VALUE.");
    if (isOne) go({ label: [...asked.getAll("label"), label.value] });
  };
  const given = asked.getAll("label").map((one) => button(`${one} ×`, () =>
    go({ label: asked.getAll("label").filter((other) => other !== one) }), { "aria-label": `Without ${one}` }));
  return h("form", { class: "row filter", role: "search", onsubmit: submit },
    h("label", { for: "label" }, "Label"), label, h("button", { type: "submit" }, "Filter"),
    h("label", { for: "residency" }, "Residency"), residency, given, problem);
}

function only(asked, name, value) {
  const label = `${name}=${value}`;
  const labels = asked.getAll("label");
  return `#/?${changed(asked, { label: labels.includes(label) ? labels : [...labels, label] })}`;
}

// Another filter begins at the newest.
function changed(asked, { label = asked.getAll("label"), residency = asked.get("residency") }) {
  const query = new URLSearchParams(label.map((one) => ["label", one]));
  if (residency) query.set("residency", residency);
  return query;
}
