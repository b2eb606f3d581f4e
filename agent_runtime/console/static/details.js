// What a snapshot is, and what can be done with it.

import { get, post, put as send, randomKey, v1 } from "./api.js";
import { confirm, editLabels } from "./dialogs.js";
import { button, h, put } from "./dom.js";
import { address, count, labelsOf, nameOf, percent, short, time } from "./format.js";
import { historyOf, ROOT } from "./layout.js";
import { notice, tried } from "./problems.js";

/** The details of one row of the graph.
 *
 * page: the session's, with `view`, `tree` and `durable` (by snapshot, as far as it was told) */
export function detailsOf(page, id) {
  const snapshot = page.tree.snapshots.find((one) => one.id === id) || null;
  const place = h("div", {});
  const result = h("div", { class: "compared" });
  const heads = page.tree.sessions.filter((one) => (one.head || ROOT) === id);
  return h("section", { class: "details", "aria-label": "The snapshot that is chosen" },
    h("h3", {}, snapshot ? ["Snapshot ", h("code", {}, short(id))] : "Before the first turn"),
    snapshot && facts(page, snapshot),
    heads.length > 0 && h("p", {}, "Head of ", heads.map((one, number) => [
      number > 0 && ", ",
      one.id === page.view.id ? "this session" : h("a", { href: address(one.id) }, nameOf(one)),
    ])),
    h("div", { class: "row" }, actions(page, snapshot, place, result)),
    place, result,
  );
}

/** Forks the session, at the head that is shown if no place is given, and goes to the fork. */
export async function fork(page, where = { expected_head: page.view.head || "" }) {
  const made = await post(v1("sessions", page.view.id, "fork"), where, {
    headers: { "Idempotency-Key": randomKey() },
  });
  const again = made.recompute_tokens ? `; ${count(made.recompute_tokens)} tokens to compute again` : "";
  notice(`Forked: ${short(made.id)}${again}. Nothing was copied.`);
  location.hash = address(made.id);
}

function facts(page, snapshot) {
  const parent = page.tree.snapshots.find((one) => one.id === snapshot.parent) || null;
  const shared = parent ? parent.tokens : 0;
  const durable = page.durable.get(snapshot.id);
  const kept = snapshot.boundaries.length ? snapshot.boundaries.map(count).join(", ") : "none of its own";
  const rows = [
    ["Tokens", `${count(snapshot.tokens)}, of which ${count(snapshot.tokens - shared)} are its own`],
    ["Shares with its parent", parent
      ? [`${count(shared)} tokens (${percent(shared / Math.max(snapshot.tokens, 1))}) with `,
        button(short(parent.id), () => page.graph.choose(parent.id), { class: "link" })]
      : "nothing, it is the first"],
    ["Generation began at", snapshot.prompt_tokens === null ? "none, it ends a fork inside a turn"
      : `${count(snapshot.prompt_tokens)} tokens`],
    page.view.residency !== "none" && ["Pages and state reach", `${count(snapshot.boundary)} tokens`],
    page.view.residency !== "none" && ["States kept at", kept],
    ["Durability", durable || "told when it was committed, and not to this page"],
    ["Committed", time(snapshot.created_at)],
    snapshot.workspace && ["Workspace", h("code", {}, snapshot.workspace.slice(0, 12))],
    Object.keys(snapshot.labels).length > 0 && ["Labels", labelsOf(snapshot.labels)],
    ["Id", h("code", { class: "id" }, snapshot.id)],
  ];
  return h("dl", {}, rows.filter(Boolean).map(([name, told]) => [h("dt", {}, name), h("dd", {}, told)]));
}

function actions(page, snapshot, place, result) {
  const id = snapshot ? snapshot.id : ROOT;
  const isHead = id === (page.view.head || ROOT);
  const isBefore = historyOf(page.tree, page.view.head).has(id) && !isHead;
  const where = snapshot ? { snapshot: id } : { tokens: 0 };
  const canFork = snapshot || isHead || page.view.residency !== "none"; // it has no tokens to count
  return [
    canFork && button("Fork from here", () => tried(place, () => fork(page, isHead ? undefined : where))),
    isBefore && button("Rewind to here", () => rewind(page, snapshot)),
    snapshot && !isHead && button("Compare with the head", () => tried(place, () => compare(page, id, result))),
    snapshot && button("Label it", () => editLabels("Labels of the snapshot", snapshot.labels, async (labels) => {
      await send(v1("snapshots", id, "labels"), { labels });
      await page.refresh();
    })),
  ];
}

function rewind(page, snapshot) {
  const expected = page.view.head || ""; // as it is shown now, not when that is answered
  const where = snapshot ? `snapshot ${short(snapshot.id)} (${count(snapshot.tokens)} tokens)` : "before the first turn";
  const text = `The head goes back to ${where}. What comes after it is let go, unless a fork has it.`;
  return confirm("Rewind the session", text, "Rewind", async () => {
    const request = { snapshot: snapshot ? snapshot.id : ROOT, expected_head: expected };
    await post(v1("sessions", page.view.id, "rewind"), request);
    notice("Rewound.");
    await page.refresh();
  });
}

async function compare(page, id, result) {
  const query = new URLSearchParams({ other: id });
  const diff = await get(`${v1("sessions", page.view.id, "diff")}?${query}`);
  const differ = diff.first_difference === null
    ? "One goes on where the other ends."
    : `The first token that differs is number ${count(diff.first_difference)}.`;
  const unit = page.view.residency === "none" ? "words of their logs" : "tokens";
  put(result, h("p", { role: "status" },
    `They share ${count(diff.common_tokens)} ${unit}. The head has ${count(diff.left_tokens)} in `
    + `${count(diff.left.length)} snapshots of its own, this one ${count(diff.right_tokens)} in `
    + `${count(diff.right.length)}. ${differ}`,
  ));
}
