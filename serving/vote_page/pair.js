// Draws a pair: pictures, question, two answers. All of it is untrusted and becomes text nodes.

import { byId, make } from "./dom.js";
import { show as showText } from "./text.js";

const TINY = 160; // pixels: smaller pictures are enlarged, with sharp edges

export function draw(pair) {
  const several = pair.pictures.length > 1;
  byId("pictures").classList.toggle("many", pair.pictures.length > 3);
  byId("pictures").replaceChildren(...pair.pictures.map((one, place) => picture(one, several ? `Picture ${place + 1} of ${pair.pictures.length}` : "The picture")));
  byId("question").textContent = pair.question || "(no question: the picture alone)";
  const before = byId("before");
  before.hidden = pair.before.length === 0;
  before.open = false;
  before.firstElementChild.textContent = `After ${pair.before.length} earlier ${pair.before.length === 1 ? "turn" : "turns"}`;
  before.lastElementChild.replaceChildren(
    ...pair.before.flatMap(({ asked, said }) => [make("p", { className: "asked-before", dir: "auto" }, asked), make("p", { dir: "auto" }, said)]),
  );
  for (const side of ["left", "right"]) showText(byId(side).querySelector(".text"), pair[side]);
  byId("scroll").scrollTop = 0;
  const article = byId("pair");
  article.classList.remove("arriving");
  void article.offsetWidth; // starts the animation again
  article.classList.add("arriving");
}

// Marks what was chosen until the next pair is drawn; "" for nothing.
export function mark(choice) {
  byId("pair").classList.remove("picked-left", "picked-right", "picked-tie", "picked-both_bad", "picked-skip");
  if (choice) byId("pair").classList.add(`picked-${choice}`);
  for (const button of document.querySelectorAll("#controls [data-choice]")) button.classList.toggle("pressed", button.dataset.choice === choice);
}

function picture({ uri, width, height, problem }, words) {
  if (!uri) return make("p", { className: "gone" }, `This picture cannot be shown (${problem}).`);
  const className = Math.max(width, height) <= TINY ? "tiny" : "";
  const open = () => {
    Object.assign(byId("zoomed"), { src: uri, alt: words, className });
    byId("zoom").showModal();
  };
  return make("button", { type: "button", title: "Show it larger", onclick: open }, make("img", { src: uri, alt: words, width, height, className }));
}
