// Server-sent events, read with fetch: EventSource can neither POST nor send a key.

import { Problem, failed, send, v1 } from "./api.js";

const FIRST_WAIT = 500; // milliseconds
const LONGEST_WAIT = 5000;

/** Yields { name, data, id } for each event of an answer. Throws Problem if it breaks off. */
export async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      held += value.replaceAll("\r\n", "\n");
      const blocks = held.split("\n\n");
      held = blocks.pop();
      for (const block of blocks) {
        const event = read(block);
        if (event) yield event;
      }
    }
  } catch (error) {
    throw failed(error);
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Follows a session until `signal` ends that or the session is deleted, over broken connections,
 * and not while nobody looks: browsers open few connections to one service.
 *
 * told: gets each event; alive: whether they come at the moment */
export async function follow(sessionId, { signal, told, alive }) {
  let last = null;
  let wait = FIRST_WAIT;
  while (!signal.aborted) {
    await visible(signal);
    const hidden = new AbortController();
    const hide = () => document.hidden && hidden.abort();
    document.addEventListener("visibilitychange", hide);
    try {
      const headers = { Accept: "text/event-stream" };
      if (last) headers["Last-Event-ID"] = last;
      const either = AbortSignal.any([signal, hidden.signal]);
      const answer = await send("GET", v1("sessions", sessionId, "events"), { headers, signal: either });
      alive(true);
      for await (const event of eventsOf(answer)) {
        wait = FIRST_WAIT;
        last = event.id || last;
        told(event);
        if (event.name === "deleted") return;
      }
    } catch (error) {
      if (!(error instanceof Problem) && error.name !== "AbortError") throw error;
      if ([401, 403, 404].includes(error.status)) return;
    } finally {
      document.removeEventListener("visibilitychange", hide);
    }
    if (signal.aborted) return;
    if (!hidden.signal.aborted) {
      alive(false);
      await pause(wait, signal);
      wait = Math.min(wait * 2, LONGEST_WAIT);
    }
  }
}

function read(block) {
  const event = { name: "message", data: "", id: null };
  let said = false;
  for (const line of block.split("\n")) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === "event") event.name = value;
    if (field === "id") event.id = value;
    if (field === "data") {
      event.data += said ? `\n${value}` : value;
      said = true;
    }
  }
  return said ? { ...event, data: JSON.parse(event.data) } : null;
}

function visible(signal) {
  if (!document.hidden) return null;
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", resolve, { once: true });
    signal.addEventListener("abort", resolve, { once: true });
  });
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
