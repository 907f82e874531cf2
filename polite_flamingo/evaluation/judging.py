"""Every contestant's answers to every sample -> one number for each metric of its task. Nothing is averaged here.

The annotations themselves are always contestants: `RAW`, and where samples were rewritten `REWRITTEN`. The ground truth
is the raw annotation, so the accuracy and the Rouge-L of `RAW` say only how the judge takes a text compared with
itself; its reward is what the others are to be compared with.

What a model said is looked at first (`endpoints/answers.py`): its reasoning is no part of the answer; an empty
answer is a wrong one, which has nothing in common with the truth; and what is empty, cut, withheld, full of markup or
declines is counted by its kind. What has no answer (none was recorded, the contestant failed on it, or the judges did:
`not_judged`) is None, and counted with its reason. A score that is not finite is None too. Of a
conversation the first turn is judged (`first_turn`): only it is the same for all contestants.

All texts of a call go through each model together, each distinct one once: hand over what you have at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from polite_flamingo.endpoints.answers import BROKEN, Fault, faults, repeats, says_nothing, without_reasoning
from polite_flamingo.evaluation.metrics import METRICS, metrics_of
from polite_flamingo.filters.nli import Nli, label, premise_and_hypothesis
from polite_flamingo.filters.politeness import Politeness
from polite_flamingo.filters.rouge_l import rouge_l
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.filters.sts import Sts
from polite_flamingo.sample import IMAGE_MARK, BadSample, Sample

RAW = "raw annotation"
REWRITTEN = "rewritten annotation"
NO_RESPONSE = "no_response"
"""Reason of a sample that a contestant was not asked, or whose answer is in no file."""

NO_TRUTH = BadSample("excluded", "its first response is not to be learned, so nothing can be compared with it")

ABOUT = ("words", "exact", "empty", "whole")
"""Of each answer, beside its metrics: its words; 1 where it is the annotation, character by character; 1 where it says
nothing; 1 where it came to its end and is nothing but an answer."""

Answer = str | BadSample
"""What a contestant said (`answers.Unfinished` where it was cut), or why it said nothing."""


class Scores(Protocol):
    """What judging needs of a model: a list of results for a list of pairs of texts, in order."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Any]:
        """One result a pair."""


class Judges:
    """The models: `nli` (three logits a pair), `sts` (cosine), `reward` (logit of question and answer)."""

    def __init__(self, config: ScoringConfig):
        """Load them. Raises ValueError where one is not of its kind."""
        if config.threads:
            import torch

            torch.set_num_threads(config.threads)
        where: dict[str, Any] = {"device": config.device, "batch_size": config.batch_size}
        self.nli: Scores = Nli(config.nli, **where)
        self.sts: Scores = Sts(config.sts, **where)
        self.reward: Scores = Politeness(config.reward, **where)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Numbers of all contestants on the same samples; JSON types only.

    Attributes:
        contestants: in the order of tables.
        keys: of the samples.
        tasks: what each sample is summed under: its task, or its dataset.
        scores: contestant -> metric -> one number a sample, None where the metric is not the task's, where there is no
            answer, or where the number is not finite. Beside `METRICS` there are those of `ABOUT`, None for no answer.
        missing: contestant -> reason -> how many samples have no answer, or could not be judged.
        unscored: contestant -> metric -> how many numbers were not finite.
        faults: contestant -> one of `answers.FAULTS` -> how many answers have it.
    """

    contestants: tuple[str, ...]
    keys: list[str]
    tasks: list[str]
    scores: dict[str, dict[str, list[float | None]]]
    missing: dict[str, dict[str, int]]
    unscored: dict[str, dict[str, int]]
    faults: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON types; `from_json` is its inverse."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Judged:
        """Inverse of `to_json`."""
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
        responses: contestant -> key of the sample -> its answer. Keys that are no sample's are ignored.
        judges: the models.
        by: what `Judged.tasks` tells of each sample.

    Raises:
        ValueError: a contestant is called as the annotations are.
    """
    for name in (RAW, REWRITTEN):
        if name in responses:
            raise ValueError(f"no contestant can be called {name!r}: the annotations themselves are")
    samples = [first_turn(sample) for sample in samples]
    entered: dict[str, Mapping[str, Answer]] = {RAW: {sample.key: sample.response for sample in samples}}
    if rewritten := {sample.key: sample.rewritten for sample in samples if sample.rewritten is not None}:
        entered[REWRITTEN] = rewritten
    entered |= responses
    given_to = {
        name: [
            _readable(given.get(sample.key), asked=name in responses) if sample.turns[0].learned else NO_TRUTH
            for sample in samples
        ]
        for name, given in entered.items()
    }
    judged = Judged(
        contestants=tuple(entered),
        keys=[sample.key for sample in samples],
        tasks=[getattr(sample, by) for sample in samples],
        scores={name: {metric: [None] * len(samples) for metric in (*METRICS, *ABOUT)} for name in entered},
        missing={name: _reasons(given) for name, given in given_to.items()},
        unscored={name: {} for name in entered},
        faults={name: {} for name in entered},
    )
    _score(judged, samples, given_to, judges)
    return judged


