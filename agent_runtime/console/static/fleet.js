// The engines that this runtime schedules on: slots, queues, hit rates.

import { get, v1 } from "./api.js";
import { button, h, put } from "./dom.js";
import { count, percent } from "./format.js";
import { tried } from "./problems.js";

const EVERY = 5000; // milliseconds between looks, while somebody looks

export async function showFleet(root, signal) {
  document.title = "Fleet · Torpor";
  const ready = h("div", {});
  const place = h("div", {});
  const engines = h("div", { class: "engines" });
  const read = async () => {
    put(ready, await readiness(signal));
    await tried(place, async () => {
      const slots = await get(v1("scheduling"), { signal });
      put(engines, slots.length ? slots.map(engineOf) : h("p", { class: "empty" },
        "This runtime has scheduled no turn on an engine yet."));
    });
  };
  put(root,
    h("div", { class: "row" }, h("h1", { class: "grow" }, "Fleet"), button("Read anew", read)),
    ready, place, engines);
  await tried(ready, read);
  const timer = setInterval(() => document.hidden || tried(ready, read), EVERY);
  signal.addEventListener("abort", () => clearInterval(timer));
}

async function readiness(signal) {
  const state = (kind, text) => h("p", { class: `state ${kind}`, role: "status" }, text);
  let told;
  try {
    // 503 is an answer here, not a problem.
    const answer = await fetch("ready", { signal, cache: "no-store", credentials: "omit" });
    told = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return state("bad", "The service does not answer.");
  }
  const engines = told.engines === 1 ? "1 engine" : `${count(told.engines)} engines`;
  if (!told.ready) return state("bad", `Not ready: ${told.reason} (${engines})`);
  const { backend } = await get("health", { signal });
  const besides = backend ? `, and the backend ${backend} for sessions without state` : "";
  return state("good", `Ready: ${engines} registered in the store${besides}.`);
}

function engineOf(slots) {
  const waiting = Object.entries(slots.waiting);
  const all = waiting.reduce((sum, [, number]) => sum + number, 0);
  const starts = Object.entries(slots.starts).map(([from, number]) => `${from} ${count(number)}`).join(", ");
  const rows = [
    ["Slots", used(slots.running, slots.slots)],
    ["States", used(slots.used_states, slots.state_slots)],
    ["Tokens of KV", used(slots.used_tokens, slots.kv_slots)],
    ["Waiting turns", all ? waiting.map(([tenant, number]) => `${tenant} ${count(number)}`).join(", ") : "none"],
    ["Idle sessions", `${count(slots.resident)} on the device, ${count(slots.away)} away and expected back`],
    ["Token hit rate", percent(slots.token_hit_rate)],
    ["Turns", `${count(slots.turns)}, ${count(slots.reprefilled)} computed their history again`],
    ["Begun from", starts || "none"],
    ["Moved by the scheduler", `${count(slots.suspended)} suspended, ${count(slots.prefetched)} fetched before their turn`],
    ["Refused (429)", count(slots.refused)],
  ];
  return h("section", { class: "panel", "aria-label": slots.engine },
    h("h2", {}, slots.engine, " ", h("span", { class: "label" }, `policy ${slots.policy}`)),
    h("dl", {}, rows.map(([name, told]) => [h("dt", {}, name), h("dd", {}, told)])));
}

function used(number, most) {
  return [
    h("meter", { min: 0, max: Math.max(most, 1), value: number, "aria-hidden": "true" }),
    ` ${count(number)} of ${count(most)}`,
  ];
}
