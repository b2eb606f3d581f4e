// Where the snapshots of a tree stand in a graph as git draws it: newest first, a lane per branch.
//
//     lane 0  1
//          ●       head of the session that is looked at; its history is lane 0
//          │  ●    head of a fork
//          │  ●
//          ●──╯    the snapshot that both have
//          ○       before the first turn

export const ROOT = ""; // the place before the first turn

/** Rows from the top. Each is { snapshot (null at the root), id, lane, through: other lanes that
 * pass, merging: lanes that end here from above, up and down: whether its own lane goes on there,
 * mine: whether it is in the history of `head` }. The root is the last one, if all was read.
 *
 * tree: what was read of it, parents before their children; next: whether there is more */
export function layOut(tree, head) {
  const mine = historyOf(tree, head);
  const rows = [];
  const lanes = [{ awaits: head || ROOT, isDrawn: false }];
  for (const snapshot of [...newestFirst(tree.snapshots), ...(tree.next ? [] : [null])]) {
    const id = snapshot ? snapshot.id : ROOT;
    const waiting = [...lanes.keys()].filter((lane) => lanes[lane]?.awaits === id);
    const lane = waiting.length ? waiting[0] : firstFree(lanes);
    const through = [...lanes.keys()].filter(
      (other) => lanes[other]?.isDrawn && lanes[other].awaits !== id,
    );
    const up = Boolean(waiting.length && lanes[lane].isDrawn);
    for (const other of waiting) delete lanes[other];
    if (snapshot) lanes[lane] = { awaits: snapshot.parent || ROOT, isDrawn: true };
    const merging = waiting.slice(1);
    rows.push({ snapshot, id, lane, through, merging, up, down: Boolean(snapshot), mine: mine.has(id) });
  }
  return rows;
}

/** Ids of the head, of what it comes from, and of the root. */
export function historyOf(tree, head) {
  const parents = new Map(tree.snapshots.map((one) => [one.id, one.parent]));
  const found = new Set([ROOT]);
  for (let id = head; id && !found.has(id); id = parents.get(id)) found.add(id);
  return found;
}

// Children always before their parents, whatever the clocks of the runtimes that committed them.
function newestFirst(snapshots) {
  const places = new Map();
  for (const one of snapshots) {
    const parent = places.get(one.parent) || { at: 0, depth: 0 };
    places.set(one.id, { at: Math.max(one.created_at, parent.at), depth: parent.depth + 1 });
  }
  const key = (one) => places.get(one.id);
  return [...snapshots].sort((a, b) => key(b).at - key(a).at || key(b).depth - key(a).depth);
}

function firstFree(lanes) {
  const free = lanes.findIndex((lane) => lane === undefined);
  return free < 0 ? lanes.length : free;
}
