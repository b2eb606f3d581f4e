// One session: its messages, what may be said next, and its tree; alive by its events.

import { get, page, pages, post, Problem, randomKey, v1 } from "./api.js";
import { headOf } from "./commands.js";
import { Composer } from "./composer.js";
import { detailsOf } from "./details.js";
import { button, h, put, redraw } from "./dom.js";
import { Exchange, noteOf } from "./exchange.js";
import { nameOf } from "./format.js";
import { Graph } from "./graph.js";
import { ROOT } from "./layout.js";
import { alertOf, notice, tried } from "./problems.js";
import { follow } from "./streams.js";
import { bubble, Transcript } from "./transcript.js";

const MESSAGES = 60; // of a page
const ROWS = 500; // snapshots and sessions of a page of the tree

// After these the same request may be sent again, under its key.
const AGAIN = ["still_running", "broken_off", "draining", "overloaded", "rate_limited", "lease_held"];

export class SessionPage {
  constructor(root, id, signal) {
    this.id = id;
    this.root = root;
    this.signal = signal;
    this.durable = new Map(); // what was confirmed, by snapshot
    this.exchange = null; // the turn that runs for this page
    this.isLive = false;
    this.elsewhere = null; // how far a turn of another client is
    this.head = h("header", { class: "session-head" });
    this.place = h("div", {}); // of problems, and of what commands say
    this.transcript = new Transcript((snapshot) => this.graph.choose(snapshot), () => this.saidEarlier());
    this.composer = new Composer(`torpor-draft:${id}`, {
      send: (messages, options) => this.send({ messages, ...options }),
      proceed: (options) => this.send({ proceed: true, ...options }),
      again: () => this.take(this.pending),
      dismiss: () => this.dismiss(),
      cancel: () => this.cancel(),
      resume: () => this.resume(),
    });
    this.graph = new Graph((snapshot) => this.choose(snapshot));
    this.earlier = h("div", { class: "row center" });
    this.details = h("div", {});
  }

  async open() {
    put(this.root, this.place);
    if (!(await tried(this.place, () => this.load()))) return;
    put(this.root, this.head, this.place,
      h("div", { class: "columns" },
        h("section", { class: "conversation", "aria-label": "Conversation" }, this.transcript.node, this.composer.node),
        h("section", { class: "history", "aria-label": "Tree" },
          h("h2", {}, "Tree"), this.graph.node, this.earlier, this.details)));
    this.draw();
    follow(this.id, {
      signal: this.signal,
      told: (event) => this.told(event),
      alive: (isLive) => {
        this.isLive = isLive;
        this.drawHead();
      },
    });
  }

  /** Reads everything anew, and shows it. */
  async refresh() {
    await this.load();
    this.draw();
  }

  /** Reads how the session is, not what was said in it. */
  async look() {
    this.view = await get(v1("sessions", this.id), { signal: this.signal });
    this.drawHead();
    this.drawComposer();
  }

  get pending() {
    return JSON.parse(sessionStorage.getItem(`torpor-turn:${this.id}`));
  }

  set pending(turn) {
    if (turn) sessionStorage.setItem(`torpor-turn:${this.id}`, JSON.stringify(turn));
    else sessionStorage.removeItem(`torpor-turn:${this.id}`);
  }

  /** Reads as many pages as were there, and as were asked for meanwhile. */
  async load() {
    const signal = this.signal;
    this.loads = (this.loads || 0) + 1;
    const load = this.loads;
    const [saidPages, treePages] = [this.saidPages || 1, this.treePages || 1];
    const [view, said, tree] = await Promise.all([
      get(v1("sessions", this.id), { signal }),
      pages(v1("sessions", this.id, "messages"), MESSAGES, saidPages, { signal }),
      pages(v1("sessions", this.id, "tree"), ROWS, treePages, { signal }),
    ]);
    if (load !== this.loads) return; // a later one was begun
    if (this.saidPages > saidPages || this.treePages > treePages) {
      await this.load();
      return;
    }
    this.view = view;
    [this.saidPages, this.treePages] = [said.found.length, tree.found.length];
    this.said = said.found.flat().reverse();
    this.saidNext = said.next;
    this.tree = grown({ snapshots: [], sessions: [] }, tree.found, tree.next);
  }

