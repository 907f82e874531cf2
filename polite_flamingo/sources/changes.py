"""Pairs of images and the sentences that say what differs: LEVIR-CC (aerial) and Spot-the-Diff (surveillance video).

A pair becomes one sample: its distinct sentences, one a line. LEVIR-CC's five sentences say the same thing, those of
Spot-the-Diff each say another; both datasets hold pairs without a difference, which are kept as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polite_flamingo.sample import BadSample, Image, Sample, Turn
from polite_flamingo.sources.base import Place, Row, Source, SourceOptions, numbered, of_split, rows_of, split_of
from polite_flamingo.sources.instructions import instruction
from polite_flamingo.sources.reading import (
    ImageFolder,
    entry,
    identity,
    list_in,
    load_json,
    text,
    texts,
    value_of,
)
from polite_flamingo.sources.responses import change_response, distinct


def read_levir_cc(options: SourceOptions) -> Iterator[Row]:
    """One file holds all splits. Rows in: its images (pairs) of the wanted split."""
    folder = ImageFolder.of(options.images)
    records: list[tuple[Place, int, Any]] = []
    for path in options.annotations:
        content = load_json(path, dict, "images")
        records.extend(numbered(Place(file=path.name, part="images"), list_in(path, content, "images")))

    def build(key: str, record: dict[str, Any]) -> Sample:
        raw = value_of(record, "sentences")
        if not isinstance(raw, list):
            raise BadSample("bad_field", f"field 'sentences' must be a list, not {type(raw).__name__}")
        # " a large building replaces the woods ." : the blank before the full stop comes from tokenising
        found = [text(entry(sentence), "raw").removesuffix(" .") for sentence in raw]
        name, split = text(record, "filename"), split_of(record, options)
        before, after = (
            folder.read(f"{split}/{side}/{name}", f"images/{split}/{side}/{name}", f"{side}/{name}")[0] for side in "AB"
        )
        meta = {"changed": record["changeflag"]} if record.get("changeflag") in (0, 1) else {}
        return _pair("levir_cc", key, found, before, after, meta)

    def identify(record: Any) -> str:
        return identity(entry(record), "filename").rsplit(".", 1)[0]

    yield from rows_of("levir_cc", of_split(records, options), options, identify=identify, build=build)


def read_spot_the_diff(options: SourceOptions) -> Iterator[Row]:
    """Rows in: the records."""
    folder = ImageFolder.of(options.images)
    records: list[tuple[Place, int, Any]] = []
    for path in options.annotations:
        records.extend(numbered(Place(file=path.name, part="pairs"), load_json(path, list)))

    def build(key: str, record: dict[str, Any]) -> Sample:
        name = identity(record, "img_id")
        before, after = (folder.read(f"{name}{end}.png", f"{name}{end}.jpg")[0] for end in ("", "_2"))
        return _pair("spot_the_diff", key, texts(record, "sentences"), before, after, {})

    yield from rows_of(
        "spot_the_diff", records, options, identify=lambda record: identity(entry(record), "img_id"), build=build
    )


def _pair(name: str, key: str, sentences: list[str], before: Image, after: Image, meta: dict[str, Any]) -> Sample:
    found = distinct(sentences)
    if not found:
        raise BadSample("missing_annotation", "the pair has no sentence")
    return Sample(
        key=key,
        dataset=name,
        task="change_captioning",
        turns=(Turn(instruction=instruction("change_captioning", key), response=change_response(found)),),
        images=(before, after),
        meta={**meta, "sentences": len(found)},
    )


LEVIR_CC = Source(
    name="levir_cc",
    task="change_captioning",
    category="change captioning",
    files="LevirCCcaptions.json; images/SPLIT/A/<filename> (before) and images/SPLIT/B/<filename> (after)",
    read=read_levir_cc,
)
SPOT_THE_DIFF = Source(
    name="spot_the_diff",
    task="change_captioning",
    category="change captioning",
    files="SPLIT.json; <img_id>.png (before) and <img_id>_2.png (after)",
    read=read_spot_the_diff,
)
