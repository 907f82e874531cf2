"""Make the preview of an ingest, one HTML page: samples as it would write them, and rows that it would quarantine.

Texts are complete: long ones are folded, none is cut. Images are re-encoded (`gallery.thumbnail`), large enough to see
the marks that a source draws on them. Everything is escaped (`template.py`). The caller chooses the rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polite_flamingo.faults.hints import hint
from polite_flamingo.images import decoding
from polite_flamingo.report.gallery import Thumbnail, printable, thumbnail
from polite_flamingo.report.selection import TASK_NAMES
from polite_flamingo.report.template import fill
from polite_flamingo.sample import IMAGE_MARK, BadSample, Image, Quarantined, Sample
from polite_flamingo.sources.list_sources import EVIDENCE
from polite_flamingo.sources.records.source import Source, SourceOptions
from polite_flamingo.storage.location import Location, write_atomically

MAX_SIDE = 1600
QUALITY = 92
IMAGE_SPACE = (300, 340)
"""Width and height in pixels of an image on the page before it is opened, as in preview.css on a phone."""
FOLDED_FROM = 1500
"""Characters from which a text is folded."""
LINES_FOLDED_FROM = 45
"""Lines from which a text is folded: captions with all their boxes (`boxes.MAX_BOXES`) have fewer."""
MAX_FAILURES = 12
"""Failures shown per reason; the rest is folded."""
START = 500
START_LINES = 12
"""Characters and lines of a folded text that are shown."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text as parts: strings, and the numbers of images in place of their marks."""

    parts: tuple[str | int, ...]
    start: tuple[str | int, ...]
    """The visible start of a folded text; empty for other texts."""
    characters: int


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image of a sample: its thumbnail, and facts about its file."""

    thumbnail: Thumbnail
    facts: str

    @property
    def large(self) -> bool:
        """Whether the page shows it smaller than it is."""
        return self.thumbnail.width > IMAGE_SPACE[0] or self.thumbnail.height > IMAGE_SPACE[1]


def write_preview(
    where: Path | Location,
    *,
    source: Source,
    options: SourceOptions,
    rows: Sequence[Sample | Quarantined],
    looked_at: int,
    reasons: Mapping[str, int],
    command: str,
    notes: Mapping[str, int] | None = None,
    name: str = "",
) -> None:
    """Write the page, atomically.

    Args:
        where: the HTML file.
        source: the source that was read.
        options: where it was read from.
        rows: samples to show and quarantined records, in the order of the annotations.
        looked_at: number of records that were read to choose them.
        reasons: number of those that could not become samples, by reason.
        command: the command that makes this page.
        notes: what the source guessed, passed over or ignored -> how often.
        name: name of the shards that would be written; "" takes the source's.
    """
    failures: dict[str, list[Quarantined]] = {reason: [] for reason in sorted(reasons, key=lambda r: -reasons[r])}
    for row in rows:
        if isinstance(row, Quarantined):
            failures[row.reason].append(row)
    page = fill(
        "preview",
        source=source,
        shards=name or source.name,
        evidence=EVIDENCE[source.evidence],
        facts=list(_facts(options)),
        notes=notes or {},
        samples=[row for row in rows if isinstance(row, Sample)],
        pictures=lambda sample: list(map(_picture, sample.images)),
        turns=_turns,
        meta=_meta,
        failures=[(reason, reasons[reason], shown) for reason, shown in failures.items()],
        hint=hint(reasons),
        most=MAX_FAILURES,
        looked_at=looked_at,
        quarantined=sum(reasons.values()),
        command=re.split(r" (?=--)", command),
        task_names=TASK_NAMES,
    )
    write_atomically(where, page)


def _facts(options: SourceOptions) -> Iterator[tuple[str, list[str]]]:
    """Yield name and values of each option that was given."""
    yield "Annotations", [str(path) for path in options.annotations]
    if options.images:
        yield "Images", [str(options.images)]
    if options.split:
        yield "Split", [options.split]
    for name, values in (("Columns", options.columns), ("Extra", options.extra)):
        if values:
            yield name, [f"{key}={value}" for key, value in values.items()]
    if options.download_from:
        yield "Downloads from", list(options.download_from)


def _turns(sample: Sample) -> list[tuple[Text, Text, bool]]:
    """Return the instruction and the response of each turn, and whether it is learned."""
    turns, seen = [], 0
    for turn in sample.turns:
        turns.append((_text(turn.instruction, seen), _text(turn.response), turn.learned))
        seen += turn.instruction.count(IMAGE_MARK)
    return turns


def _meta(sample: Sample) -> str:
    """Return the sample's `meta` as JSON, without the place that it comes from; "" if there is nothing else."""
    meta = {name: value for name, value in sample.meta.items() if name != "source"}
    return json.dumps(meta, ensure_ascii=False, indent=2, default=str) if meta else ""


def _picture(image: Image) -> Picture:
    size = len(image.data)
    facts = [image.extension, f"{size / 1000:,.0f} kB" if size >= 1000 else f"{size} bytes"]
    try:
        header = decoding.inspect(image.data)
        facts.insert(1, f"{header.width} × {header.height}")
    except BadSample:  # the thumbnail says so
        pass
    return Picture(thumbnail=thumbnail(image.data, MAX_SIDE, QUALITY), facts=", ".join(facts))


def _text(text: str, images_before: int | None = None) -> Text:
    """Number the image marks of a text after `images_before` (None: it has none), and fold it if it is long."""
    text = printable(text)
    folded = len(text) > FOLDED_FROM or text.count("\n") >= LINES_FOLDED_FROM
    start = _start(text) if folded else ""
    return Text(
        parts=tuple(_parts(text, images_before)), start=tuple(_parts(start, images_before)), characters=len(text)
    )


def _start(text: str) -> str:
    """Return the start of a text: whole lines if there are many, else whole words."""
    lines = text[:START].split("\n")
    return "\n".join(lines[:START_LINES]) if len(lines) > START_LINES else text[:START].rsplit(None, 1)[0]


def _parts(text: str, images_before: int | None) -> Iterator[str | int]:
    if images_before is None:
        yield from [text] if text else []
        return
    for number, part in enumerate(text.split(IMAGE_MARK)):
        if number:
            yield images_before + number
        if part:
            yield part