  saidEarlier() {
    return tried(this.place, async () => {
      const after = this.saidNext;
      const { rows, next } = await page(
        `${v1("sessions", this.id, "messages")}?${after}`, { signal: this.signal });
      if (after !== this.saidNext) return; // shown already, or all was read anew
      this.saidPages += 1;
      this.said = [...rows.toReversed(), ...this.said];
      this.saidNext = next;
      this.transcript.showEarlier(this.said, Boolean(next));
    });
  }

  treeEarlier() {
    return tried(this.place, async () => {
      const after = this.tree.next;
      const { rows, next } = await page(
        `${v1("sessions", this.id, "tree")}?${after}`, { signal: this.signal });
      if (after !== this.tree.next) return; // as above
      this.treePages += 1;
      this.tree = grown(this.tree, [rows], next);
      this.draw();
    });
  }

  draw() {
    document.title = `${nameOf(this.view)} · Torpor`;
    this.transcript.show(this.said, Boolean(this.saidNext));
    const head = this.view.head || ROOT;
    const isThere = this.chosen === ROOT || this.isIn(this.chosen);
    // Who looks at the head goes on with it.
    if (!isThere || this.chosen === this.drawnHead) this.chosen = head;
    this.drawnHead = head;
    this.graph.show(this.tree, this.view, this.chosen);
    redraw(this.earlier, this.tree.next && button("Show earlier snapshots", () => this.treeEarlier()));
    redraw(this.details, detailsOf(this, this.chosen));
    this.drawHead();
    this.drawComposer();
  }

  drawHead() {
    const isOpen = this.head.querySelector("details[open]"); // somebody is choosing there
    if (!isOpen) redraw(this.head, headOf(this));
  }

  drawComposer() {
    if (!this.exchange || this.exchange.isAnswered) this.drawUnanswered();
    this.composer.show(this.mode());
  }

  // What was said and is not in the history: of a turn elsewhere, or of one that broke off here,
  // with as much of its answer as has come.
  drawUnanswered() {
    const said = this.view.turn?.messages || this.pending?.request.messages;
    const held = said && heldOf(this.view, said);
    if (held === this.held) return;
    this.held = held;
    this.transcript.hold(held && h("div", {}, said.map((message) => bubble(message))));
  }

  choose(id) {
    this.chosen = id;
    put(this.details, detailsOf(this, id));
    this.transcript.mark(id);
  }

  mode() {
    const turn = this.view.turn;
    if (this.exchange) return { kind: "running" };
    if (turn?.state === "interrupted") return { kind: "interrupted", since: turn.since };
    if (turn) return { kind: "running", since: turn.since };
    if (this.pending) return { kind: "broken" };
    const last = this.said.at(-1);
    if (last?.role === "assistant" && last.tool_calls.length) return { kind: "tools", calls: last.tool_calls };
    return { kind: "ready", canProceed: this.wasCutOff === this.view.head && this.view.residency !== "none" };
  }

  async send(request) {
    if (request.messages?.[0].role === "user") this.composer.write("");
    await this.take({ request: { ...request, expected_head: this.view.head || ROOT }, key: randomKey() });
  }

  /** Takes a turn. It is kept in this tab until it is answered, or refused for good. */
  async take(turn) {
    this.pending = turn;
    const messages = turn.request.messages || [];
    const exchange = new Exchange(this.id, turn.request, turn.key, this.transcript);
    await this.run(exchange, messages, () => exchange.run());
  }

  async resume() {
    const exchange = new Exchange(this.id, null, null, this.transcript);
    await this.run(exchange, this.view.turn.messages, () => exchange.resume());
  }

  /** Shows a turn while it runs, and what it has added or why it failed. */
  async run(exchange, messages, does) {
    this.exchange = exchange; // until all is shown: what others tell of this turn is no news
    this.held = heldOf(this.view, messages);
    this.transcript.hold(h("div", {}, messages.map((message) => bubble(message)), exchange.node));
    this.drawComposer();
    await tried(this.composer.problem, async () => {
      try {
        const result = await does();
        exchange.isAnswered = true;
        this.pending = null;
        await this.answered(result, messages);
      } catch (error) {
        if (error instanceof Problem && !mayBeAskedAgain(error)) this.dismiss();
        throw error;
      } finally {
        exchange.end();
        this.exchange = null;
        // Whatever became of it, the session is shown as the service has it.
        await this.look().catch(() => this.drawComposer());
      }
    });
  }

