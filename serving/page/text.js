// Shows a model's text as paragraphs, lists and code. The text is untrusted: all of it becomes text nodes, links and
// pictures stay words, and HTML is shown as it is.

import { make } from "./dom.js";

const ITEM = /^\s*(?:[-*•]|(\d{1,4})[.)])\s+(.*)$/;

// Shows `text` in `box`. Called again with a longer text, it replaces only changed blocks, mostly the last.
export function show(box, text) {
  const blocks = split(text);
  blocks.forEach((block, place) => {
    const old = box.children[place];
    if (old?.source === block.source) return;
    const node = draw(block);
    node.source = block.source;
    if (old) old.replaceWith(node);
    else box.append(node);
  });
  while (box.children.length > blocks.length) box.lastChild.remove();
}

// Blocks of a text: { kind: "p" | "list" | "code", lines, source }. An open fence is code up to the end.
function split(text) {
  const blocks = [];
  let now = null;
  const begin = (kind) => blocks.push((now = { kind, lines: [] }));
  for (const line of text.replaceAll("\r\n", "\n").split("\n")) {
    if (now?.kind === "code") {
      if (/^\s*```\s*$/.test(line)) now = null;
      else now.lines.push(line);
    } else if (/^\s*```/.test(line)) begin("code");
    else if (line.trim() === "") now = null;
    else {
      const kind = ITEM.test(line) ? "list" : "p";
      if (now?.kind !== kind && !(now?.kind === "list" && /^\s{2,}/.test(line))) begin(kind);
      now.lines.push(line);
    }
  }
  for (const block of blocks) block.source = `${block.kind}\n${block.lines.join("\n")}`;
  return blocks;
}

function draw({ kind, lines }) {
  if (kind === "code") return make("pre", { tabIndex: 0 }, make("code", {}, lines.join("\n")));
  if (kind === "p") return make("p", { dir: "auto" }, ...inline(lines.join("\n")));
  const number = lines[0].match(ITEM)[1];
  const list = make(number ? "ol" : "ul", { dir: "auto" });
  if (number) list.start = Number(number);
  for (const line of lines) {
    const item = line.match(ITEM);
    if (item) list.append(make("li", {}, ...inline(item[2])));
    else list.lastChild.append(" ", ...inline(line.trim()));
  }
  return list;
}

// `code` and **bold**; everything else is plain text.
function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((part, place) => {
    if (place % 2 === 0) return part;
    return part[0] === "`" ? make("code", {}, part.slice(1, -1)) : make("strong", {}, part.slice(2, -2));
  });
}
