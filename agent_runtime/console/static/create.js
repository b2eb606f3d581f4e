// A new session.

import { post, Problem, randomKey, v1 } from "./api.js";
import { ask } from "./dialogs.js";
import { h } from "./dom.js";
import { address } from "./format.js";

const TOOLS = `[{"name": "weather", "description": "Tells the weather.", "parameters":
  {"type": "object", "properties": {"place": {"type": "string"}}}}]`;

/** Asks what it is to be, makes it and goes there. */
export function create() {
  const name = h("input", { id: "new-name", maxlength: 256 });
  const system = h("textarea", { id: "new-system", rows: 4 });
  const tools = h("textarea", { id: "new-tools", rows: 5, placeholder: TOOLS, spellcheck: "false" });
  const content = [
    h("label", { for: "new-name" }, "Name (its label `name`)"), name,
    h("label", { for: "new-system" }, "System text"), system,
    h("details", {}, h("summary", {}, "Tools"),
      h("label", { for: "new-tools" }, "A JSON list. Their results are given here by hand."), tools),
  ];
  const sent = { text: null, key: null }; // a second try of the same makes no second session
  return ask("New session", content, "Create", async () => {
    const request = { labels: name.value ? { name: name.value } : {}, tools: toolsIn(tools.value) };
    if (system.value) request.system = system.value;
    const text = JSON.stringify(request);
    if (text !== sent.text) Object.assign(sent, { text, key: randomKey() });
    const made = await post(v1("sessions"), request, { headers: { "Idempotency-Key": sent.key } });
    location.hash = address(made.id);
  });
}

function toolsIn(text) {
  try {
    return JSON.parse(text.trim() || "[]");
  } catch (error) {
    throw new Problem({ code: "invalid_request", detail: `The tools are no JSON: ${error.message}` });
  }
}