def not_judged(
    sample: Sample, contestants: Iterable[str], reason: str, *, by: Literal["task", "dataset"] = "task"
) -> Judged:
    """The part of a sample on which the judges failed: nobody has a number there, and all for this reason.

    Args:
        sample: alone at fault, whoever's answer it was: means are over samples that all have a number of.
        contestants: beside the annotations.
        reason: one of `sample.REASONS`.
        by: see `judge`.
    """
    names = (RAW, *((REWRITTEN,) if sample.rewritten is not None else ()), *contestants)
    return Judged(
        contestants=names,
        keys=[sample.key],
        tasks=[getattr(sample, by)],
        scores={name: {metric: [None] for metric in (*METRICS, *ABOUT)} for name in names},
        missing={name: {reason: 1} for name in names},
        unscored={name: {} for name in names},
        faults={name: {} for name in names},
    )


def joined(parts: Iterable[Judged], *, contestants: Sequence[str] = ()) -> Judged:
    """The parts as one, in their order. A contestant that a part does not know has no answer there.

    Args:
        parts: of different samples.
        contestants: their order; those not named follow as they come.
    """
    parts = list(parts)
    names = tuple(dict.fromkeys([*contestants, *(name for part in parts for name in part.contestants)]))
    whole = Judged(
        contestants=names,
        keys=[key for part in parts for key in part.keys],
        tasks=[task for part in parts for task in part.tasks],
        scores={name: {metric: [] for metric in (*METRICS, *ABOUT)} for name in names},
        missing={name: {} for name in names},
        unscored={name: {} for name in names},
        faults={name: {} for name in names},
    )
    for part in parts:
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
                    total[reason] = total.get(reason, 0) + count
    return whole


def first_turn(sample: Sample) -> Sample:
    """A conversation cut to its first exchange and the images that it shows; another sample as it is."""
    if len(sample.turns) == 1:
        return sample
    shown = sample.instruction.count(IMAGE_MARK)
    return dataclasses.replace(sample, turns=sample.turns[:1], images=sample.images[:shown])


def _score(
    judged: Judged, samples: Sequence[Sample], given_to: Mapping[str, Sequence[Answer | None]], judges: Judges
) -> None:
    """Fill in the numbers: all pairs of texts of a metric in one call of its model."""
    wanted: dict[str, list[tuple[str, int]]] = {metric: [] for metric in METRICS}
    for name, given in given_to.items():
        for place, (sample, answer) in enumerate(zip(samples, given, strict=True)):
            if not isinstance(answer, str):
                continue
            empty = _note(judged, name, place, sample, answer)
            for metric in metrics_of(sample):
                if empty and metric != "reward":  # no judge was made for a text that is none
                    judged.scores[name][metric][place] = 0.0
                else:
                    wanted[metric].append((name, place))
    for metric, places in wanted.items():
        texts = [(samples[place], str(given_to[name][place])) for name, place in places]
        for (name, place), number in zip(places, _numbers(metric, texts, judges), strict=True):
            if math.isfinite(number):
                judged.scores[name][metric][place] = round(number, 4)
            else:
                judged.unscored[name][metric] = judged.unscored[name].get(metric, 0) + 1


def _note(judged: Judged, name: str, place: int, sample: Sample, answer: str) -> bool:
    """What can be said of an answer without a judge; whether it is empty. Annotations are data, and only that asked."""
    if name in (RAW, REWRITTEN):
        found: list[Fault] = ["empty"] if says_nothing(answer) else []
    else:
        found = faults(answer, (sample.instruction, sample.response))
        question = sample.instruction.replace(IMAGE_MARK, "")
        if repeats(answer, question) and not repeats(sample.response, question):
            found.append("echo")
    for fault in found:
        judged.faults[name][fault] = judged.faults[name].get(fault, 0) + 1
    about = {
        "words": float(len(answer.split())),
        "exact": float(answer == sample.response),
        "empty": float("empty" in found),
        "whole": float(not BROKEN.intersection(found)),
    }
    for one, number in about.items():
        judged.scores[name][one][place] = number
    return "empty" in found


def _numbers(metric: str, texts: Sequence[tuple[Sample, str]], judges: Judges) -> Sequence[float]:
    """One number for each sample and answer."""
    if metric == "reward":
        return judges.reward.score([(asked(sample), answer) for sample, answer in texts])
    if metric == "sts":
        return judges.sts.score([(sample.response, answer) for sample, answer in texts])
    if metric == "rouge_l":
        once = {(sample.response, answer) for sample, answer in texts}
        found = {(target, answer): rouge_l(target=target, prediction=answer).f1 for target, answer in once}
        return [found[sample.response, answer] for sample, answer in texts]
    pairs = [
        premise_and_hypothesis(question=asked(sample), output=answer, original=sample.response)
        for sample, answer in texts
    ]
    return [entailed(logits) for logits in judges.nli.score(pairs)]


def asked(sample: Sample) -> str:
    """What judges read as the question: of an instruction with a text that it speaks of, the instruction alone."""
    return str(sample.meta.get("instruction", sample.question))


def entailed(logits: Sequence[float]) -> float:
    """1 where entailment is the (first) greatest logit, 0 where another is, not a number where one is none."""
    return float(label(logits) == "entailment") if all(map(math.isfinite, logits)) else math.nan


def _readable(answer: Answer | None, *, asked: bool) -> Answer | None:
    """An answer that a tokenizer can read, or why there is none; of one that was asked for, without its reasoning."""
    if isinstance(answer, str):
        answer = without_reasoning(answer) if asked else answer
        try:
            answer.encode()
        except UnicodeEncodeError:
            return BadSample("bad_field", "half of a surrogate pair, which no tokenizer reads")
    return answer


def _reasons(given: Sequence[Answer | None]) -> dict[str, int]:
    failed = [one.reason if isinstance(one, BadSample) else NO_RESPONSE for one in given if not isinstance(one, str)]
    return dict(sorted(Counter(failed).items()))
