// Helpers that make nodes. Text is inserted as text only: nothing on this page parses markup.

export const byId = (id) => document.getElementById(id);

// Makes a node: `make("p", { className: "note", role: "alert" }, "text", child)`. Keys that are properties are set as such,
// others as attributes; `onclick` and the like are listeners. Children that are null or false are skipped.
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && !name.startsWith("aria")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// An icon from the end of index.html; decorative, so hidden from screen readers.
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

// An icon button with a label.
export function tool(name, label, onclick, extra = {}) {
  return make("button", { type: "button", className: "tool", title: label, "aria-label": label, onclick, ...extra }, icon(name));
}

// Announces text to screen readers, politely. Clears it first, so that a repeated text is read again.
export function announce(words) {
  const status = byId("status");
  status.textContent = "";
  setTimeout(() => (status.textContent = words), 60);
}

// Copies text; without TLS, browsers offer only the old API.
export async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const helper = make("textarea", { value: text, className: "hidden", tabIndex: -1 });
  const focused = document.activeElement;
  document.body.append(helper);
  helper.select();
  const done = document.execCommand("copy");
  helper.remove();
  focused?.focus();
  if (!done) throw new Error("the browser does not let the page copy");
}
