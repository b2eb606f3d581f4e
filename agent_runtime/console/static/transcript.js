// What was said in a session: reasoning folded, calls of tools and their results shown.

import { button, h, put } from "./dom.js";
import { count, short, time } from "./format.js";

const LONG = 6000; // characters of one text that are shown at once

const NAMES = { system: "System", user: "User", assistant: "Model", tool: "Tool result", "": "Unknown" };

export class Transcript {
  /** chosen: is told which snapshot a person wants to see; more: reads earlier messages and shows
   * them */
  constructor(chosen, more) {
    this.chosen = chosen;
    this.more = more;
    this.notes = new Map(); // nodes that say how a turn was, by its snapshot
    this.earlier = h("div", { class: "row center" });
    this.list = h("div", { class: "messages" });
    this.last = h("div", {});
    // Told elsewhere: all of it would be read out each time that it is drawn.
    this.node = h("div", {
      class: "transcript", role: "log", "aria-label": "Messages", "aria-live": "off", tabindex: 0,
    }, this.earlier, this.list, this.last);
  }

  /** said: messages as the API gives them, the oldest first; hasEarlier: whether others were said
   * before */
  show(said, hasEarlier) {
    const isFirst = this.said === undefined;
    const wasAtEnd = this.isAtEnd();
    this.said = said;
    this.hasEarlier = hasEarlier;
    this.draw();
    if (wasAtEnd || isFirst) this.toEnd();
  }

  /** The same with earlier messages before those that are shown: what is in sight stays there. */
  showEarlier(said, hasEarlier) {
    const height = this.node.scrollHeight;
    const top = this.node.scrollTop;
    Object.assign(this, { said, hasEarlier });
    this.draw();
    this.node.scrollTop = top + this.node.scrollHeight - height;
  }

  /** Shows what is not in the history, behind it; null for nothing. */
  hold(node) {
    put(this.last, node);
    this.node.classList.toggle("holding", Boolean(node));
    if (node) this.toEnd();
  }

  /** Does what makes the end of it longer, and keeps the end in sight if it was. */
  grow(does) {
    const wasAtEnd = this.isAtEnd();
    does();
    if (wasAtEnd) this.toEnd();
  }

  toEnd() {
    this.node.scrollTop = this.node.scrollHeight;
  }

  /** Has the messages of a snapshot's turn stand out. */
  mark(snapshotId) {
    for (const node of this.list.children) {
      node.classList.toggle("marked", node.dataset.snapshot === snapshotId && snapshotId !== "");
    }
    this.list.querySelector(".marked")?.scrollIntoView({ block: "nearest" });
  }

  draw() {
    put(this.earlier, this.hasEarlier && button("Show earlier messages", this.more));
    const shown = this.said;
    put(this.list, shown.length ? shown.map((one, place) => this.message(one, shown[place + 1])) : h(
      "p", { class: "empty" }, "Nothing was said yet."));
  }

  message(said, next) {
    const node = h("div", { "data-snapshot": said.snapshot },
      bubble({ ...said, content: said.text }, time(said.at)));
    if (next?.snapshot !== said.snapshot) {
      const name = button(short(said.snapshot), () => this.chosen(said.snapshot), {
        class: "link", title: "Show this snapshot in the graph",
      });
      node.append(...[this.notes.get(said.snapshot)].filter(Boolean), h("p", { class: "commit-line" }, "snapshot ", name));
    }
    return node;
  }

  isAtEnd() {
    return this.node.scrollHeight - this.node.scrollTop - this.node.clientHeight < 60;
  }
}

/** One message. */
export function bubble(part, beside = null) {
  const name = NAMES[part.role] ?? part.role;
  const isFolded = part.role === "system" || part.role === "tool";
  return h("article", { class: `message ${part.role in NAMES ? part.role : "other"}`, "aria-label": name },
    h("header", {}, h("b", {}, name), beside),
    part.reasoning && reasoning(textOf(part.reasoning)),
    part.content && (isFolded && part.content.length > 400 ? folded(part.content) : textOf(part.content)),
    (part.tool_calls || []).map(callOf),
  );
}

export function reasoning(content, isOpen = false) {
  return h("details", { class: "reasoning", open: isOpen }, h("summary", {}, "Reasoning"), content);
}

export function callOf(call) {
  return h("div", { class: "call" },
    h("p", {}, "calls ", h("code", {}, call.name)),
    h("pre", {}, JSON.stringify(call.arguments, null, 2)),
  );
}

function folded(text) {
  const first = text.trimStart().slice(0, 120).split("\n")[0];
  return h("details", {}, h("summary", {}, `${first}… (${count(text.length)} characters)`), textOf(text));
}

function textOf(text) {
  const node = h("div", { class: "text" }, text.length > LONG ? text.slice(0, LONG) : text);
  if (text.length <= LONG) return node;
  const all = button(`Show all ${count(text.length)} characters`, () => {
    node.textContent = text;
    all.remove();
  });
  return h("div", {}, node, all);
}
