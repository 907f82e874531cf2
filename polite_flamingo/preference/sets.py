"""The four sets that one set of rated answers gives: pairs, rejection sampling, SteerLM, SFT.

In all of them only the last turn is learned; the turns before it are context, with the dataset's responses. A pair has
its sides in `Sample.rewritten` and `Sample.rejected`. The other sets are ordinary rewritten samples, so `train` reads
them like any other shard, with the response "rewritten".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from polite_flamingo.candidates import ATTRIBUTES, MOST
from polite_flamingo.preference.pairing import Pair, PairingConfig, Scored, best, is_usable
from polite_flamingo.preference.steerlm import with_attributes
from polite_flamingo.sample import Sample

DATASET = "dataset"
"""The source of SFT's answers that is no model: the annotations."""

SETS = ("pairs", "rejection", "steerlm", "sft")
"""The folders of the sets."""


@dataclass(frozen=True, kw_only=True)
class SetsConfig:
    """What the sets beside the pairs are made of.

    Attributes:
        rejection: "best" takes the best answer of every prompt, "full" only answers rated 4 wherever a weight is.
        sft: whose answers SFT learns; "dataset" for the annotations, or a model, such as the judge, that `sample` has
            let answer as well. That model's answers are left out of the other sets.
    """

    rejection: Literal["best", "full"] = "best"
    sft: str = DATASET

    @property
    def leave_out(self) -> tuple[str, ...]:
        """Models whose answers are no candidates for pairs, rejection sampling and SteerLM."""
        return () if self.sft == DATASET else (self.sft,)


def pair_sample(sample: Sample, pair: Pair, config: PairingConfig, *, flipped: bool = False) -> Sample:
    """Return the sample of a pair. `provenance["pair"]` has both sides' numbers and scores, and what decided them.

    Args:
        sample: the prompt with its candidates, which are kept.
        pair: its sides.
        config: how it was made.
        flipped: whether the sides are to be swapped, as noise.
    """
    chosen, rejected = (pair.rejected, pair.chosen) if flipped else (pair.chosen, pair.rejected)
    about = {
        "judge": config.judge,
        "rule": config.rule,
        "seed": config.seed,
        "chosen": _side(chosen),
        "rejected": _side(rejected),
        "margin": round(chosen.score - rejected.score, 6),
        "flipped": flipped,
    }
    return replace(
        _last_turn_learned(sample),
        rewritten=chosen.candidate.text,
        rejected=rejected.candidate.text,
        provenance={**sample.provenance, "pair": about},
    )


def _side(one: Scored) -> dict[str, Any]:
    means = {name: round(mean, 6) for name, mean in one.means.items()}
    about = one.candidate
    return {"number": about.number, "model": about.model, "score": round(one.score, 6), "ratings": means}


def rejection_sample(
    sample: Sample, answers: Sequence[Scored], sets: SetsConfig, config: PairingConfig
) -> Sample | str:
    """Return the sample that learns the best answer, or why there is none: "not_rated", "not_full"."""
    if not answers:
        return "not_rated"
    if sets.rejection == "full" and not (answers := [one for one in answers if _is_full(one, config)]):
        return "not_full"
    top = best(answers)
    return with_answer(sample, top.candidate.text, {"rejection_sampling": _side(top)})


def _is_full(one: Scored, config: PairingConfig) -> bool:
    """Whether every attribute with a positive weight has the best rating; never true of a judge of one number."""
    wanted = [name for name, weight in zip(ATTRIBUTES, config.weights, strict=True) if weight > 0]
    return bool(wanted) and all(one.means.get(name) == MOST for name in wanted)


def steerlm_samples(sample: Sample, answers: Sequence[Scored]) -> Iterator[Sample]:
    """Yield a sample per answer that has all attributes, KEY/answerN, whose prompt asks for the answer's own ratings.

    Answers of a judge of one number have none.
    """
    for place, one in enumerate(answers):  # two models may number their answers alike
        if all(name in one.means for name in ATTRIBUTES):
            asked = with_attributes(sample, one.means)
            made = with_answer(asked, one.candidate.text, {"steerlm": _side(one)})
            yield replace(made, key=f"{sample.key}/answer{place}")


def sft_sample(sample: Sample, sets: SetsConfig) -> Sample | str:
    """Return the sample that learns the dataset's or a named model's answer, or why there is none: "no_answer"."""
    if sets.sft == DATASET:
        return with_answer(sample, sample.turns[-1].response, {"sft": DATASET})
    texts = [one.text for one in sample.candidates if one.model == sets.sft and is_usable(one.text)]
    return with_answer(sample, texts[0], {"sft": sets.sft}) if texts else "no_answer"


def with_answer(sample: Sample, text: str, about: Mapping[str, Any]) -> Sample:
    """Return the sample with an answer to learn in its last turn, without candidates.

    Args:
        sample: any sample.
        text: the answer.
        about: what is added to the provenance.
    """
    ready = replace(_last_turn_learned(sample), candidates=(), rejected=None, provenance={**sample.provenance, **about})
    if len(ready.turns) == 1:
        return replace(ready, rewritten=text)
    *before, last = ready.turns
    return replace(ready, turns=(*before, replace(last, rewritten=text)))


def _last_turn_learned(sample: Sample) -> Sample:
    """Return the sample without any rewriting, its turns but the last as context."""
    plain = [replace(turn, rewritten=None, scores={}, failed="", learned=False) for turn in sample.turns]
    plain[-1] = replace(plain[-1], learned=True)
    return replace(sample, turns=tuple(plain), rewritten=None, scores={})
