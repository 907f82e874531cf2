"""The samples that a report shows: read from their shards, with thumbnails and texts of readable length.

Only shards that hold a picked sample are read, one at a time. Images are re-encoded as thumbnails, so no byte of a
source's file reaches the page. Control characters are removed from texts; the template escapes them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from PIL import Image as Pillow

from polite_flamingo.conversations import asked, parts_of, polite_text
from polite_flamingo.filters.thresholds import (
    FILTERS,
    JUDGE,
    REJECTIONS,
    TURN_FAILED,
    Thresholds,
    apply_thresholds,
    first_failure,
    nli_margin,
)
from polite_flamingo.formatting import fixed
from polite_flamingo.images import decoding
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.selection.select_shard import CHECK_OF, split_paragraphs
from polite_flamingo.selection.statistics import Pick, Statistics
from polite_flamingo.storage.in_order import in_order

SHARDS_AT_ONCE = 4
"""Shards that are read, and held, at once."""

MAX_SIDE = 320
MAX_TEXT = 560
MAX_KEPT_CARDS = 12
MAX_SIDE_CARDS = 2
"""Most cards on each side of a threshold."""
MAX_WORST_CARDS = 3

CHECKS_BY_INTEREST = sorted(CHECK_OF.values(), key=lambda check: (check.filter == "rules", FILTERS.index(check.filter)))
"""The checks of models first: their thresholds are the ones that users move."""


_MARKS = {check.name for check in CHECK_OF.values() if check.filter == JUDGE}


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """An image as a `data:` URI with its size in pixels, or the `problem` because of which there is none."""

    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A paragraph of a rewritten text; `removed` if its CLIPScore was too low."""

    text: str
    removed: bool = False
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """One sample, or turn of one, before and after; in a group at a threshold also its `side` and its `exact` score."""

    key: str
    dataset: str
    task: str
    question: str
    raw: str
    paragraphs: tuple[Paragraph, ...]
    pictures: tuple[Thumbnail, ...]
    numbers: tuple[tuple[str, str], ...]
    kept: bool
    reason: str
    side: str = ""
    exact: str = ""
    before: tuple[tuple[str, str], ...] = ()
    """The turns before: what was asked, and said."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cards under one heading."""

    kind: str
    name: str
    cards: tuple[Card, ...]


def collect_gallery(
    statistics: Statistics, thresholds: Thresholds, *, read: Callable[[str], Iterable[Sample]]
) -> list[Group]:
    """Read the samples to show.

    Args:
        statistics: statistics of the whole run.
        thresholds: the selection's thresholds.
        read: returns the samples of a scored shard, given its name; called in threads, once per shard that is needed.

    Raises:
        ValueError: a shard no longer holds a picked sample.
    """
    plan = list(_plan(statistics))
    needed: dict[str, set[str]] = {}
    for _, _, picks in plan:
        for _, pick in picks:
            needed.setdefault(pick.shard, set()).add(pick.key)

    def picked(shard: str) -> dict[tuple[str, str], Sample]:
        parts = (part for sample in read(shard) for part in parts_of(sample).values())
        return {(shard, part.key): part for part in parts if part.key in needed[shard]}

    found: dict[tuple[str, str], Sample] = {}
    for shard, samples in zip(sorted(needed), in_order(picked, sorted(needed), SHARDS_AT_ONCE), strict=True):
        found |= samples
        missing = sorted(key for key in needed[shard] if (shard, key) not in found)
        if missing:
            raise ValueError(f"shard {shard!r} no longer holds {missing[0]!r}; run the selection again")
    return [
        Group(
            kind=kind,
            name=name,
            cards=tuple(_card(found[pick.shard, pick.key], thresholds, side, name) for side, pick in picks),
        )
        for kind, name, picks in plan
    ]


def _plan(statistics: Statistics) -> Iterable[tuple[str, str, list[tuple[str, Pick]]]]:
    """Yield (kind, name, picks with their side of the threshold) for each group of cards, in the order of the page."""
    by_dataset = [picks for slot, picks in sorted(statistics.picks.items()) if slot.startswith("kept/")]
    turns = [
        picks[turn] for turn in range(max(map(len, by_dataset), default=0)) for picks in by_dataset if turn < len(picks)
    ]
    if turns:
        yield "kept", "", [("", pick) for pick in turns[:MAX_KEPT_CARDS]]
    for check in CHECKS_BY_INTEREST:
        under = [("under", pick) for pick in statistics.picks.get(f"under/{check.name}", [])[:MAX_SIDE_CARDS]]
        over = [("over", pick) for pick in statistics.picks.get(f"over/{check.name}", [])[:MAX_SIDE_CARDS]]
        if under or (over and check.filter != "rules"):
            yield "threshold", check.name, under[::-1] + over
    for reason in REJECTIONS:
        if picks := statistics.picks.get(f"worst/{reason}"):
            yield "worst", reason, [("", pick) for pick in picks[:MAX_WORST_CARDS]]


