"""Pairs of images with sentences on what differs: LEVIR-CC (aerial), Spot-the-Diff (surveillance video) and
Image-Editing-Request (a photograph, and the same one edited on request).

A pair becomes one sample: its distinct sentences, one per line. LEVIR-CC's five sentences say the same thing, and so do
the requests for an edit (one in train, three in valid and test). Spot-the-Diff's sentences each name another change.
The first two include pairs without a difference, which are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from polite_flamingo.sample import BadSample, Image, Sample
from polite_flamingo.sources.reading.field_checks import as_object, id_field, list_field, text_field, text_list
from polite_flamingo.sources.reading.streaming import elements
from polite_flamingo.sources.records.instructions import instruction
from polite_flamingo.sources.records.readers import elements_of, list_reader
from polite_flamingo.sources.records.responses import distinct, distinct_lines
from polite_flamingo.sources.records.source import Context, Source, one_turn, split_of


def build_levir_cc(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a pair."""
    # " a large building replaces the woods ." : the blank before the full stop comes from tokenising
    raw = list_field(record, "sentences")
    sentences = [text_field(as_object(sentence), "raw").removesuffix(" .") for sentence in raw]
    name, split = text_field(record, "filename"), split_of(record, context.options)
    images = [
        context.images.read(f"{split}/{side}/{name}", f"images/{split}/{side}/{name}", f"{side}/{name}")[0]
        for side in "AB"
    ]
    meta = {"changed": record["changeflag"]} if record.get("changeflag") in (0, 1) else {}
    return _pair(key, images, sentences, meta=meta)


def build_spot_the_diff(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a pair."""
    name = id_field(record, "img_id")
    images = [context.images.read(f"{name}{end}.png", f"{name}{end}.jpg")[0] for end in ("", "_2")]
    return _pair(key, images, text_list(record, "sentences"))


def build_image_editing_request(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a pair: the question is which edit was asked for, not what differs."""
    names = [text_field(record, "img0"), text_field(record, "img1")]
    images = [context.images.read(name, f"images/{name}")[0] for name in names]
    return _pair(key, images, text_list(record, "sents"), pool="image_editing")


def _pair(
    key: str,
    images: list[Image],
    sentences: list[str],
    *,
    pool: str = "change_captioning",
    meta: Mapping[str, Any] = MappingProxyType({}),
) -> Sample:
    """Make the sample of a pair of images, before and after."""
    found = distinct(sentences)
    if not found:
        raise BadSample("missing_annotation", "the pair has no sentence")
    meta = {**meta, "sentences": len(found)}
    return one_turn(key, "change_captioning", instruction(pool, key), distinct_lines(found), images, meta)


_source = functools.partial(Source, use="PF-1M", task="change_captioning")

LEVIR_CC = _source(
    name="levir_cc",
    title="LEVIR-CC",
    files="LevirCCcaptions.json; images/SPLIT/A/<filename> (before) and images/SPLIT/B/<filename> (after)",
    published="github.com/Chen-Yang-Liu/LEVIR-CC-Dataset",
    evidence="transcribed",
    adopted=6_761,
    records=list_reader(elements_of("images"), "images"),
    identify=lambda record: id_field(as_object(record), "filename").rsplit(".", 1)[0],
    build=build_levir_cc,
    split_in_record=True,
)
SPOT_THE_DIFF = _source(
    name="spot_the_diff",
    title="Spot-the-Diff",
    files="SPLIT.json; <img_id>.png (before) and <img_id>_2.png (after)",
    published="github.com/harsh19/spot-the-diff",
    evidence="real file",
    adopted=6_787,
    records=list_reader(elements, "pairs"),
    identify=lambda record: id_field(as_object(record), "img_id"),
    build=build_spot_the_diff,
)
IMAGE_EDITING_REQUEST = _source(
    name="image_editing_request",
    title="Image-Editing-Request",
    files="SPLIT.json; images/<img0> (before) and images/<img1> (after)",
    published="github.com/airsplay/VisualRelationships",
    evidence="real file",
    adopted=2_747,
    records=list_reader(elements, "pairs"),
    identify=lambda record: id_field(as_object(record), "uid"),
    build=build_image_editing_request,
)
