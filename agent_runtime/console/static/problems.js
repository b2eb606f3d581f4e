// Says what went wrong, with its code and what to do; and shortly, what went well.

import { Problem } from "./api.js";
import { h, put } from "./dom.js";
import { seconds } from "./format.js";

const SHOWN = 6000; // milliseconds

// What to do here; most details say what to do anywhere.
const TO_DO = {
  unreachable: "Look whether the runtime is up, then try again.",
  broken_off: "Ask again: it is the same request, and is answered once.",
  forbidden: "Use a key of another role: Forget the key, and give that one.",
  head_moved: "Somebody else has gone on with the session. It is shown as it is now; decide again.",
  lease_held: "A turn is running. Wait until it is over, or cancel it.",
  still_running: "It is being answered. Ask again in a moment.",
  not_found: "It may have been deleted. Go back to the list.",
  no_engine: "Start one, torpor engine up; the Fleet page shows those that there are.",
};

/** An alert for an error that was thrown. */
export function alertOf(error) {
  if (!(error instanceof Problem)) throw error; // a flaw of the console's own
  const wait = error.retryAfter === null ? null : `Wait ${seconds(error.retryAfter)} first.`;
  const advice = [TO_DO[error.code], wait].filter(Boolean).join(" ");
  return h(
    "div",
    { role: "alert", class: "problem" },
    h("code", {}, error.code),
    h("p", {}, error.detail),
    advice && h("p", { class: "advice" }, advice),
    error.requestId && h("p", { class: "quiet" }, `Request ${error.requestId}`),
  );
}

/** Does it, and has a place show the problem if there is one; whether there was none. A key that is
 * needed is asked for elsewhere, and what was ended by leaving is nobody's problem. */
export async function tried(place, does) {
  put(place);
  try {
    await does();
    return true;
  } catch (error) {
    if (error.name !== "AbortError" && error.status !== 401) put(place, alertOf(error));
    return false;
  }
}

/** Says for a moment that something was done. */
export function notice(text) {
  const node = h("p", {}, text);
  document.getElementById("notices").append(node);
  setTimeout(() => node.remove(), SHOWN);
}
