// What a session is, and what can be done with it as a whole.

import { get, post, Problem, put as replace, send, v1 } from "./api.js";
import { confirm, editLabels, menu } from "./dialogs.js";
import { fork } from "./details.js";
import { button, h, put } from "./dom.js";
import { address, bytes, count, labelsOf, nameOf, otherLabels, residencyOf, seconds, short, time } from "./format.js";
import { notice, tried } from "./problems.js";
import { eventsOf } from "./streams.js";

const HOLD = 600; // seconds

export function headOf(page) {
  const { view } = page;
  return [
    h("div", { class: "row" },
      h("h1", {}, nameOf(view)),
      residencyOf(view),
      h("span", { class: `live ${page.isLive ? "on" : "off"}`, role: "status" }, page.isLive ? "live" : "reconnecting…"),
      labelsOf(otherLabels(view))),
    h("p", { class: "quiet facts" },
      h("span", {}, `${count(view.tokens)} tokens`),
      h("span", {}, "head ", view.head
        ? button(short(view.head), () => page.graph.choose(view.head), { class: "link" }) : "none"),
      h("span", {}, "created ", time(view.created_at)),
      view.forked_from && h("span", {}, "forked from ", forkedFrom(page)),
      view.kept_turns > 0 && h("span", { class: "warning" }, `${count(view.kept_turns)} turns wait for the store`),
      page.elsewhere && h("span", { role: "status" },
        `a turn elsewhere: ${page.elsewhere.phase} ${count(page.elsewhere.done)} of ${count(page.elsewhere.total)}`),
      h("code", { class: "id" }, view.id)),
    h("div", { class: "row actions", role: "group", "aria-label": "Commands" }, commands(page)),
  ];
}

function forkedFrom(page) {
  const place = page.view.forked_from;
  if (place.startsWith("ses-")) return h("a", { href: address(place) }, short(place));
  return button(short(place), () => page.graph.choose(place), { class: "link" });
}

function commands(page) {
  const path = (name) => v1("sessions", page.id, name);
  const doing = (does) => () => tried(page.place, does);
  const done = async (text) => {
    notice(text);
    await page.look();
  };
  return [
    button("Fork", doing(() => fork(page))),
    button("Suspend", doing(async () => {
      const told = await post(path("suspend"), { expected_head: page.view.head || "" });
      await done(`Suspended: ${told.durable}, in ${seconds(told.seconds)}.`);
    })),
    button("Resume", doing(() => resume(page))),
    menu("State",
      button("Where is it?", doing(() => where(page))),
      button("Make it durable now", doing(async () => {
        const told = await post(path("persist"));
        if (told.durable) page.durable.set(page.view.head, told.durable);
        await done(`Durable: ${told.durable}${told.reason ? `, but ${told.reason}` : ""}.`);
      })),
      button("Hold on the device", doing(async () => {
        const told = await post(path("hold"), { seconds: HOLD });
        await done(`${told.engine} holds ${count(told.held_tokens)} tokens for ${seconds(told.seconds)}.`);
      })),
      button("Release the hold", doing(async () => {
        const told = await post(path("release"));
        await done(told.was_held ? "Released." : "It was not held.");
      })),
      button("Drop from the device", doing(async () => {
        const told = await post(path("drop"));
        await done(`${count(told.freed_tokens)} tokens of the device were freed.`);
      }))),
    menu("More",
      button("Label the session", () => editLabels("Labels of the session", page.view.labels, async (labels) => {
        await replace(path("labels"), { labels });
        await page.refresh();
      })),
      button("Export as a file", doing(() => exported(page))),
      button("Read anew", doing(() => page.refresh())),
      button("Delete…", () => remove(page), { class: "danger" })),
  ];
}

async function resume(page) {
  const headers = { Accept: "text/event-stream" };
  const answer = await send("POST", v1("sessions", page.id, "resume"), { json: {}, headers });
  const status = h("p", { role: "status" }, "Resuming…");
  put(page.place, status);
  for await (const { name, data } of eventsOf(answer)) {
    if (name === "error") throw new Problem(data);
    if (name === "progress") put(status, `Resuming: ${bytes(data.done)} of ${bytes(data.total)}`);
    if (name === "result") {
      const why = data.reason ? ` ${data.reason}.` : "";
      const told = `Of ${count(data.tokens)} tokens, ${count(data.restorable_tokens)} can be picked up.`;
      put(status, `${told}${why} Read ${bytes(data.bytes_read)} in ${seconds(data.seconds)}.`);
    }
  }
  await page.look();
}

async function where(page) {
  const told = await get(v1("sessions", page.id, "whereabouts"));
  const rows = [
    ["In the store", told.in_store],
    ["Engine", told.engine || "none"],
    ["From the device", `${count(told.device_tokens)} of ${count(told.tokens)} tokens`],
    ["From its host memory", `${count(told.staged_tokens)} tokens`],
    ["From the store or the archive", `${count(told.stored_tokens)} tokens`],
    ["Held", told.held_for === null ? "no" : `for ${seconds(told.held_for)} more`],
    ["Since the engine started", `${count(told.prefilled_tokens)} tokens computed, `
      + `${bytes(told.loaded_bytes)} loaded, ${bytes(told.offloaded_bytes)} stored, ${count(told.failed_loads)} loads failed`],
    told.reason && ["Not asked", told.reason],
  ];
  const close = button("Close", () => put(page.place));
  put(page.place, h("section", { class: "panel", "aria-label": "Where the state is" },
    h("dl", {}, rows.filter(Boolean).map(([name, text]) => [h("dt", {}, name), h("dd", {}, text)])), close));
}

async function exported(page) {
  const answer = await send("GET", v1("sessions", page.id, "export"), {
    headers: { Accept: "application/octet-stream" },
  });
  const url = URL.createObjectURL(await answer.blob());
  h("a", { href: url, download: `${page.id}.torpor` }).click();
  URL.revokeObjectURL(url);
  notice("Exported.");
}

function remove(page) {
  const expected = page.view.head || ""; // as it is shown now, not when that is answered
  const forks = page.tree.sessions.filter((one) => one.id !== page.id).length;
  const isWhole = !page.tree.next;
  const many = !isWhole ? "Other sessions of its tree keep what they reach."
    : forks === 1 ? "The other session of its tree keeps what it reaches."
    : `The ${count(forks)} other sessions of its tree keep what they reach.`;
  const what = `${nameOf(page.view)} (${count(page.view.tokens)} tokens) will be deleted for good.`;
  const text = `${what} ${forks || !isWhole ? many : "Nothing of it is kept."}`;
  return confirm("Delete the session", text, "Delete", async () => {
    const query = new URLSearchParams({ expected_head: expected });
    await send("DELETE", `${v1("sessions", page.id)}?${query}`);
    notice("Deleted.");
    location.hash = "#/";
  });
}
