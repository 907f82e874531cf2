// Entry point: who votes, keys and buttons, and the one rule that the next pair comes only when a vote is saved.

import { announce, byId } from "./dom.js";
import { draw, mark } from "./pair.js";
import { startTheme } from "./theme_button.js";
import { ask, hasToken, setToken, settings, takeToken, vote } from "./votes_api.js";

const NAME = "flamingo.votes.name";
const KEYS = { 1: "left", 2: "right", 3: "tie", t: "tie", 4: "both_bad", b: "both_bad", s: "skip", u: "undo", z: "undo" };
const WORDS = { left: "answer 1", right: "answer 2", tie: "tie", both_bad: "both bad", skip: "skipped" };
const REST = 250; // milliseconds after a pair appears in which keys do nothing: a second press was meant for the pair before
const AGAIN = 2_000; // milliseconds between two tries to reach the server

let voter = "";
let state = null;
let busy = false;
let appeared = 0; // when the pair was drawn
let away = 0; // milliseconds since then in which the page was hidden
let hiddenSince = null;

const stored = () => {
  try {
    return localStorage.getItem(NAME) ?? "";
  } catch {
    return ""; // storage is blocked: the page asks each time
  }
};

function remember(name) {
  try {
    localStorage.setItem(NAME, name);
  } catch {
    // storage is blocked
  }
}

function showOnly(id) {
  for (const one of ["welcome", "pair", "done"]) byId(one).hidden = one !== id;
  byId("controls").hidden = id !== "pair";
}

function welcome(message = "") {
  state = null;
  showOnly("welcome");
  byId("progress").hidden = byId("who").hidden = true;
  byId("name").value = voter || stored();
  byId("token-field").hidden = !service.keys || hasToken();
  problem(message, byId("start"));
  const empty = byId("name").value === "" || byId("token-field").hidden ? "name" : "token";
  if (matchMedia("(pointer: fine)").matches) byId(empty).focus();
}

// Shows a problem above the buttons, or in the form of the first page; "" hides it.
function problem(message, place = byId("controls")) {
  const box = byId("problem");
  box.hidden = message === "";
  box.querySelector("p").textContent = message;
  if (message) place.prepend(box);
}

function show(next) {
  state = next;
  problem("");
  mark("");
  byId("who-name").textContent = next.voter;
  byId("who").hidden = byId("progress").hidden = false;
  byId("meter").value = next.total ? next.voted / next.total : 1;
  byId("count").textContent = `${next.voted} of ${next.total}`;
  byId("undo").disabled = !next.can_undo;
  if (!next.pair) return finish(next);
  showOnly("pair");
  draw(next.pair);
  appeared = performance.now();
  away = 0;
  announce(`Pair ${next.voted + 1} of ${next.total}. ${next.pair.question}`);
}

function finish({ total, skipped, can_undo }) {
  showOnly("done");
  const count = skipped === 1 ? "one skipped pair" : `${skipped} skipped pairs`;
  byId("done-words").textContent = total === 0 ? "There is nothing to vote on." : `You have been through all ${total} pairs. Your votes are saved; you can close the page.`;
  byId("reopen").hidden = skipped === 0;
  byId("reopen").textContent = `Look at ${count} again`;
  byId("undo-last").hidden = !can_undo;
  byId("done-title").focus();
}

// Sends until the server has answered: what it refuses for good is thrown.
async function persist(send) {
  for (;;) {
    try {
      return await send();
    } catch (error) {
      if (error.final !== false) throw error;
      const what = error.status ? error.message : `${error.message} Your vote is kept here and sent as soon as it answers; leave the page open.`;
      problem(what, byId("welcome").hidden ? byId("controls") : byId("start"));
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }
}

async function run(send, after = () => {}) {
  if (busy) return;
  busy = true;
  byId("said").textContent = "";
  try {
    const next = await persist(send);
    show(next);
    after(next);
  } catch (error) {
    mark("");
    if (error.status === 401) {
      setToken("");
      welcome("The token is missing or wrong. Open the link that the server printed, or type its token here.");
    } else if (state) problem(error.message);
    else welcome(error.message);
  } finally {
    busy = false;
  }
}

function choose(choice) {
  if (busy || !state?.pair || performance.now() - appeared < REST) return;
  if (hiddenSince !== null) return;
  const ballot = { voter, battle: state.pair.id, choice, seconds: Math.max(0, performance.now() - appeared - away) / 1000 };
  mark(choice);
  run(
    () => vote(ballot),
    () => (byId("said").textContent = `Saved: ${WORDS[choice]}`),
  );
}

function undo() {
  if (!state?.can_undo) return;
  run(
    () => ask("undo", voter),
    ({ undone }) => {
      if (!undone) return;
      byId("said").textContent = `Taken back: ${WORDS[undone]}`;
      announce(`Taken back: ${WORDS[undone]}. ${state.pair?.question ?? ""}`);
    },
  );
}

function start(name) {
  voter = name;
  run(
    () => ask("next", name),
    (next) => {
      voter = next.voter;
      remember(voter);
      byId("said").textContent = next.voted ? `Welcome back, ${voter}` : "";
    },
  );
}

function startButtons() {
  for (const button of document.querySelectorAll("#controls [data-choice]")) button.addEventListener("click", () => choose(button.dataset.choice));
  byId("undo").addEventListener("click", undo);
  byId("undo-last").addEventListener("click", undo);
  byId("reopen").addEventListener("click", () => run(() => ask("reopen", voter)));
  byId("who").addEventListener("click", () => !busy && welcome());
  byId("open-help").addEventListener("click", () => byId("help").showModal());
  byId("start").addEventListener("submit", (event) => {
    event.preventDefault();
    if (byId("token").value.trim()) setToken(byId("token").value.trim());
    start(byId("name").value);
  });
  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, dialog")) return;
    if (event.key === "?") return byId("help").showModal();
    const does = KEYS[event.key.toLowerCase()];
    if (!does || byId("welcome").hidden === false) return;
    event.preventDefault();
    if (does === "undo") undo();
    else choose(does);
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) hiddenSince = performance.now();
    else if (hiddenSince !== null) {
      away += performance.now() - Math.max(hiddenSince, appeared);
      hiddenSince = null;
    }
  });
}

let service = { instruction: "", keys: false };
startTheme();
startButtons();
takeToken();
try {
  service = await settings();
} catch {
  // the first request says what is wrong
}
byId("instruction").textContent = byId("help-instruction").textContent = service.instruction;
if (stored() && (hasToken() || !service.keys)) start(stored());
else welcome();
