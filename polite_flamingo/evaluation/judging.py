"""Score the answers of every contestant: one number per metric of a sample's task. Nothing is averaged here.

The annotations themselves are always contestants: `RAW`, and `REWRITTEN` if samples were rewritten. The ground truth is
the raw annotation, so accuracy and Rouge-L of `RAW` only show how the judge rates a text against itself; its reward is
the baseline for the others.

Answers are cleaned first (`endpoints/answers.py`): reasoning is not part of the answer; an empty answer is wrong and
has nothing in common with the truth; faulty answers (empty, cut, withheld, declined, full of markup) are counted by
kind. A missing answer (not recorded, or the contestant or the judges failed: `not_judged`) is None and counted with its
reason. A score that is not finite is None too. Only the first turn of a conversation is judged (`first_turn`): later
ones depend on the contestant's own answers.

Each distinct text of a call goes through a model once, so judge all samples in one call if you can.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from polite_flamingo.endpoints.answers import BROKEN, Fault, faults, repeats, says_nothing, without_reasoning
from polite_flamingo.evaluation import yes_no
from polite_flamingo.evaluation.metrics import METRICS, metrics_of
from polite_flamingo.filters.models import load_models
from polite_flamingo.filters.nli import label, premise_and_hypothesis
from polite_flamingo.filters.rouge_l import rouge_l
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.sample import IMAGE_MARK, BadSample, Sample
from polite_flamingo.text_files import is_writable

RAW = "raw annotation"
REWRITTEN = "rewritten annotation"
NO_RESPONSE = "no_response"
"""Reason for a sample that was not sent to a contestant, or that its file does not answer."""

NO_TRUTH = BadSample("excluded", "its first response must not be learned, so nothing can be compared with it")

ABOUT = ("words", "exact", "empty", "whole", "yes")
"""Facts about every answer besides its metrics: number of words; 1 if it equals the annotation exactly; 1 if it is
empty; 1 if it is complete and nothing but an answer; and, of questions whose annotation begins with yes or no, whether
it says yes (`yes_no.said`; of the annotation itself, what is true)."""

Answer = str | BadSample
"""An answer (`answers.Unfinished` if it was cut), or why there is none."""


class Scores(Protocol):
    """A judge model: results for a list of pairs of texts, in order."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Any]:
        """Return one result per pair."""


