// One turn: what is sent, and its answer as it comes.

import { Problem, send, v1 } from "./api.js";
import { h, put } from "./dom.js";
import { bytes, count, seconds } from "./format.js";
import { eventsOf } from "./streams.js";
import { callOf, reasoning } from "./transcript.js";

const PHASES = { load: "Loading state", prefill: "Computing the prompt", commit: "Storing" };

export class Exchange {
  /** request: of the turn; key: of idempotency, so that it is answered once however often it is sent;
   * transcript: where it is shown */
  constructor(sessionId, request, key, transcript) {
    this.sessionId = sessionId;
    this.request = request;
    this.key = key;
    this.transcript = transcript;
    this.status = h("p", { class: "progress", role: "status" }, "Sent…");
    this.body = h("div", {});
    this.node = h("div", { class: "running" },
      h("article", { class: "message assistant", "aria-label": "Model", "aria-busy": "true" },
        h("header", {}, h("b", {}, "Model")), this.body, this.status));
  }

  /** The result. Throws Problem, `broken_off` if the stream ended before it. */
  async run() {
    return this.read("turns", { json: this.request, headers: { "Idempotency-Key": this.key } });
  }

  /** The same for a turn whose runtime died. */
  async resume() {
    return this.read("turns/resume", { json: undefined });
  }

  async read(path, options) {
    const headers = { ...options.headers, Accept: "text/event-stream" };
    const url = `${v1("sessions", this.sessionId)}/${path}`;
    let begun = false;
    try {
      const answer = await send("POST", url, { ...options, headers });
      begun = true;
      for await (const { name, data } of eventsOf(answer)) {
        if (name === "error") throw new Problem(data);
        if (name === "result") return data;
        this.transcript.grow(() => this.told(name, data));
      }
      throw brokenOff();
    } catch (error) {
      throw begun && error.code === "unreachable" ? brokenOff() : error;
    }
  }

  /** Nothing more comes. */
  end() {
    this.node.classList.remove("running");
    this.node.firstElementChild.removeAttribute("aria-busy");
    put(this.status, "It has not come to its end.");
  }

  told(name, data) {
    if (name === "progress") {
      const amount = data.phase === "load" ? [bytes(data.done), bytes(data.total)] : [count(data.done), count(data.total)];
      put(this.status, `${PHASES[data.phase] || data.phase}: ${amount.join(" of ")} `,
        h("progress", { max: Math.max(data.total, 1), value: data.done, "aria-label": "Progress" }));
      return;
    }
    put(this.status, name === "reasoning" ? "Thinking…" : "Answering…");
    if (name === "text") this.piece("text", data.text);
    if (name === "reasoning") this.piece("reasoning", data.text);
    if (name === "tool_call") {
      this.open = null;
      this.body.append(callOf(data));
    }
  }

  piece(kind, text) {
    if (this.open?.kind !== kind) {
      const content = document.createTextNode("");
      const block = h("div", { class: "text" }, content);
      this.body.append(kind === "text" ? block : reasoning(block, true));
      this.open = { kind, content };
    }
    this.open.content.appendData(text);
  }
}

/** What is to be known of a turn that has ended. */
export function noteOf(result) {
  const usage = result.usage;
  const parts = [
    `${count(usage.prompt_tokens)} prompt tokens, ${count(usage.reused_tokens)} reused`,
    usage.recomputed_tokens > 0 && `${count(usage.recomputed_tokens)} computed again: ${usage.recompute_reason}`,
    `${count(usage.completion_tokens)} generated`,
    usage.reasoning_tokens > 0 && `${count(usage.reasoning_tokens)} of them reasoning`,
    result.mtp_accept_length !== null && `acceptance length ${result.mtp_accept_length.toFixed(2)}`,
    result.timing && `first token after ${seconds(result.timing.ttft_s)}`,
    result.durable ? `durable: ${result.durable}` : "not durable",
    result.replayed && "answered before, told again",
  ];
  const wrong = [
    result.not_durable_because,
    result.kept && "The store is gone: the turn is kept in the runtime's memory.",
    result.failed_over,
    result.finish_reason !== "stop" && `It ended because of: ${result.finish_reason}.`,
    ...result.problems,
  ];
  return h("div", { class: "usage" },
    h("p", {}, parts.filter(Boolean).join(" · ")),
    wrong.filter(Boolean).map((text) => h("p", { class: "warning" }, text)),
  );
}

function brokenOff() {
  return new Problem({
    code: "broken_off",
    detail: "The connection ended before the answer was whole. Your message is kept here; what was "
      + "committed is kept in the store, and the answer too if it was.",
  });
}
