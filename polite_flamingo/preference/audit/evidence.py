"""What an audit rests on: rated prompts, pairs, people's labels, and whose judgement is audited.

Samples are read shard by shard and only numbers are kept, so memory grows with the number of ratings and not with the
pictures. Candidates that came with a pair are used where the prompt is not among the rated samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from polite_flamingo.preference.audit.limits import AuditSettings
from polite_flamingo.preference.audit.people import Labels, Side, Vote
from polite_flamingo.preference.audit.readings import Prompt, asked_digest, digest, prompt_of, sign
from polite_flamingo.sample import Sample


@dataclass(frozen=True, kw_only=True)
class AuditedPair:
    """A pair, without its texts.

    Attributes:
        key: of its sample.
        shard: name of the shard that holds it.
        question: digest of what was asked, with the pictures and the turns before.
        asked: digest of the last question and the pictures alone (`asked_digest`).
        sides: digests of chosen and rejected.
        lengths: of chosen and rejected, in characters.
        made_by: the judge that it names; "" if it names none.
        prompt: the rated prompt that it was made of, if it is known.
        answers: which answers of that prompt are chosen and rejected.
    """

    key: str
    shard: str
    question: str
    asked: str
    sides: tuple[str, str]
    lengths: tuple[int, int]
    made_by: str = ""
    prompt: Prompt | None = None
    answers: tuple[int, int] | None = None

    def margin(self, judge: str) -> float | None:
        """Return how much higher a judge rates the chosen answer; None if it did not rate both."""
        if self.prompt is None or self.answers is None:
            return None
        scores, (chosen, rejected) = self.prompt.scores(judge), self.answers
        return scores[chosen] - scores[rejected] if {chosen, rejected} <= scores.keys() else None


@dataclass(kw_only=True)
class Collected:
    """Samples read so far.

    Attributes:
        settings: how answers are scored.
        prompts: key -> rated prompt.
        pairs: all pairs, in the order read.
        failed: reason -> number of rows that could not be read.
        unrated: samples with neither candidates nor a rejected answer.
    """

    settings: AuditSettings
    prompts: dict[str, Prompt] = field(default_factory=dict)
    pairs: list[AuditedPair] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    unrated: int = 0

    def add(self, sample: Sample, shard: str) -> None:
        """Take what an audit needs of a sample."""
        if sample.candidates:
            weights, expected = self.settings.weights, self.settings.expected
            self.prompts.setdefault(sample.key, prompt_of(sample, shard, weights, expected=expected))
        if sample.rejected is not None:
            self.pairs.append(_pair(sample, shard))
        elif not sample.candidates:
            self.unrated += 1


def _pair(sample: Sample, shard: str) -> AuditedPair:
    chosen, rejected = sides_of(sample)
    made = sample.provenance.get("pair")
    return AuditedPair(
        key=sample.key,
        shard=shard,
        question=question_digest(sample),
        asked=asked_digest(sample.turns[-1].instruction, sample.images),
        sides=(digest(chosen), digest(rejected)),
        lengths=(len(chosen.strip()), len(rejected.strip())),
        made_by=str(made.get("judge", "")) if isinstance(made, Mapping) else "",
    )


def sides_of(sample: Sample) -> tuple[str, str]:
    """Return the texts of the chosen and the rejected answer of a pair; "" for a side that is missing."""
    chosen = sample.rewritten if sample.rewritten is not None else sample.turns[-1].rewritten
    return chosen or "", sample.rejected or ""


def question_digest(sample: Sample) -> str:
    """Return a digest of what was asked: all turns up to the last question, and the pictures' bytes."""
    said = [part for turn in sample.turns[:-1] for part in (turn.instruction, turn.response)]
    return digest("\0".join([*said, asked_digest(sample.turns[-1].instruction, sample.images)]))


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that the checks read.

    Attributes:
        settings: of the audit.
        judge: whose judgement is audited; "" if there are pairs without any ratings.
        reference: a judge that is taken to be right; "" if it did not rate.
        others: the other judges that rated.
        prompts: rated prompts.
        pairs: the pairs; without any, each prompt's best answer and its worst.
        given: whether the pairs were given.
        labels: what people think.
    """

    settings: AuditSettings
    judge: str
    reference: str
    others: tuple[str, ...]
    prompts: Sequence[Prompt]
    pairs: Sequence[AuditedPair]
    given: bool
    labels: Labels


def gather(collected: Collected, labels: Labels) -> Evidence:
    """Settle whose judgement is audited, and join pairs with the prompts they were made of.

    Raises:
        ValueError: there is nothing to audit, or it is unclear which judge is meant.
    """
    if not collected.prompts and not collected.pairs:
        raise ValueError("no sample has rated answers or a rejected one; give the output of rate or of pair")
    settings, prompts = collected.settings, [*collected.prompts.values()]
    counts = Counter(reading.judge for prompt in prompts for reading in prompt.readings if not reading.blind)
    named = Counter(pair.made_by for pair in collected.pairs if pair.made_by)
    judge = _judge(settings, counts, named)
    pairs = [_joined(pair, collected.prompts) for pair in collected.pairs]
    return Evidence(
        settings=settings,
        judge=judge,
        reference=settings.reference if settings.reference in counts and settings.reference != judge else "",
        others=tuple(one for one in sorted(counts) if one != judge),
        prompts=prompts,
        pairs=pairs or [found for prompt in prompts if (found := _best_and_worst(prompt, judge))],
        given=bool(pairs),
        labels=labels,
    )


def _judge(settings: AuditSettings, counts: Mapping[str, int], named: Mapping[str, int]) -> str:
    if settings.judge:
        if settings.judge not in counts:
            known = ", ".join(sorted(counts)) or "none"
            raise ValueError(f"audit.judge: {settings.judge!r} rated nothing here; the judges are {known}")
        return settings.judge
    if len(named) == 1 and next(iter(named)) in counts:
        return next(iter(named))
    judges = [one for one in sorted(counts) if one != settings.reference] or [*counts]
    if len(judges) > 1:
        raise ValueError(f"audit.judge: several judges rated ({', '.join(judges)}); name the one that made the pairs")
    return judges[0] if judges else ""


def _joined(pair: AuditedPair, prompts: Mapping[str, Prompt]) -> AuditedPair:
    """Find the prompt of a pair by its key, or by its key without a last part such as "/pair2"."""
    prompt = prompts.get(pair.key) or prompts.get(pair.key.rpartition("/")[0])
    if prompt is None:
        return pair
    places = {found: answer for answer, found in reversed([*enumerate(prompt.digests)])}
    chosen, rejected = (places.get(side) for side in pair.sides)
    answers = None if chosen is None or rejected is None else (chosen, rejected)
    return replace(pair, prompt=prompt, answers=answers)


def _best_and_worst(prompt: Prompt, judge: str) -> AuditedPair | None:
    scores = prompt.scores(judge)
    if len(scores) < 2:
        return None
    best, worst = max(scores, key=lambda one: scores[one]), min(scores, key=lambda one: scores[one])
    if not sign(scores[best] - scores[worst]):
        return None
    return AuditedPair(
        key=prompt.key,
        shard=prompt.shard,
        question=prompt.asked,
        asked=prompt.asked,
        sides=(prompt.digests[best], prompt.digests[worst]),
        lengths=(prompt.lengths[best], prompt.lengths[worst]),
        made_by=judge,
        prompt=prompt,
        answers=(best, worst),
    )


def side_of(vote: Vote, pair: AuditedPair) -> int:
    """Return 1 if a vote's first answer is the chosen side of a pair, -1 if it is the rejected one, else 0."""
    sides = _text_of(vote.first, pair), _text_of(vote.second, pair)
    return 1 if sides == pair.sides else -1 if sides == pair.sides[::-1] else 0


def _text_of(side: Side, pair: AuditedPair) -> str | None:
    """Return the digest of an answer that a vote names: two answers with the same text are one."""
    if not isinstance(side, int):
        return pair.sides[side == "rejected"]
    place = pair.prompt.numbered(side) if pair.prompt else None
    return None if pair.prompt is None or place is None else pair.prompt.digests[place]
