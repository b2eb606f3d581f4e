// Numbers, times and ids as people read them.

import { h } from "./dom.js";

const SHORT = 8; // characters of an id

/** What the API says of where the state is, and what that means. */
export const RESIDENCIES = {
  device: "Its state is on an engine's device",
  stored: "Its state is in the store",
  archived: "Its state is in the archive",
  partly: "A part of its state is in the archive",
  lost: "Its state is lost: the next turn computes it again from the tokens",
  tokens: "Shorter than a page: kept as its tokens, and nothing is lost",
  empty: "It has no turn yet",
  none: "Its backend keeps no state",
};

export function count(number) {
  return number.toLocaleString("en");
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit ? number.toFixed(1) : number} ${units[unit]}`;
}

export function seconds(number) {
  return number < 10 ? `${number.toFixed(2)} s` : `${Math.round(number)} s`;
}

export function percent(share) {
  return `${Math.round(share * 100)} %`;
}

/** at: seconds since 1970 */
export function time(at) {
  const date = new Date(at * 1000);
  const properties = { datetime: date.toISOString(), title: date.toLocaleString() };
  return h("time", properties, ago(at, date));
}

/** The part of a session's or snapshot's id that tells it from others of its lineage. */
export function short(id) {
  return id.slice(id.lastIndexOf("-") + 1).slice(0, SHORT);
}

/** What a person calls the session. */
export function nameOf(session) {
  return session.labels[nameLabel(session)] || short(session.id);
}

/** Its labels but that. */
export function otherLabels(session) {
  const { [nameLabel(session)]: _, ...others } = session.labels;
  return others;
}

/** Where its state is, as a mark. */
export function residencyOf(session) {
  const where = session.residency;
  return h("span", { class: `residency ${where}`, title: RESIDENCIES[where] }, where);
}

export function address(sessionId) {
  return `#/sessions/${encodeURIComponent(sessionId)}`;
}

export function labelsOf(labels) {
  return Object.entries(labels).map(([name, value]) =>
    h("span", { class: "label" }, h("b", {}, name), value && `=${value}`),
  );
}

function nameLabel(session) {
  return ["name", "title", "chat"].find((name) => session.labels[name]);
}

function ago(at, date) {
  const past = Date.now() / 1000 - at;
  if (past < 60) return "just now";
  if (past < 3600) return `${Math.floor(past / 60)} min ago`;
  if (past < 86400) return `${Math.floor(past / 3600)} h ago`;
  const year = date.getFullYear() === new Date().getFullYear() ? undefined : "numeric";
  return date.toLocaleDateString("en", { day: "numeric", month: "short", year });
}
