// The graph of a session's tree: a list of snapshots with lanes beside it. Only the rows that can be
// seen are in the page, so a thousand snapshots are no more than ten.

import { h, put, s } from "./dom.js";
import { count, nameOf, short, time } from "./format.js";
import { layOut, ROOT } from "./layout.js";

const HEIGHT = 34; // of a row, as in the style sheet
const LANE = 16;
const MOST_LANES = 10; // further ones are drawn on the last
const BESIDE = 8; // rows above and below those that can be seen
const MOST_HEADS = 2; // names of sessions in one row

export class Graph {
  /** chosen: is told which row's id a person has chosen */
  constructor(chosen) {
    this.chosen = chosen;
    this.rows = [];
    this.at = 0;
    this.space = h("div", { class: "graph-rows", role: "presentation" });
    this.node = h("div", {
      class: "graph", role: "listbox", tabindex: 0, "aria-label": "Snapshots, newest first",
      onscroll: () => this.draw(),
      onkeydown: (event) => this.pressed(event),
    }, this.space);
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  /** tree: what was read of it; session: the one that is looked at; chosen: id of a row */
  show(tree, session, chosen) {
    this.session = session;
    this.heads = Map.groupBy(tree.sessions, (one) => one.head || ROOT);
    this.tokens = new Map(tree.snapshots.map((one) => [one.id, one.tokens]));
    this.rows = layOut(tree, session.head);
    const lanes = Math.max(0, ...this.rows.flatMap((row) => [row.lane, ...row.through, ...row.merging]));
    this.width = (Math.min(lanes, MOST_LANES) + 1) * LANE + 8;
    this.space.style.height = `${this.rows.length * HEIGHT}px`;
    this.at = this.rows.findIndex((row) => row.id === chosen);
    this.draw();
  }

  /** Goes to a row, as if it had been chosen. */
  choose(id) {
    const place = this.rows.findIndex((row) => row.id === id);
    if (place >= 0) this.go(place);
  }

  draw() {
    const first = Math.max(0, Math.floor(this.node.scrollTop / HEIGHT) - BESIDE);
    const seen = Math.ceil(this.node.clientHeight / HEIGHT) + 2 * BESIDE;
    const shown = this.rows.slice(first, first + seen).map((row, offset) => this.row(row, first + offset));
    put(this.space, shown);
    const isShown = this.at >= first && this.at < first + shown.length;
    if (isShown) this.node.setAttribute("aria-activedescendant", `row-${this.at}`);
    else this.node.removeAttribute("aria-activedescendant");
  }

  go(place) {
    this.at = Math.min(Math.max(place, 0), this.rows.length - 1);
    const top = this.at * HEIGHT;
    if (top < this.node.scrollTop) this.node.scrollTop = top;
    const lowest = top + HEIGHT - this.node.clientHeight;
    if (lowest > this.node.scrollTop) this.node.scrollTop = lowest;
    this.draw();
    this.chosen(this.rows[this.at].id);
  }

  pressed(event) {
    const page = Math.max(1, Math.floor(this.node.clientHeight / HEIGHT) - 1);
    const places = {
      ArrowDown: this.at + 1, ArrowUp: this.at - 1, PageDown: this.at + page, PageUp: this.at - page,
      Home: 0, End: this.rows.length - 1, Enter: this.at, " ": this.at,
    };
    if (!(event.key in places) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.go(places[event.key]);
  }

  row(row, place) {
    const node = h("div", {
      id: `row-${place}`, role: "option", class: row.mine ? "commit mine" : "commit",
      "aria-selected": String(place === this.at), "aria-posinset": place + 1,
      "aria-setsize": this.rows.length, onclick: () => this.go(place),
    }, this.lanes(row), row.snapshot ? this.told(row.snapshot) : h("span", { class: "what" }, "before the first turn"));
    node.style.transform = `translateY(${place * HEIGHT}px)`;
    const names = this.names(row.id);
    if (names.length) node.insertBefore(h("span", { class: "heads" }, names), node.children[1]);
    return node;
  }

  told(snapshot) {
    const own = snapshot.tokens - (this.tokens.get(snapshot.parent) || 0);
    const labels = Object.entries(snapshot.labels).map(([name, value]) => `${name}=${value}`);
    return [
      h("code", {}, short(snapshot.id)),
      h("span", { class: "what" }, `${own < 0 ? "" : "+"}${count(own)} tokens`),
      labels.length > 0 && h("span", { class: "label" }, labels.join(" ")),
      time(snapshot.created_at),
    ];
  }

  names(id) {
    const here = this.heads.get(id) || [];
    const sorted = here.toSorted((a, b) => (b.id === this.session.id) - (a.id === this.session.id));
    const names = sorted.slice(0, MOST_HEADS).map((one) =>
      one.id === this.session.id
        ? h("span", { class: "head here" }, "head")
        : h("span", { class: "head" }, nameOf(one)),
    );
    const rest = here.length - names.length;
    return rest > 0 ? [...names, h("span", { class: "head" }, `+${rest}`)] : names;
  }

  lanes(row) {
    const x = (lane) => 12 + Math.min(lane, MOST_LANES) * LANE;
    const middle = HEIGHT / 2;
    const line = (d, lane) => s("path", { d, class: `lane lane-${lane % 6}` });
    const own = x(row.lane);
    return s("svg", { width: this.width, height: HEIGHT, "aria-hidden": "true" },
      row.through.map((lane) => line(`M${x(lane)} 0V${HEIGHT}`, lane)),
      row.merging.map((lane) => {
        const from = x(lane);
        return line(`M${from} 0C${from} ${middle} ${from} ${middle} ${own} ${middle}`, lane);
      }),
      row.up && line(`M${own} 0V${middle}`, row.lane),
      row.down && line(`M${own} ${middle}V${HEIGHT}`, row.lane),
      s("circle", {
        cx: own, cy: middle, r: row.snapshot ? 5 : 4,
        class: `dot lane-${row.lane % 6}${row.snapshot ? "" : " root"}`,
      }),
    );
  }
}
