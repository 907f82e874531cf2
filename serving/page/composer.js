// The message box: a growing text field, with pictures beside or within the text.

import { byId, make } from "./dom.js";
import { mark, renumber } from "./messages.js";
import { filesOf, Tray } from "./pictures.js";

// `send({ text, pictures })` is called with the message; it returns whether it accepted it.
export function startComposer({ limits, send, noted }) {
  const text = byId("text");
  const files = byId("files");
  const note = byId("composer-note");
  const tray = new Tray(byId("tray"), {
    limit: () => limits().images,
    refused: (words) => say(words),
    changed(map, added) {
      text.value = renumber(text.value, map);
      if (added !== undefined) place(added);
      fit();
    },
  });
  tray.home = byId("attach");

  function say(words) {
    note.textContent = words;
    noted(words);
  }

  // A picture added while there is text goes to the cursor; else before all text, without a mark.
  function place(added) {
    const at = text.selectionStart;
    if (!text.value.slice(0, at).trim()) return;
    const before = /\s$/.test(text.value.slice(0, at)) ? "" : " ";
    text.setRangeText(`${before}${mark(added)} `, at, text.selectionEnd, "end");
  }

  function fit() {
    byId("send").disabled = !text.value.trim() && !tray.pictures.length;
    if (CSS.supports("field-sizing", "content")) return; // done by the style sheet
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight}px`;
  }

  async function submit() {
    await tray.reading;
    const written = { text: text.value.trim(), pictures: tray.pictures };
    if (!written.text && !written.pictures.length) return;
    if (written.text.length > limits().text_characters) {
      say(`A message has at most ${limits().text_characters} characters; this one has ${written.text.length}.`);
      return;
    }
    if (send(written)) put({ text: "", pictures: [] });
  }

  function put(message) {
    text.value = message.text;
    tray.set(message.pictures.filter((picture) => picture.url));
    note.textContent = "";
    fit();
  }

  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  text.addEventListener("input", () => {
    note.textContent = "";
    fit();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // composing: Enter chooses a word
    event.preventDefault();
    submit();
  });
  byId("attach").addEventListener("click", () => files.click());
  files.addEventListener("change", async () => {
    const chosen = filesOf(files);
    await tray.add(chosen);
    files.value = ""; // the same file may be chosen again
    text.focus();
  });
  fit();
  return { put, add: (chosen) => tray.add(chosen), focus: () => text.focus(), empty: () => !text.value && !tray.pictures.length };
}

// Examples for a first visit: one or two pictures and a question. `choose(example)` is called.
export function showExamples(examples, choose) {
  byId("examples").replaceChildren(
    ...examples.map((example) =>
      make(
        "li",
        {},
        make(
          "button",
          { type: "button", onclick: () => choose(example) },
          make("span", { className: "thumbs" }, ...example.pictures.map((name) => make("img", { src: `page/${name}`, alt: "", width: 72, height: 72 }))),
          make("span", {}, example.text),
        ),
      ),
    ),
  );
}
