// Where a person says something to a session: a message, the results of tools, or what is to become
// of a turn that runs or broke off.

import { button, h, put } from "./dom.js";
import { count, time } from "./format.js";

export class Composer {
  /** does: { send(messages, options), proceed(options), again, dismiss, cancel, resume } */
  constructor(draftName, does) {
    this.does = does;
    this.draftName = draftName;
    this.problem = h("div", {});
    this.body = h("div", {});
    this.options = optionsOf();
    this.results = new Map(); // typed and not sent, by call
    this.node = h("section", { class: "composer", "aria-label": "Say something" }, this.problem, this.body);
    this.text = h("textarea", {
      rows: 3, "aria-label": "Message", placeholder: "Message",
      value: sessionStorage.getItem(draftName) || "",
      oninput: () => sessionStorage.setItem(draftName, this.text.value),
      onkeydown: (event) => this.pressed(event),
    });
  }

  /** mode: { kind: "ready" | "tools" | "running" | "interrupted" | "broken", … } */
  show(mode) {
    const name = JSON.stringify(mode);
    if (name === this.shown) return; // what is being typed stays, and the focus
    this.shown = name;
    const hadFocus = this.node.contains(document.activeElement);
    put(this.body, this[mode.kind](mode));
    if (hadFocus) this.body.querySelector("textarea, button")?.focus();
  }

  /** Has the box hold this, which is kept while the tab is open. */
  write(text) {
    this.text.value = text;
    sessionStorage.setItem(this.draftName, text);
  }

  ready({ canProceed }) {
    return [
      this.text,
      this.options.node,
      h("div", { class: "row end" },
        h("span", { class: "quiet grow" }, "Enter sends, Shift+Enter begins a line."),
        canProceed && button("Go on with the answer", () => this.does.proceed(this.options.read())),
        button("Send", () => this.send(), { class: "primary" })),
    ];
  }

  tools({ calls }) {
    const fields = calls.map((call, number) => {
      const id = `result-${number}`;
      return [
        h("label", { for: id }, `Result of ${call.name}(${JSON.stringify(call.arguments)})`),
        h("textarea", {
          id, rows: 2, value: this.results.get(JSON.stringify([number, call])) || "",
          oninput: (event) => this.results.set(JSON.stringify([number, call]), event.target.value),
        }),
      ];
    });
    const send = () => {
      const messages = fields.map(([, field]) => ({ role: "tool", content: field.value }));
      return this.does.send(messages, this.options.read());
    };
    const many = calls.length === 1 ? "the result of a tool" : `the results of ${count(calls.length)} tools`;
    return [
      h("p", { role: "status" }, `The model waits for ${many}.`),
      fields,
      this.options.node,
      h("div", { class: "row end" }, button("Send the results", send, { class: "primary" })),
    ];
  }

  running({ since }) {
    return h("div", { class: "row" },
      h("span", { class: "grow", role: "status" }, "A turn is running", since && [", begun ", time(since)], "."),
      button("Cancel the turn", this.does.cancel));
  }

  interrupted({ since }) {
    return [
      h("p", { role: "status" }, "A turn was cut short by the end of its runtime, begun ", time(since), "."),
      h("div", { class: "row end" },
        button("Let it go", this.does.cancel),
        button("Run it again", this.does.resume, { class: "primary" })),
    ];
  }

  broken() {
    return h("div", { class: "row end" },
      h("span", { class: "grow" }, "This message was sent, and its answer has not come."),
      button("Take it back into the box", this.does.dismiss),
      button("Ask again", this.does.again, { class: "primary" }));
  }

  pressed(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.send();
  }

  send() {
    const content = this.text.value.trim();
    return content ? this.does.send([{ role: "user", content }], this.options.read()) : null;
  }
}

function optionsOf() {
  const tokens = h("input", {
    type: "number", min: 1, max: 65536, placeholder: "the session's", id: "most-tokens",
  });
  const temperature = h("input", {
    type: "number", min: 0, max: 2, step: 0.1, placeholder: "the session's", id: "temperature",
  });
  const durability = h("select", { id: "durability" },
    h("option", {}, "memory"), h("option", {}, "fsync"), h("option", {}, "replicated:1"));
  const node = h("details", { class: "options" }, h("summary", {}, "Options of the turn"),
    h("div", { class: "fields" },
      h("label", { for: "most-tokens" }, "Most tokens"), tokens,
      h("label", { for: "temperature" }, "Temperature"), temperature,
      h("label", { for: "durability" }, "Durability"), durability));
  const read = () => ({
    durability: durability.value,
    ...(tokens.value && { max_tokens: Number(tokens.value), fit: true }),
    ...(temperature.value && { temperature: Number(temperature.value) }),
  });
  return { node, read };
}
