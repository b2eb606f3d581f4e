// Builds the page. Text becomes text nodes and nothing else: what sessions say is not to be trusted.

const SVG = "http://www.w3.org/2000/svg";

/** An element. Properties named on… are listeners, `value` is set as such, others are attributes;
 * children are nodes and texts, in lists or not, and null for none. */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** The same of SVG. */
export function s(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

/** Puts children in the place of those that a node has. */
export function put(node, ...children) {
  node.replaceChildren(...present(children));
}

/** The same, with the focus on what had it: the control that reads the same. */
export function redraw(node, ...children) {
  const had = node.contains(document.activeElement) ? document.activeElement.textContent : null;
  put(node, ...children);
  if (had === null) return;
  [...node.querySelectorAll("a, button, summary")].find((one) => one.textContent === had)?.focus();
}

/** A button that is busy until what it does is done, so that it is done once. */
export function button(text, does, properties = {}) {
  const node = h("button", { type: "button", ...properties }, text);
  node.addEventListener("click", async (event) => {
    if (node.getAttribute("aria-disabled") === "true") return;
    node.setAttribute("aria-disabled", "true");
    try {
      await does(event);
    } finally {
      node.removeAttribute("aria-disabled");
    }
  });
  return node;
}

function filled(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...present(children));
  return node;
}

function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}
