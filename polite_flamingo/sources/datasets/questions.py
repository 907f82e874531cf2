"""VQA with question, answer and image name in one record: CLEVR, GQA, OCR-VQA, ChartQA, GRiD-3D.

GRiD-3D is known only from its authors' README and data loader (github.com/knowledgetechnologyuhh/grid-3d); no excerpt
of `questions.json` was available.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.sources.reading.field_checks import (
    as_object,
    id_field,
    list_field,
    required,
    text_field,
    text_list,
    usable_id,
)
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.streaming import elements, entries
from polite_flamingo.sources.records.instructions import with_image_marks
from polite_flamingo.sources.records.readers import elements_of, keep_fields, list_reader
from polite_flamingo.sources.records.source import Context, Place, Records, Source, SourceOptions, split_of
from polite_flamingo.sources.records.vqa_samples import UNLISTED, answer_of, derived_id, question_of, vqa_sample

OCR_VQA_SPLITS = {1: "train", 2: "val", 3: "test"}


def build_clevr(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a question."""
    question, answer = question_of(record), answer_of(record)
    name, split = text_field(record, "image_filename"), split_of(record, context.options)
    image, _ = context.images.read(name, f"{split}/{name}", f"images/{split}/{name}")
    return vqa_sample(key, with_image_marks(question), answer, image, image_id=name)


def gqa_questions(path: Path) -> Iterator[Any]:
    """Yield the questions of GQA's object of question id -> fields; the id joins the fields."""
    for question_id, fields in entries(path):
        yield fields | {"question_id": question_id} if isinstance(fields, dict) else fields