class Judges:
    """The judge models: `nli` (three logits per pair), `sts` (cosine), `reward` (logit of question and answer)."""

    def __init__(self, config: ScoringConfig):
        """Load the models. Raises ValueError for a model of the wrong kind, or for none."""
        names = ("nli", "sts", "reward")
        if missing := [name for name in names if getattr(config, name) is None]:
            raise ValueError(f"scoring.{missing[0]} is null, and no evaluation is possible without it: name a model")
        self.nli: Scores
        self.sts: Scores
        self.reward: Scores
        self.nli, self.sts, self.reward = load_models(config, names)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Numbers of all contestants on the same samples; JSON types only.

    Attributes:
        contestants: names, in the order of tables.
        keys: keys of the samples.
        tasks: the group that each sample is averaged in: its task, or its dataset.
        scores: contestant -> metric -> one number per sample; None if the metric does not apply to the task, the
            answer is missing, or the number is not finite. Includes `METRICS` and `ABOUT`.
        missing: contestant -> reason -> number of samples without an answer, or that could not be judged.
        unscored: contestant -> metric -> number of scores that were not finite.
        faults: contestant -> one of `answers.FAULTS` -> number of answers with it.
    """

    contestants: tuple[str, ...]
    keys: list[str]
    tasks: list[str]
    scores: dict[str, dict[str, list[float | None]]]
    missing: dict[str, dict[str, int]]
    unscored: dict[str, dict[str, int]]
    faults: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types; `from_json` is the inverse."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Judged:
        """Read what `to_json` wrote."""
        return Judged(**{**record, "contestants": tuple(record["contestants"])})


def judge(
    samples: Sequence[Sample],
    responses: Mapping[str, Mapping[str, Answer]],
    judges: Judges,
    *,
    by: Literal["task", "dataset"] = "task",
) -> Judged:
    """Score every answer.

    Args:
        samples: their (first) response is the ground truth.
        responses: contestant -> key of a sample -> answer. Unknown keys are ignored.
        judges: the judge models.
        by: the field of a sample that goes into `Judged.tasks`.

    Raises:
        ValueError: a contestant has the name of the annotations.
    """
    for name in (RAW, REWRITTEN):
        if name in responses:
            raise ValueError(f"a contestant cannot be named {name!r}, which is the name of the annotations")
    samples = [first_turn(sample) for sample in samples]
    entered: dict[str, Mapping[str, Answer]] = {RAW: {sample.key: sample.response for sample in samples}}
    if rewritten := {sample.key: sample.rewritten for sample in samples if sample.rewritten is not None}:
        entered[REWRITTEN] = rewritten
    entered |= responses
    given_to = {
        name: [
            _readable(given.get(sample.key), by_model=name in responses) if sample.turns[0].learned else NO_TRUTH
            for sample in samples
        ]
        for name, given in entered.items()
    }
    judged = _unscored(tuple(entered), [sample.key for sample in samples], [getattr(sample, by) for sample in samples])
    for name, given in given_to.items():
        judged.missing[name].update(_reasons(given))
    _score(judged, samples, given_to, judges)
    return judged


def not_judged(
    sample: Sample, contestants: Iterable[str], reason: str, *, by: Literal["task", "dataset"] = "task"
) -> Judged:
    """Return the result of a sample on which the judges failed: no contestant has a number, and all have this reason.

    Args:
        sample: the sample at fault.
        contestants: names besides the annotations.
        reason: one of `sample.REASONS`.
        by: see `judge`.
    """
    names = (RAW, *((REWRITTEN,) if sample.rewritten is not None else ()), *contestants)
    judged = _unscored(names, [sample.key], [getattr(sample, by)])
    for name in names:
        judged.missing[name][reason] = 1
    return judged


def joined(parts: Iterable[Judged], *, contestants: Sequence[str] = ()) -> Judged:
    """Concatenate parts, in order. A contestant that is missing from a part has no answer there.

    Args:
        parts: results of different samples.
        contestants: the first names, in order; others follow in order of appearance.
    """
    parts = list(parts)
    names = tuple(dict.fromkeys([*contestants, *(name for part in parts for name in part.contestants)]))
    whole = _unscored(names, [], [])
    for part in parts:
        whole.keys.extend(part.keys)
        whole.tasks.extend(part.tasks)
        for name in names:
            known = part.scores.get(name, {})
            for metric, numbers in whole.scores[name].items():
                numbers += known.get(metric) or [None] * len(part.keys)
            missing = part.missing[name] if name in part.scores else {NO_RESPONSE: len(part.keys)}
            for total, more in (
                (whole.missing[name], missing),
                (whole.unscored[name], part.unscored.get(name, {})),
                (whole.faults[name], part.faults.get(name, {})),
            ):
                for reason, count in more.items():
                    _count(total, reason, count)
    return whole


def _unscored(contestants: tuple[str, ...], keys: list[str], tasks: list[str]) -> Judged:
    """Return a result that has no numbers yet."""
    scores: dict[str, dict[str, list[float | None]]] = {
        name: {metric: [None] * len(keys) for metric in (*METRICS, *ABOUT)} for name in contestants
    }
    counts: list[dict[str, dict[str, int]]] = [{name: {} for name in contestants} for _ in range(3)]
    missing, unscored, faults = counts
    return Judged(
        contestants=contestants, keys=keys, tasks=tasks, scores=scores, missing=missing, unscored=unscored,
        faults=faults,
    )  # fmt: skip


def _count(counts: dict[str, int], what: str, times: int = 1) -> None:
    counts[what] = counts.get(what, 0) + times


def first_turn(sample: Sample) -> Sample:
    """Cut a conversation to its first turn and the images in it; a single-turn sample stays unchanged."""
    if len(sample.turns) == 1:
        return sample
    images = sample.images[: sample.instruction.count(IMAGE_MARK)]
    return dataclasses.replace(sample, turns=sample.turns[:1], images=images)


def _score(
    judged: Judged, samples: Sequence[Sample], given_to: Mapping[str, Sequence[Answer | None]], judges: Judges
) -> None:
    """Fill in the scores, with one call per model for all pairs of texts."""
    wanted: dict[str, list[tuple[str, int]]] = {metric: [] for metric in METRICS}
    for name, given in given_to.items():
        for place, (sample, answer) in enumerate(zip(samples, given, strict=True)):
            if not isinstance(answer, str):
                continue
            empty = _note(judged, name, place, sample, answer)
            for metric in metrics_of(sample):
                if empty and metric != "reward":  # no judge is trained on empty texts
                    judged.scores[name][metric][place] = 0.0
                else:
                    wanted[metric].append((name, place))
    for metric, places in wanted.items():
        texts = [(samples[place], str(given_to[name][place])) for name, place in places]
        for (name, place), number in zip(places, _numbers(metric, texts, judges), strict=True):
            if not isinstance(number, BadSample) and math.isfinite(number):
                judged.scores[name][metric][place] = round(number, 4)
            else:
                _count(judged.unscored[name], metric)


def _note(judged: Judged, name: str, place: int, sample: Sample, answer: str) -> bool:
    """Note what is known of an answer without a judge (of annotations only emptiness); return whether it is empty."""
    if name in (RAW, REWRITTEN):
        found: list[Fault] = ["empty"] if says_nothing(answer) else []
    else:
        found = faults(answer, (sample.instruction, sample.response))
        question = sample.instruction.replace(IMAGE_MARK, "")
        if repeats(answer, question) and not repeats(sample.response, question):
            found.append("echo")
    for fault in found:
        _count(judged.faults[name], fault)
    about = {
        "words": float(len(answer.split())),
        "exact": float(answer == sample.response),
        "empty": float("empty" in found),
        "whole": float(not BROKEN.intersection(found)),
    }
    if (truth := yes_no.truth_of(sample.response)) is not None:
        about["yes"] = truth if name == RAW else yes_no.said(answer)
    for one, number in about.items():
        judged.scores[name][one][place] = number
    return "empty" in found


def _numbers(metric: str, texts: Sequence[tuple[Sample, str]], judges: Judges) -> Sequence[float | BadSample]:
    """Return one score per sample and answer, or why a server gives none."""
    if metric == "reward":
        return judges.reward.score([(question_of(sample), answer) for sample, answer in texts])
    if metric == "sts":
        return judges.sts.score([(sample.response, answer) for sample, answer in texts])
    if metric == "rouge_l":
        once = {(sample.response, answer) for sample, answer in texts}
        f1 = {(target, answer): rouge_l(target=target, prediction=answer).f1 for target, answer in once}
        return [f1[sample.response, answer] for sample, answer in texts]
    pairs = [
        premise_and_hypothesis(question=question_of(sample), output=answer, original=sample.response)
        for sample, answer in texts
    ]
    found = judges.nli.score(pairs)
    return [logits if isinstance(logits, BadSample) else entailed(logits) for logits in found]


def question_of(sample: Sample) -> str:
    """Return the question for the judges: the instruction without an accompanying text."""
    return str(sample.meta.get("instruction", sample.question))


def entailed(logits: Sequence[float]) -> float:
    """Return 1 if entailment is the (first) greatest logit, else 0; NaN if a logit is not finite."""
    return float(label(logits) == "entailment") if all(map(math.isfinite, logits)) else math.nan


def _readable(answer: Answer | None, *, by_model: bool) -> Answer | None:
    """Return an answer that a tokenizer can read, or why there is none; a model's reasoning is removed."""
    if isinstance(answer, str):
        answer = without_reasoning(answer) if by_model else answer
        if not is_writable(answer):
            return BadSample("bad_field", "contains half of a surrogate pair, which no tokenizer reads")
    return answer


def _reasons(given: Sequence[Answer | None]) -> dict[str, int]:
    failed = [one.reason if isinstance(one, BadSample) else NO_RESPONSE for one in given if not isinstance(one, str)]
    return dict(sorted(Counter(failed).items()))
