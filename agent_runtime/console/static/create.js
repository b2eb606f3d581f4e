// A new session.

import { post, randomKey, v1 } from "./api.js";
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
  const flaw = h("p", { class: "warning", role: "status" });
  const content = [
    h("label", { for: "new-name" }, "Name (its label `name`)"), name,
    h("label", { for: "new-system" }, "System text"), system,
    h("details", {}, h("summary", {}, "Tools"),
      h("label", { for: "new-tools" }, "A JSON list. Their results are given here by hand."), tools),
    flaw,
  ];
  const key = randomKey(); // a second try makes no second session
  return ask("New session", content, "Create", async () => {
    const request = { labels: name.value ? { name: name.value } : {}, tools: toolsIn(tools.value, flaw) };
    if (system.value) request.system = system.value;
    const made = await post(v1("sessions"), request, { headers: { "Idempotency-Key": key } });
    location.hash = address(made.id);
  });
}

function toolsIn(text, flaw) {
  flaw.textContent = "";
  if (!text.trim()) return [];
  try {
    return JSON.parse(text);
  } catch (error) {
    flaw.textContent = `The tools are no JSON: ${error.message}`;
    throw new DOMException("told above", "AbortError");
  }
}
