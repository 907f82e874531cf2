// The rewriting playground: pictures, an instruction and a raw annotation in; raw beside polite, with all verdicts, out.

import { rewrite, ServiceError } from "./api.js";
import { announce, byId, make } from "./dom.js";
import { problem } from "./messages.js";
import { fetchPicture, filesOf, Tray } from "./pictures.js";
import * as settings from "./settings.js";
import { judgement, reward, verdicts } from "./verdicts.js";

const FORM = "length and form";
const TASKS = {
  "": ["Detect from the input", ""],
  captioning: ["Caption", `${FORM}, likeness to the annotation, fit to the picture`],
  vqa: ["Question and answer", `${FORM}, no contradiction of the annotation`],
  vqa_rationale: ["Question, answer and reason", `${FORM}, no contradiction of the annotation`],
  classification: ["Class", `${FORM}, likeness to the annotation`],
  change_captioning: ["What changed between two pictures", `${FORM}, likeness to the annotation`],
  text: ["Text without a picture", FORM],
};

const EXAMPLES = [
  { name: "A caption", pictures: ["example-1.png"], instruction: "Describe the image in detail.", raw: "large red heart, small green circle" },
  { name: "An answer", pictures: ["example-2.png"], instruction: "What colour is the star?", raw: "Answer: blue" },
  { name: "A change", pictures: ["example-3.png", "example-4.png"], instruction: "What has changed between the two images?", raw: "small blue star moves from the centre to the left" },
  { name: "A wrong caption", pictures: ["example-2.png"], instruction: "Describe the image in detail.", raw: "three small purple crosses on a pink ground" },
];

// `service()` returns `page/settings.json`. Returns { add(files), focus() }.
export function startRewriting(service) {
  const [form, task, instruction, annotation, files] = ["rewrite-form", "task", "instruction", "annotation", "rewrite-files"].map(byId);
  const result = byId("rewritten");
  const tray = new Tray(byId("rewrite-tray"), { limit: () => service().images, refused: (words) => show(new Error(words)) });
  tray.home = byId("rewrite-attach");
  let running = null;

  function show(error) {
    const actions = error.status === 401 ? [["Enter the API key", () => settings.open("key", ask)]] : [];
    if (error instanceof ServiceError) actions.push(["Try again", ask]);
    result.replaceChildren(problem(error, actions));
  }

  async function ask() {
    running?.abort();
    const controller = (running = new AbortController());
    await tray.reading;
    const pictures = tray.pictures;
    const raw = annotation.value.trim();
    const body = { model: service().rewriter, instruction: instruction.value.trim(), raw };
    if (pictures.length) body.images = pictures.map((picture) => picture.url);
    if (task.value) body.task = task.value;
    busy(true);
    announce("Polite Flamingo is rewriting");
    try {
      const found = await rewrite(body, settings.key(), controller.signal);
      result.replaceChildren(drawn(found, raw));
      announce(`${found.response}. ${found.kept === null ? "" : found.kept ? "Kept." : "Rejected."}`);
      result.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    } catch (error) {
      if (error.name === "AbortError") announce("Stopped");
      else if (error instanceof ServiceError) show(error);
      else throw error; // a bug in this page: leave it to the console
    } finally {
      if (running === controller) {
        running = null;
        busy(false);
      }
    }
  }

  function busy(now) {
    byId("rewrite").textContent = now ? "Stop" : "Rewrite";
    result.classList.toggle("waiting", now);
    result.setAttribute("aria-busy", String(now));
  }

  function stop() {
    running?.abort();
  }

  async function example(chosen) {
    tray.set(await Promise.all(chosen.pictures.map((name) => fetchPicture(`page/${name}`))));
    instruction.value = chosen.instruction;
    annotation.value = chosen.raw;
    task.value = "";
    hint();
    ask();
  }

  function hint() {
    const [, filters] = TASKS[task.value];
    byId("task-hint").textContent = filters ? `Judged by ${filters}.` : "The task decides which filters apply.";
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) stop();
    else ask();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) stop();
  });
  task.append(...Object.entries(TASKS).map(([value, [words]]) => make("option", { value }, words)));
  task.addEventListener("change", hint);
  byId("rewrite-attach").addEventListener("click", () => files.click());
  files.addEventListener("change", async () => {
    await tray.add(filesOf(files));
    files.value = "";
  });
  byId("rewrite-examples").append(
    "Try ",
    ...EXAMPLES.map((chosen) => make("button", { type: "button", onclick: () => example(chosen) }, chosen.name)),
  );
  hint();
  return { add: (chosen) => tray.add(chosen), focus: () => instruction.focus() };
}

const removed = (count) => (count === 1 ? "One paragraph was removed because it does not fit the picture" : `${count} paragraphs were removed because they do not fit the picture`);

// The result of one rewriting.
function drawn(found, raw) {
  const side = (name, title, text) =>
    make("div", { className: `side ${name}` }, make("h3", {}, title), make("p", { className: "text", dir: "auto" }, text));
  const words = TASKS[found.task]?.[0] ?? found.task;
  return make(
    "section",
    { className: "card result", "aria-label": "Result" },
    make("h2", { className: "hidden" }, "Result"),
    found.kept !== null && judgement(found),
    make("div", { className: "sides" }, side("raw", "Raw annotation", raw), side("polite", "Polite Flamingo", found.response)),
    found.removed_paragraphs.length > 0 &&
      make(
        "details",
        { className: "removed" },
        make("summary", {}, removed(found.removed_paragraphs.length)),
        ...found.removed_paragraphs.map((one) => make("p", { dir: "auto" }, one.text)),
      ),
    reward(found.reward_before, found.reward_after),
    found.verdicts.length > 0 && make("h3", {}, "What the filters say ", make("span", {}, `judged as: ${words}`)),
    found.verdicts.length > 0 && make("div", {}, verdicts(found.verdicts)),
  );
}
