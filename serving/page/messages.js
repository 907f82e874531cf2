// Messages: their format, for the service and on the page.
//
// A user message is { role: "user", text, pictures }. A mark such as "[picture 2]" in `text` says where that
// picture stands; pictures without a mark come before the text. An assistant message is { role: "assistant", text,
// finish, tokens, seconds }, where finish is "stop", "length", "stopped" (by the user), "lost" or "failed".

import { announce, copy, icon, make, tool } from "./dom.js";
import { show } from "./text.js";

const MARK = /\[picture (\d+)\]/g;

export const mark = (place) => `[picture ${place + 1}]`;

// The text with its marks after pictures have moved; `map` gives the new index of each old one, null if removed.
export function renumber(text, map) {
  return text.replace(MARK, (words, number) => {
    const to = map[number - 1];
    return to === undefined ? words : to === null ? "" : mark(to);
  });
}

// The text and its pictures in reading order: strings and pictures.
export function parts({ text, pictures }) {
  const placed = new Set();
  const found = [];
  let from = 0;
  for (const match of text.matchAll(MARK)) {
    const picture = pictures[match[1] - 1];
    if (!picture || placed.has(picture)) continue;
    placed.add(picture);
    found.push(text.slice(from, match.index), picture);
    from = match.index + match[0].length;
  }
  found.push(text.slice(from));
  return [...pictures.filter((picture) => !placed.has(picture)), ...found].filter((part) => typeof part !== "string" || part.trim());
}

// The `messages` of a request. Pictures lost in a reload and empty answers are left out.
export function requested(messages, system) {
  const said = system ? [{ role: "system", content: system }] : [];
  for (const message of messages) {
    if (message.role === "assistant") {
      if (message.text) said.push({ role: "assistant", content: message.text });
      continue;
    }
    const content = parts(message)
      .filter((part) => typeof part === "string" || part.url)
      .map((part) => (typeof part === "string" ? { type: "text", text: part.trim() } : { type: "image_url", image_url: { url: part.url } }));
    said.push({ role: "user", content: content.every((part) => part.type === "text") ? message.text : content });
  }
  return said;
}

// A user message as an article. `edit` is called by its edit button; null for no button.
export function userMessage(message, edit) {
  const bubble = make("div", { className: "bubble" });
  for (const part of parts(message)) {
    if (typeof part === "string") bubble.append(make("p", { dir: "auto" }, part.trim()));
    else if (part.url) bubble.append(make("img", { src: part.url, alt: part.name, title: part.name }));
    else bubble.append(make("p", { className: "gone" }, `${part.name} was too large to keep over a reload`));
  }
  const actions = make("div", { className: "actions" });
  if (edit) actions.append(tool("edit", "Edit and send again", edit));
  return make("article", { className: "message user", "aria-label": "You" }, bubble, actions);
}

// An answer, as an article that can grow: { node, grow(text), finish(message, again) }.
export function assistantMessage(name) {
  const body = make("div", { className: "text" });
  const actions = make("div", { className: "actions" });
  const waiting = make("p", { className: "waiting" }, make("span", {}), make("span", {}), make("span", {}));
  const node = make(
    "article",
    { className: "message assistant busy", "aria-label": name, "aria-busy": "true" },
    make("img", { className: "avatar", src: "page/flamingo.svg", alt: "", width: 30, height: 30 }),
    make("div", { className: "answer" }, waiting, body, actions),
  );
  return {
    node,
    grow(text) {
      waiting.remove();
      show(body, text);
    },
    finish(message, again) {
      waiting.remove();
      show(body, message.text);
      node.classList.remove("busy");
      node.removeAttribute("aria-busy");
      actions.replaceChildren();
      if (message.text) actions.append(copyButton(() => message.text));
      if (again) actions.append(tool("again", "Answer again", again, { title: "Answer again, differently if possible" }));
      actions.append(make("span", { className: "facts" }, facts(message)));
    },
  };
}

// A problem, with buttons for what to do. `actions` are [label, function] pairs.
export function problem(error, actions) {
  const when = make("span", { className: "when" });
  if (error.retryAfter !== null && error.retryAfter !== undefined) countDown(when, error.retryAfter);
  return make(
    "div",
    { className: "problem", role: "alert" },
    icon("alert"),
    make("p", {}, make("span", { dir: "auto" }, error.message), " ", when),
    make("div", { className: "row" }, ...actions.map(([label, onclick]) => make("button", { type: "button", onclick }, label))),
  );
}

function facts({ finish, tokens, seconds }) {
  const words = {
    length: "cut off: it reached the longest answer",
    stopped: "stopped",
    lost: "broken off: the connection was lost",
    failed: "broken off",
  };
  const rest = tokens ? `${tokens} token${tokens === 1 ? "" : "s"}${seconds ? ` in ${seconds.toFixed(1)} s` : ""}` : "";
  return [words[finish], rest].filter(Boolean).join(" · ");
}

function copyButton(text) {
  const button = tool("copy", "Copy", async () => {
    try {
      await copy(text());
    } catch (error) {
      announce(`Not copied: ${error.message}`);
      return;
    }
    announce("Copied");
    button.replaceChildren(icon("check"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

// Says when to try again. Screen readers hear it once: the countdown is hidden from them.
function countDown(box, seconds) {
  const end = Date.now() + seconds * 1000;
  const spoken = make("span", { className: "hidden" }, `You can try again in ${Math.ceil(seconds)} seconds.`);
  const shown = make("span", { "aria-hidden": "true" });
  box.append(spoken, shown);
  const tick = () => {
    const left = Math.ceil((end - Date.now()) / 1000);
    shown.textContent = left > 0 ? `You can try again in ${left} s.` : "You can try again now.";
    if (left > 0 && (box.isConnected || left === Math.ceil(seconds))) setTimeout(tick, 500);
  };
  tick();
}