  /** Shows what a turn has added to the history. */
  async answered(result, messages) {
    const { snapshot } = result;
    this.durable.set(snapshot, result.durable);
    this.transcript.notes.set(snapshot, noteOf(result));
    document.getElementById("said").textContent = `The model says: ${result.text}`;
    this.chosen = this.drawnHead;
    this.wasCutOff = result.finish_reason === "length" ? snapshot : null;
    const isNext = result.parent === this.said.at(-1)?.snapshot && !result.usage.rewritten_tokens;
    if (!snapshot || !isNext || !messages.length) { // its system text, or a part of an answer
      await this.refresh();
    } else {
      const answer = {
        role: "assistant", content: result.text, reasoning: result.reasoning, tool_calls: result.tool_calls,
      };
      await this.grow(snapshot, [...messages, answer].map(({ content, ...one }) => ({
        ...one, text: content, at: Date.now() / 1000, snapshot,
      })));
    }
  }

  /** Adds a snapshot that was committed, and what its turn said, without reading all anew. */
  async grow(snapshotId, said) {
    const snapshot = await get(v1("snapshots", snapshotId));
    const view = await get(v1("sessions", this.id));
    if (view.head !== snapshotId || this.isIn(snapshotId) || !this.isIn(snapshot.parent)) {
      await this.refresh();
      return;
    }
    this.view = view;
    this.tree.snapshots.push(snapshot);
    const own = this.tree.sessions.find((one) => one.id === this.id);
    if (own) own.head = snapshotId;
    this.said = [...this.said, ...said];
    this.draw();
  }

  isIn(snapshotId) {
    return this.tree.snapshots.some((one) => one.id === snapshotId);
  }

  /** A turn that was refused for good, or is not wanted any more: its message goes back. */
  dismiss() {
    const message = this.pending?.request.messages?.[0];
    this.pending = null;
    if (message?.role === "user" && !this.composer.text.value) this.composer.write(message.content);
    this.drawComposer();
  }

  cancel() {
    return tried(this.composer.problem, async () => {
      const done = await post(v1("sessions", this.id, "cancel"));
      if (!this.exchange) {
        this.dismiss();
        await this.refresh();
      }
      notice(done.committed ? "The turn was too far to be cancelled, and is committed." : "Cancelled. The head is where it was.");
    });
  }

  told({ name, data }) {
    if (name === "turn_committed" && data.durable) this.durable.set(data.snapshot, data.durable);
    if (name === "deleted") {
      put(this.root, h("p", { class: "empty" }, "This session was deleted. ", h("a", { href: "#/" }, "All sessions")));
      return;
    }
    this.elsewhere = name === "progress" && !this.exchange ? data : null;
    if (this.exchange) return; // it looks at the session when it is over
    this.following = (this.following || Promise.resolve())
      .then(() => this.follow(name, data))
      .catch((error) => error.name === "AbortError" || put(this.place, alertOf(error)));
  }

  async follow(name, data) {
    if (this.exchange) return;
    if (name === "session") {
      if (data.head !== this.view.head) await this.refresh();
      this.view = data;
      this.drawHead();
      this.drawComposer();
    } else if (name === "progress") {
      this.drawHead();
    } else if (name === "turn_committed") {
      const isShown = this.isIn(data.snapshot) && this.said.at(-1)?.snapshot === data.snapshot;
      await (isShown ? this.look() : this.refresh());
    } else if (["rewound", "missed"].includes(name)) {
      await this.refresh();
    } else {
      await this.look();
    }
  }
}

/** A tree with further pages of it: parents before their children, and the oldest sessions first. */
function grown(tree, pages, next) {
  const older = (name) => pages.flatMap((one) => one[name]).reverse();
  return {
    snapshots: [...older("snapshots"), ...tree.snapshots],
    sessions: [...older("sessions"), ...tree.sessions],
    next,
  };
}

/** Tells whether other messages are to be shown as unanswered. */
function heldOf(view, messages) {
  return JSON.stringify([view.head, messages.map(({ role, content }) => [role, content])]);
}

function mayBeAskedAgain(problem) {
  return problem.status === 0 || problem.status >= 500 || AGAIN.includes(problem.code);
}
