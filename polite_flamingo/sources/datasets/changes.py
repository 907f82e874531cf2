"""Pairs of images with sentences on what differs: LEVIR-CC (aerial), Spot-the-Diff (surveillance video) and
Image-Editing-Request (a photograph, and the same one edited on request).

A pair becomes one sample: its distinct sentences, one per line. LEVIR-CC's five sentences say the same thing, and so do
the requests for an edit (one in train, three in valid and test). Spot-the-Diff's sentences each name another change.
The first two include pairs without a difference, which are kept.
"""

from __future__ import annotations

from typing import Any

from polite_flamingo.sample import BadSample, Image, Sample, Turn
from polite_flamingo.sources.reading.field_checks import as_object, id_field, required, text_field, text_list
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.streaming import elements, listed
from polite_flamingo.sources.records.instructions import instruction
from polite_flamingo.sources.records.responses import change_response, distinct
from polite_flamingo.sources.records.source import Context, Place, Records, Source, SourceOptions, numbered, split_of


def levir_cc_records(options: SourceOptions, scratch: Scratch) -> Records:
    """The pairs; one file holds all splits."""
    for path in options.annotations:
        for part, number, record in listed(path, "images"):
            yield Place(file=path.name, part=part), number, record


def build_levir_cc(key: str, record: dict[str, Any], context: Context) -> Sample:
    """One pair, one sample."""
    raw = required(record, "sentences")
    if not isinstance(raw, list):
        raise BadSample("bad_field", f"field 'sentences' must be a list, not {type(raw).__name__}")
    # " a large building replaces the woods ." : the blank before the full stop comes from tokenising
    found = [text_field(as_object(sentence), "raw").removesuffix(" .") for sentence in raw]
    name, split = text_field(record, "filename"), split_of(record, context.options)
    before, after = (
        context.images.read(f"{split}/{side}/{name}", f"images/{split}/{side}/{name}", f"{side}/{name}")[0]
        for side in "AB"
    )
    meta = {"changed": record["changeflag"]} if record.get("changeflag") in (0, 1) else {}
    return _pair("levir_cc", key, found, before, after, meta)


def pair_records(options: SourceOptions, scratch: Scratch) -> Records:
    """The pairs of files that are one list."""
    for path in options.annotations:
        yield from numbered(Place(file=path.name, part="pairs"), elements(path))


def build_spot_the_diff(key: str, record: dict[str, Any], context: Context) -> Sample:
    """One pair, one sample."""
    name = id_field(record, "img_id")
    before, after = (context.images.read(f"{name}{end}.png", f"{name}{end}.jpg")[0] for end in ("", "_2"))
    return _pair("spot_the_diff", key, text_list(record, "sentences"), before, after, {})


def build_image_editing_request(key: str, record: dict[str, Any], context: Context) -> Sample:
    """One pair, one sample: the question is what was asked for, not what differs."""
    before, after = (
        context.images.read(name, f"images/{name}")[0]
        for name in (text_field(record, "img0"), text_field(record, "img1"))
    )
    return _pair("image_editing_request", key, text_list(record, "sents"), before, after, {}, pool="image_editing")


def _pair(
    name: str,
    key: str,
    sentences: list[str],
    before: Image,
    after: Image,
    meta: dict[str, Any],
    pool: str = "change_captioning",
) -> Sample:
    found = distinct(sentences)
    if not found:
        raise BadSample("missing_annotation", "the pair has no sentence")
    return Sample(
        key=key,
        dataset=name,
        task="change_captioning",
        turns=(Turn(instruction=instruction(pool, key), response=change_response(found)),),
        images=(before, after),
        meta={**meta, "sentences": len(found)},
    )


LEVIR_CC = Source(
    name="levir_cc",
    title="LEVIR-CC",
    use="PF-1M",
    task="change_captioning",
    files="LevirCCcaptions.json; images/SPLIT/A/<filename> (before) and images/SPLIT/B/<filename> (after)",
    published="github.com/Chen-Yang-Liu/LEVIR-CC-Dataset",
    evidence="transcribed",
    adopted=6_761,
    records=levir_cc_records,
    identify=lambda record: id_field(as_object(record), "filename").rsplit(".", 1)[0],
    build=build_levir_cc,
    split_in_record=True,
)
SPOT_THE_DIFF = Source(
    name="spot_the_diff",
    title="Spot-the-Diff",
    use="PF-1M",
    task="change_captioning",
    files="SPLIT.json; <img_id>.png (before) and <img_id>_2.png (after)",
    published="github.com/harsh19/spot-the-diff",
    evidence="real file",
    adopted=6_787,
    records=pair_records,
    identify=lambda record: id_field(as_object(record), "img_id"),
    build=build_spot_the_diff,
)
IMAGE_EDITING_REQUEST = Source(
    name="image_editing_request",
    title="Image-Editing-Request",
    use="PF-1M",
    task="change_captioning",
    files="SPLIT.json; images/<img0> (before) and images/<img1> (after)",
    published="github.com/airsplay/VisualRelationships",
    evidence="real file",
    adopted=2_747,
    records=pair_records,
    identify=lambda record: id_field(as_object(record), "uid"),
    build=build_image_editing_request,
)
