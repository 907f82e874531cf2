// The few helpers with which the page makes nodes. Text goes in as text only: nothing here, or anywhere, parses markup.

export const byId = (id) => document.getElementById(id);

// A node: `make("p", { className: "note", role: "alert" }, "text", child)`. Keys that are properties are set as such,
// others as attributes; `onclick` and its like are listeners. Children that are null or false are left out.
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

// One of the drawings at the end of index.html; decoration, so screen readers pass over it.
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

// A button that shows a drawing and says what it does.
export function tool(name, label, onclick, extra = {}) {
  return make("button", { type: "button", className: "tool", title: label, "aria-label": label, onclick, ...extra }, icon(name));
}

// What screen readers are told, once and politely. The same words twice must be read twice, so they are taken away first.
export function announce(words) {
  const status = byId("status");
  status.textContent = "";
  setTimeout(() => (status.textContent = words), 60);
}

// Copies text; where the page came without TLS, browsers offer only the old way.
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
