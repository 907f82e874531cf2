// The chat: messages, requests for answers, and failures.

import { chat as ask, ServiceError } from "./api.js";
import { showExamples, startComposer } from "./composer.js";
import { announce, byId } from "./dom.js";
import { assistantMessage, problem, requested, userMessage } from "./messages.js";
import { fetchPicture } from "./pictures.js";
import * as settings from "./settings.js";
import { loadConversation, saveConversation } from "./store.js";

const NAME = "Clever Flamingo";
const ANOTHER = 0.7; // temperature of "Answer again" unless the user set one: a greedy answer would be the same
const EXAMPLES = [
  { pictures: ["example-1.png"], text: "What can you see in this image?" },
  { pictures: ["example-2.png"], text: "What colour is the star? Why?" },
  { pictures: ["example-3.png"], text: "Where is the star?" },
];

// `service()` returns `page/settings.json`. Returns { add(files), focus() }.
export function startChat(service) {
  let messages = loadConversation();
  let running = null; // AbortController of the current answer
  let editing = null; // index of the message being edited
  const shown = new WeakMap(); // message -> its node, and whether it is shown as the last of its side
  const scroll = byId("scroll");
  const composer = startComposer({ limits: service, send, noted: announce });

  function send(written) {
    if (running) return false;
    if (editing !== null) messages = messages.slice(0, editing);
    stopEditing();
    messages.push({ role: "user", ...written });
    draw();
    answer();
    return true;
  }

  // Requests the next message and shows it as it arrives.
  async function answer(changes = {}) {
    const controller = (running = new AbortController());
    const said = { role: "assistant", text: "", finish: "stop", tokens: 0, seconds: 0 };
    const view = assistantMessage(NAME);
    const started = performance.now();
    let failure = null;
    let frame = 0;
    byId("messages").append(view.node);
    busy(true);
    announce(`${NAME} is answering`);
    follow(true);
    const body = { model: service().chat, messages: requested(messages, settings.system()), ...settings.asked(), ...changes };
    try {
      for await (const piece of ask(body, settings.key(), controller.signal)) {
        said.text += piece.text;
        said.finish = piece.finish ?? said.finish;
        said.tokens = piece.usage?.completion_tokens ?? said.tokens;
        frame ||= requestAnimationFrame(() => {
          frame = 0;
          const near = atEnd();
          if (said.text) view.grow(said.text);
          follow(near);
        });
      }
    } catch (error) {
      if (error.name === "AbortError") said.finish = "stopped";
      else if (error instanceof ServiceError) {
        said.finish = error.lost ? "lost" : "failed";
        failure = error;
      } else throw error; // a bug in this page: leave it to the console
    } finally {
      cancelAnimationFrame(frame);
      said.seconds = (performance.now() - started) / 1000;
      if (running === controller) {
        running = null;
        busy(false);
        ended(said, failure);
      }
    }
  }

  function ended(said, failure) {
    if (said.text || !failure) messages.push(said);
    if (!said.text && said.finish === "stopped") messages.pop();
    saveConversation(messages);
    const near = atEnd();
    draw();
    if (failure) fail(failure, said);
    else announce(said.text ? `${NAME}: ${said.text}` : "Stopped");
    follow(near);
  }

  function fail(failure, said) {
    const again = () => (said.text ? regenerate({}) : retry());
    const actions = [["Try again", again]];
    if (failure.status === 401) actions.unshift(["Enter the API key", () => settings.open("key", again)]);
    byId("messages").append(problem(failure, actions));
  }

  function retry() {
    if (running) return;
    draw();
    answer();
  }

  // Replaces the last answer by another one.
  function regenerate(changes) {
    if (running) return;
    if (messages.at(-1)?.role === "assistant") messages.pop();
    draw();
    answer(changes);
  }

  function another() {
    const asked = settings.asked();
    regenerate({ temperature: asked.temperature || ANOTHER, seed: Math.floor(Math.random() * 2 ** 31) });
  }

  function edit(place) {
    if (running) return;
    editing = place;
    byId("editing").hidden = false;
    composer.put(messages[place]);
    composer.focus();
  }

  function stopEditing() {
    editing = null;
    byId("editing").hidden = true;
  }

  // Shows all messages. Existing nodes stay, and with them selection and focus.
  function draw() {
    const box = byId("messages");
    const lastOfUser = messages.findLastIndex((message) => message.role === "user");
    messages.forEach((message, place) => {
      const last = place === (message.role === "user" ? lastOfUser : messages.length - 1);
      if (shown.get(message)?.last !== last) shown.set(message, { last, node: node(message, last, place) });
      const wanted = shown.get(message).node;
      if (box.children[place] !== wanted) box.insertBefore(wanted, box.children[place] ?? null);
    });
    while (box.children.length > messages.length) box.lastChild.remove();
    byId("welcome").hidden = messages.length > 0;
  }

  function node(message, last, place) {
    if (message.role === "user") return userMessage(message, last ? () => edit(place) : null);
    const view = assistantMessage(NAME);
    view.finish(message, last ? another : null);
    return view.node;
  }

  function busy(now) {
    byId("panel-chat").classList.toggle("answering", now);
    const focused = document.activeElement;
    byId("stop").hidden = !now;
    byId("send").hidden = now;
    if (focused === byId("stop") || focused === byId("send")) composer.focus();
  }

  const atEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
  function follow(wanted) {
    if (wanted) scroll.scrollTop = scroll.scrollHeight;
  }

  function stop() {
    running?.abort();
  }

  function restart() {
    const was = running;
    running = null; // drop what still arrives
    was?.abort();
    busy(false);
    messages = [];
    stopEditing();
    saveConversation(messages);
    composer.put({ text: "", pictures: [] });
    draw();
    announce("A new chat");
    composer.focus();
  }

  async function example({ pictures, text }) {
    const read = await Promise.all(pictures.map((name) => fetchPicture(`page/${name}`)));
    send({ text, pictures: read });
    composer.focus();
  }

  byId("stop").addEventListener("click", stop);
  byId("stop-editing").addEventListener("click", () => {
    stopEditing();
    composer.put({ text: "", pictures: [] });
    composer.focus();
  });
  byId("new-chat").addEventListener("click", restart);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    if (running) stop();
    else if (editing !== null) byId("stop-editing").click();
  });
  showExamples(EXAMPLES, example);
  draw();
  follow(true);
  return { add: composer.add, focus: composer.focus };
}
