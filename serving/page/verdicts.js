// The filters' verdicts in words and bars. Numbers, thresholds and verdicts come from the server.

import { make } from "./dom.js";

const CHECKS = {
  min_words: "Long enough, in words",
  min_characters: "Long enough, in characters",
  max_words: "Not too long, in words",
  max_characters: "Not too long, in characters",
  unchanged: "Actually rewritten",
  repetition: "No endless repetition",
  sts: "Means what the annotation means",
  clip: "Fits the picture",
  nli_margin: "Does not contradict the annotation",
  nli_entailment: "Says what the annotation says",
  judge_relevance: "Answers what was asked",
  judge_correctness: "Says what is true",
  judge_visual_dependency: "Needs the picture",
  judge_formatting: "Is written well",
  near_text: "Is no near-duplicate",
  near_image: "Shows a new picture",
  reward: "Reward could be measured",
};

const FORM = new Set(["min_words", "min_characters", "max_words", "max_characters", "unchanged", "repetition"]);

const REASONS = {
  too_short: "it is too short",
  too_long: "it is too long",
  unchanged: "it hardly differs from the annotation",
  repetition: "it repeats itself",
  sts_low: "its meaning is too far from the annotation’s",
  clip_low: "it does not fit the picture",
  nli_contradiction: "it contradicts the annotation",
  nli_not_entailed: "it does not say what the annotation says",
  low_relevance: "the judge finds that it does not answer",
  low_correctness: "the judge finds it wrong",
  low_visual_dependency: "the judge finds that it needs no picture",
  low_formatting: "the judge finds it badly written",
  near_duplicate: "it is nearly the same as an earlier sample",
  repeated_image: "its picture was seen before",
  turn_failed: "it has no text or no scores",
  unscored: "a filter’s model gave no number",
};

// The overall verdict: a heading that says kept or rejected, and why.
export function judgement({ kept, reason }) {
  const words = kept ? "Kept" : "Rejected";
  const why = kept ? "Every filter agrees: this would train Clever Flamingo." : `Because ${REASONS[reason] ?? reason}.`;
  return make("div", { className: `judgement ${kept ? "kept" : "rejected"}` }, make("strong", {}, words), make("span", {}, why));
}

// One line per filter: name, score, bar, verdict. Length and form are folded if all of them pass.
export function verdicts(list) {
  const lines = (those) => make("ul", { className: "verdicts" }, ...those.map(line));
  const asked = list.filter(({ rule }) => rule !== "off"); // a filter without a threshold decides nothing
  const form = asked.filter(({ filter }) => FORM.has(filter));
  const rest = asked.filter(({ filter }) => !FORM.has(filter));
  const failed = form.filter(({ keep }) => !keep).length;
  const words = failed ? `${failed} of ${form.length} checks fail` : `all ${form.length} checks pass`;
  return [
    rest.length > 0 && lines(rest),
    make("details", { className: failed ? "form failed" : "form", open: failed > 0 || rest.length === 0 }, make("summary", {}, make("b", {}, "Length and form"), make("span", {}, words)), lines(form)),
  ];
}

function line({ filter, label, score, threshold, rule, keep, reason }) {
  const number = score === null ? "no number" : round(score);
  const known = score !== null && threshold !== null;
  const [low, high] = known ? scale(filter, score, threshold) : [0, 1];
  const share = (value) => `${Math.min(100, Math.max(0, (100 * (value - low)) / (high - low)))}%`;
  const bar = make("div", { className: "meter", "aria-hidden": "true" });
  if (known) {
    const fill = make("span", { className: "fill" });
    fill.style.width = share(score);
    const limit = make("span", { className: "limit" });
    limit.style.left = share(threshold);
    bar.append(fill, limit);
  }
  return make(
    "li",
    { className: keep ? "passed" : "failed" },
    make("div", { className: "what" }, make("b", {}, CHECKS[filter] ?? filter), make("span", {}, label)),
    make("div", { className: "how" }, bar, make("span", { className: "numbers" }, make("b", {}, number), ` ${rule}`)),
    make("div", { className: "verdict" }, keep ? "passes" : `fails: ${REASONS[reason] ?? reason}`),
  );
}

// The rewards before and after, on one scale.
export function reward(before, after) {
  if (before === null || after === null) return null;
  const reach = 1.15 * Math.max(5, Math.abs(before), Math.abs(after));
  const share = (number) => `${(50 * (number + reach)) / reach}%`;
  const row = (words, value, name) => {
    const fill = make("span", { className: "fill" });
    const zero = make("span", { className: "limit" });
    fill.style.width = share(value);
    zero.style.left = share(0);
    return make(
      "div",
      { className: name },
      make("dt", {}, words),
      make("dd", {}, make("div", { className: "meter", "aria-hidden": "true" }, fill, zero), make("b", {}, round(value))),
    );
  };
  const change = after - before;
  const words = change > 0 ? `${round(change)} politer` : change < 0 ? `${round(-change)} less polite` : "as polite as before";
  return make(
    "section",
    { className: "reward" },
    make("h3", {}, "Reward for politeness ", make("span", {}, words)),
    make("dl", {}, row("raw", before, "before"), row("polite", after, "after")),
  );
}

// The range of a bar, chosen so that its threshold is visible.
function scale(filter, score, threshold) {
  if (["sts", "unchanged", "repetition"].includes(filter)) return [Math.min(0, score), 1];
  if (filter === "nli_margin") {
    const reach = Math.max(8, Math.abs(score) * 1.15, Math.abs(threshold) * 1.15);
    return [-reach, reach];
  }
  if (filter.startsWith("max_")) return [0, Math.max(threshold * 1.15, score * 1.05)];
  return [Math.min(0, score), Math.max(threshold * 2, score * 1.15)];
}

const round = (value) => new Intl.NumberFormat("en", { maximumFractionDigits: 2 }).format(value).replace("-", "−");