def build_gqa(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a question. The short answer is used; the full sentence stays in `meta`."""
    question, answer = question_of(record), answer_of(record)
    image_id = id_field(record, "imageId")
    full = {"full_answer": text_field(record, "fullAnswer")} if record.get("fullAnswer") is not None else {}
    names = (f"{place}{image_id}.{end}" for place in ("", "images/") for end in ("jpg", "png"))
    image, _ = context.images.read(*names)
    return vqa_sample(key, with_image_marks(question), answer, image, image_id=image_id, **full)


def build_chartqa(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a question; even numeric answers are strings in the file."""
    question, answer = question_of(record, "query"), answer_of(record, "label")
    name, split = text_field(record, "imgname"), split_of(None, context.options)
    image, _ = context.images.read(name, f"png/{name}", f"{split}/png/{name}")
    return vqa_sample(key, with_image_marks(question), answer, image, image_id=name)


def ocr_vqa_records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the questions of each book, paired with its answers; one without a partner is a row too."""
    for path in options.annotations:
        for book, (book_id, fields) in enumerate(entries(path)):
            place = Place(file=path.name, part=f"books[{book}].questions")
            try:
                split = required(as_object(fields), "split")
                if isinstance(split, bool) or not isinstance(split, int) or split not in OCR_VQA_SPLITS:
                    raise BadSample("bad_field", "field 'split' must be 1, 2 or 3")
                pairs = [list_field(fields, name) for name in ("questions", "answers")]
                if not any(pairs):
                    raise BadSample("missing_annotation", "the book has no questions")
            except BadSample as bad:
                yield place, 0, bad
                continue
            shared = {"split": OCR_VQA_SPLITS[split], "book": book_id, "imageURL": fields.get("imageURL")}
            for number, (question, answer) in enumerate(zip_longest(*pairs)):
                yield place, number, {**shared, "number": number, "question": question, "answer": answer}


def build_ocr_vqa(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a question. Its image is named by the book and the suffix of its URL, or is fetched there."""
    question, answer = question_of(record), answer_of(record)
    book, url = id_field(record, "book"), text_field(record, "imageURL")
    try:
        suffix = PurePosixPath(urlsplit(url).path).suffix
    except ValueError:
        raise BadSample("bad_field", "field 'imageURL' is not a URL") from None
    names = [f"{place}{book}{end}" for end in dict.fromkeys((suffix, ".jpg")) for place in ("", "images/")]
    image = context.local_or_downloaded(url, *names)
    return vqa_sample(key, with_image_marks(question), answer, image, image_id=book)


def grid_3d_records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the questions, each with its place in the list, which is its id, and the split whose list has that."""
    lists = [path for path in options.annotations if "_idxs" in path.stem]
    for path in lists:
        for place in elements(path):
            if (found := usable_id({"id": place}, "id")) is not None:
                scratch.put("split", found, path.stem.split("_idxs")[0])
    for path in options.annotations:
        if path not in lists:
            for number, record in enumerate(elements(path)):
                split = (scratch.get("split", str(number)) or [UNLISTED])[0] if lists else ""
                data = keep_fields(record, ("question", "answer", "img_idx"), number=number, split=split)
                yield Place(file=path.name, part="questions"), number, data


def build_grid_3d(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a question. Questions are lists of words; the images' numbers may have leading zeros."""
    question = " ".join(text_list(record, "question")).replace(" ?", "?").replace(" ,", ",")
    if not question:
        raise BadSample("bad_field", "the question is empty")
    answer, image_id = answer_of(record), id_field(record, "img_idx")
    names = [f"{place}{image_id.zfill(width)}.png" for width in range(1, 8) for place in ("", "images/")]
    image, _ = context.images.read(*dict.fromkeys(names))
    return vqa_sample(key, with_image_marks(question), answer, image, image_id=image_id)


_source = functools.partial(Source, task="vqa")

CLEVR = _source(
    name="clevr",
    title="CLEVR",
    use="PF-1M",
    files="CLEVR_SPLIT_questions.json (also CoGenT's); images/SPLIT/<image_filename>",
    published="cs.stanford.edu/people/jcjohns/clevr",
    licence="CC BY 4.0",
    evidence="transcribed",
    adopted=26_390,
    records=list_reader(
        elements_of("questions"), "questions", "question_index", "question", "answer", "image_filename", "split"
    ),
    identify=lambda record: id_field(as_object(record), "question_index"),
    build=build_clevr,
    split_in_record=True,
)
GQA = _source(
    name="gqa",
    title="GQA",
    use="PF-1M",
    files="SPLIT_balanced_questions.json (one or several of a folder's parts); images/<imageId>.jpg",
    published="cs.stanford.edu/people/dorarad/gqa",
    licence="CC BY 4.0",
    evidence="transcribed",
    adopted=223_244,
    records=list_reader(gqa_questions, "questions", "question_id", "question", "answer", "fullAnswer", "imageId"),
    identify=lambda record: id_field(as_object(record), "question_id"),
    build=build_gqa,
)
OCR_VQA = _source(
    name="ocr_vqa",
    title="OCR-VQA",
    use="PF-1M",
    files="dataset.json; images/<book id><suffix of its imageURL>",
    published="ocr-vqa.github.io",
    evidence="transcribed",
    adopted=24_164,
    records=ocr_vqa_records,
    identify=lambda record: f"{id_field(record, 'book')}-{record['number']}",
    build=build_ocr_vqa,
    split_in_record=True,
)
CHARTQA = _source(
    name="chartqa",
    title="ChartQA",
    use="evaluation",
    files="SPLIT_human.json and SPLIT_augmented.json; png/<imgname>",
    published="github.com/vis-nlp/ChartQA",
    licence="GPL-3.0",
    evidence="transcribed",
    records=list_reader(elements, "questions", "imgname", "query", "label"),
    identify=lambda record: derived_id(text_field(as_object(record), "imgname"), question_of(record, "query")),
    build=build_chartqa,
)
GRID_3D = _source(
    name="grid_3d",
    title="GRiD-3D",
    use="evaluation",
    files="questions.json, and to tell its splits train_idxs.json, val_idxs.json, test_idxs.json; images/<img_idx>.png",
    published="github.com/knowledgetechnologyuhh/grid-3d",
    evidence="documentation",
    records=grid_3d_records,
    identify=lambda record: id_field(as_object(record), "number"),
    build=build_grid_3d,
    split_in_record=True,
)