def _card(sample: Sample, thresholds: Thresholds, side: str, group: str) -> Card:
    verdicts = apply_thresholds(sample, thresholds)
    failure = first_failure(verdicts)
    deciding = next((verdict for verdict in verdicts if verdict.filter == group), None)
    duplicate = group == "duplicate_key"
    reason = "duplicate_key" if duplicate else failure.reason if failure else ""
    if sample.turns[0].failed:
        reason = TURN_FAILED
    return Card(
        key=sample.key,
        dataset=sample.dataset,
        task=sample.task,
        question=readable(sample.question),
        raw=readable(sample.response),
        paragraphs=_paragraphs(sample, thresholds),
        pictures=tuple(thumbnail(image.data) for image in sample.images[:2]),
        numbers=tuple(_numbers(sample.scores)),
        kept=not reason,
        reason=reason,
        side=side,
        exact=f"{deciding.score:.7g}" if deciding and deciding.score is not None else "",
        before=turns_before(sample),
    )


def turns_before(sample: Sample) -> tuple[tuple[str, str], ...]:
    """Return what was asked and said in the turns before a turn of a conversation, of readable length."""
    return tuple((readable(asked(turn)), readable(polite_text(turn))) for turn in sample.before)


def _paragraphs(sample: Sample, thresholds: Thresholds) -> tuple[Paragraph, ...]:
    stay, go = split_paragraphs(sample, thresholds)
    if not (stay or go):
        return (Paragraph(text=readable(sample.rewritten or "")),)
    gone = {text for _, text in go}
    scores = {text: score for score, text in stay + go}
    texts = [text for text in (sample.rewritten or "").split("\n\n") if text in scores]
    return tuple(Paragraph(text=readable(text), removed=text in gone, score=scores[text]) for text in texts)


def _numbers(scores: Any) -> Iterable[tuple[str, str]]:
    """Yield the scores of a sample as (label, formatted number)."""
    if scores.get("reward") is not None and scores.get("reward_raw") is not None:
        yield "reward", f"{fixed(scores['reward_raw'])} → {fixed(scores['reward'])}"
    if scores.get("same_text"):
        yield "wording", "unchanged"  # `same_text` ignores case, punctuation and `Answer:`; Rouge-L does not
    labels = {"sts": "STS", "rouge_l": "Rouge-L", "repetition": "repetition"}
    for name, label in labels.items():
        if scores.get(name) is not None and not (name == "repetition" and scores[name] < 0.1):
            yield label, fixed(scores[name])
    if scores.get("clip_paragraphs"):
        yield "CLIPScore", " · ".join(map(fixed, scores["clip_paragraphs"]))
    marks = {name.removeprefix("judge_").replace("_", " "): mark for name, mark in scores.items() if name in _MARKS}
    if marks and None not in marks.values():
        yield "judge", " · ".join(f"{axis} {mark}" for axis, mark in marks.items())
    logits = scores.get("nli")
    if logits and None not in logits:
        label = ("contradiction", "entailment", "neutral")[max(range(3), key=lambda i: (logits[i], -i))]
        yield "NLI", f"{label}, margin {fixed(nli_margin(logits))}"


def readable(text: str, length: int = MAX_TEXT) -> str:
    """Return a text without unprintable characters, cut to `length`."""
    return printable(text if len(text) <= length else text[:length].rstrip() + " …")


def printable(text: str) -> str:
    """Return a text without control characters and lone surrogates."""
    shown = text.encode("utf-8", "replace").decode()
    return "".join(c for c in shown if c in "\n\t" or not (ord(c) < 32 or 0x7F <= ord(c) < 0xA0))


def thumbnail(data: bytes, side: int = MAX_SIDE, quality: int = 80) -> Thumbnail:
    """Shrink an image to at most `side` pixels per side, as WebP: small ones lossless, others at `quality` (of 100)."""
    try:
        image = decoding.decode(data)
    except BadSample as bad:
        return Thumbnail(problem=bad.reason)
    image.thumbnail((side, side), Pillow.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=image.width * image.height <= 128 * 128, quality=quality, method=4)
    uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Thumbnail(uri=uri, width=image.width, height=image.height)
