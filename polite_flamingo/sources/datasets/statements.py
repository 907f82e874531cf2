"""Statements about images, true or false: VSR (one photograph) and NLVR2 (a pair of them).

Both are JSON lines, NLVR2 despite its `.json`. A statement becomes the question whether it is correct, in one of
several wordings (`instructions.py`); its label becomes the answer yes or no. Labels are compared unchanged: NLVR2's are
the strings "True" and "False", and both are true for Python's `bool`. The lists of validators are not used. VSR's
images are COCO 2017's, and are fetched by their URLs if that is allowed. NLVR2's never are: some of its URLs now lead
to other pictures, which only its authors' hashes reveal.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.sources.reading.field_checks import (
    as_object,
    describe_type,
    id_field,
    required,
    text_field,
    usable_id,
)
from polite_flamingo.sources.reading.streaming import json_lines
from polite_flamingo.sources.records.instructions import instruction
from polite_flamingo.sources.records.readers import keep_fields, list_reader
from polite_flamingo.sources.records.source import Context, Source
from polite_flamingo.sources.records.vqa_samples import derived_id, question_of, vqa_sample

_ANSWERS = {"1": "yes", "True": "yes", "0": "no", "False": "no"}


def answer(record: dict[str, Any]) -> str:
    """Turn a label (1 or 0, "True" or "False") into yes or no."""
    label = required(record, "label")
    if not isinstance(label, int | str) or str(label) not in _ANSWERS:
        raise BadSample("bad_field", f"field 'label' must be true or false, not {describe_type(label)}")
    return _ANSWERS[str(label)]


def build_vsr(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a statement."""
    statement, said, name = question_of(record, "caption"), answer(record), text_field(record, "image")
    names = (f"{place}{name}" for place in ("", "images/", "train2017/", "val2017/"))
    image = context.local_or_downloaded(record.get("image_link"), *names)
    return vqa_sample(key, instruction("statement", key, statement=statement), said, image, image_id=name)


def nlvr2_statements(path: Path) -> Iterator[Any]:
    """Yield the statements of a file, each with its split: the first part of the identifier."""
    for record in json_lines(path):
        split = (usable_id(record, "identifier") or "").split("-")[0]
        yield keep_fields(record, ("identifier", "sentence", "label", "directory"), split=split)


def build_nlvr2(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a statement. The two images of `dev-896-0-1` are `dev-896-0-img0` and `-img1`."""
    statement, said = question_of(record, "sentence"), answer(record)
    pair, dash, _ = id_field(record, "identifier").rpartition("-")
    if not dash:
        raise BadSample("bad_field", "field 'identifier' must be split-set-pair-sentence")
    split, part = text_field(record, "split"), usable_id(record, "directory")  # training images: numbered folders
    places = ["", f"{split}/", f"images/{split}/", *([f"images/{split}/{part}/"] if part else [])]
    left, right = (context.images.read(*(f"{place}{pair}-img{n}.png" for place in places))[0] for n in (0, 1))
    return vqa_sample(key, instruction("pair_statement", key, statement=statement), said, left, right, image_id=pair)


_source = functools.partial(Source, use="evaluation", task="vqa", evidence="real file")

VSR = _source(
    name="vsr",
    title="VSR (visual spatial reasoning)",
    files="SPLIT.jsonl (random or zeroshot); <image>, which are COCO 2017's",
    published="github.com/cambridgeltl/visual-spatial-reasoning",
    licence="Apache-2.0",
    records=list_reader(json_lines, "questions", "image", "image_link", "caption", "label"),
    identify=lambda record: derived_id(text_field(as_object(record), "image"), question_of(record, "caption")),
    build=build_vsr,
)
NLVR2 = _source(
    name="nlvr2",
    title="NLVR2",
    files="SPLIT.json, of JSON lines; images/SPLIT/<identifier without its last part>-img0.png and -img1.png",
    published="github.com/lil-lab/nlvr",
    licence="CC BY 4.0",
    records=list_reader(nlvr2_statements, "statements"),
    identify=lambda record: id_field(as_object(record), "identifier"),
    build=build_nlvr2,
    split_in_record=True,
)
