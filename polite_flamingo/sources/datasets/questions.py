"""VQA with question, answer and image name in one record: CLEVR, GQA, OCR-VQA, ChartQA, GRiD-3D.

GRiD-3D is known from its authors' README and data loader only (github.com/knowledgetechnologyuhh/grid-3d): no excerpt
of `questions.json` was at hand. Besides, here is what every family of VQA builds its samples with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from polite_flamingo.sample import BadSample, Image, Sample, Turn
from polite_flamingo.sources.reading.checks import entry, found_id, identity, text, texts, value_of
from polite_flamingo.sources.reading.shelf import Shelf
from polite_flamingo.sources.reading.streaming import elements, entries, listed
from polite_flamingo.sources.records.instructions import ask
from polite_flamingo.sources.records.responses import answer_response
from polite_flamingo.sources.records.source import Context, Place, Source, SourceOptions, numbered, split_of

Records = Callable[[SourceOptions, Shelf], Iterator[tuple[Place, int, Any]]]

OCR_VQA_SPLITS = {1: "train", 2: "val", 3: "test"}

UNLISTED = "unlisted"
"""The split of what is in none of the lists that name splits."""


def answered(
    dataset: str, key: str, instruction: str, answer: str, *images: Image, rationale: str = "", **meta: Any
) -> Sample:
    """The sample of a question; with a rationale it is of task `vqa_rationale`."""
    return Sample(
        key=key,
        dataset=dataset,
        task="vqa_rationale" if rationale else "vqa",
        turns=(Turn(instruction=instruction, response=answer_response(answer, rationale)),),
        images=images,
        meta=meta,
    )


def question_of(record: dict[str, Any], name: str = "question") -> str:
    """The text of a question, which must not be empty."""
    question = text(record, name)
    if not question:
        raise BadSample("bad_field", "the question is empty")
    return question


def answer_of(record: dict[str, Any], name: str = "answer") -> str:
    """The text of an answer. Test splits have none: `missing_annotation`; "" is an `empty_response`."""
    if record.get(name) is None:
        raise BadSample("missing_annotation", "the question has no answer (as in test splits)")
    answer = text(record, name)
    if not answer:
        raise BadSample("empty_response", "the answer is empty")
    return answer


def named_by(image: str, question: str) -> str:
    """An id for questions without one: the image's name and a digest of what is asked about it."""
    return f"{PurePosixPath(image).stem}-{hashlib.sha256(question.encode()).hexdigest()[:12]}"


def only(record: Any, names: Iterable[str], **more: Any) -> Any:
    """Those fields of a record, and more ones; what is no object stays as it is, to be refused later."""
    return {name: record[name] for name in names if name in record} | more if isinstance(record, dict) else record


def recorder(read: Callable[[Path], Iterable[Any]], *names: str) -> Records:
    """The `records` of files from which `read` yields one question after another; only the fields `names` are kept."""

    def records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
        for path in options.annotations:
            yield from numbered(Place(file=path.name, part="questions"), (only(found, names) for found in read(path)))

    return records


def build_clevr(key: str, record: dict[str, Any], context: Context) -> Sample:
    """One question, one sample."""
    question, answer = question_of(record), answer_of(record)
    name, split = text(record, "image_filename"), split_of(record, context.options)
    image, _ = context.images.read(name, f"{split}/{name}", f"images/{split}/{name}")
    return answered("clevr", key, ask(question), answer, image, image_id=name)


def gqa_questions(path: Path) -> Iterator[Any]:
    """GQA's object of question id -> fields; the id joins the fields."""
    for question_id, fields in entries(path):
        yield fields | {"question_id": question_id} if isinstance(fields, dict) else fields


def build_gqa(key: str, record: dict[str, Any], context: Context) -> Sample:
    """One question, one sample. The short answer is used; the full sentence stays in `meta`."""
    question, answer = question_of(record), answer_of(record)
    image_id = identity(record, "imageId")
    full = {"full_answer": text(record, "fullAnswer")} if record.get("fullAnswer") is not None else {}
    image, _ = context.images.read(*_either(image_id, "", "images/"))
    return answered("gqa", key, ask(question), answer, image, image_id=image_id, **full)


def build_chartqa(key: str, record: dict[str, Any], context: Context) -> Sample:
    """One question, one sample; also answers that are numbers are strings in the file."""
    question, answer = question_of(record, "query"), answer_of(record, "label")
    name, split = text(record, "imgname"), split_of(None, context.options)
    image, _ = context.images.read(name, f"png/{name}", f"{split}/png/{name}")
    return answered("chartqa", key, ask(question), answer, image, image_id=name)


def ocr_vqa_records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
    """The questions of each book; questions and answers are parallel lists, and where one is longer that is a row."""
    for path in options.annotations:
        for book, (book_id, fields) in enumerate(entries(path)):
            place = Place(file=path.name, part=f"books[{book}].questions")
            try:
                split = value_of(entry(fields), "split")
                if isinstance(split, bool) or not isinstance(split, int) or split not in OCR_VQA_SPLITS:
                    raise BadSample("bad_field", "field 'split' must be 1, 2 or 3")
                pairs = [value_of(fields, name) for name in ("questions", "answers")]
                if not all(isinstance(found, list) for found in pairs):
                    raise BadSample("bad_field", "fields 'questions' and 'answers' must be lists")
                if not any(pairs):
                    raise BadSample("missing_annotation", "the book has no questions")
            except BadSample as bad:
                yield place, 0, bad
                continue
            shared = {"split": OCR_VQA_SPLITS[split], "book": book_id, "imageURL": fields.get("imageURL")}
            for number, (question, answer) in enumerate(zip_longest(*pairs)):
                yield place, number, {**shared, "number": number, "question": question, "answer": answer}


def build_ocr_vqa(key: str, record: dict[str, Any], context: Context) -> Sample:
    """One question, one sample. The image is named by the book and the suffix of its URL, or is fetched from there."""
    question, answer = question_of(record), answer_of(record)
    book, url = identity(record, "book"), text(record, "imageURL")
    try:
        suffix = PurePosixPath(urlsplit(url).path).suffix
    except ValueError:
        raise BadSample("bad_field", "field 'imageURL' is no URL") from None
    names = [f"{place}{book}{end}" for end in dict.fromkeys((suffix, ".jpg")) for place in ("", "images/")]
    image = context.local_or_downloaded(url, *names)
    return answered("ocr_vqa", key, ask(question), answer, image, image_id=book)


def grid_3d_records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
    """The questions, each with its place in the list, which is its id, and the split whose list has that place."""
    lists = [path for path in options.annotations if "_idxs" in path.stem]
    for path in lists:
        for place in elements(path):
            if (found := found_id({"id": place}, "id")) is not None:
                shelf.put("split", found, path.stem.split("_idxs")[0])
    for path in options.annotations:
        if path not in lists:
            for number, record in enumerate(elements(path)):
                split = (shelf.get("split", str(number)) or [UNLISTED])[0] if lists else ""
                data = only(record, ("question", "answer", "img_idx"), number=number, split=split)
                yield Place(file=path.name, part="questions"), number, data


def build_grid_3d(key: str, record: dict[str, Any], context: Context) -> Sample:
    """One question, one sample. Questions are lists of words; the images' numbers may have leading zeros."""
    question = " ".join(texts(record, "question")).replace(" ?", "?").replace(" ,", ",")
    if not question:
        raise BadSample("bad_field", "the question is empty")
    answer, image_id = answer_of(record), identity(record, "img_idx")
    names = [f"{place}{image_id.zfill(width)}.png" for width in range(1, 8) for place in ("", "images/")]
    image, _ = context.images.read(*dict.fromkeys(names))
    return answered("grid_3d", key, ask(question), answer, image, image_id=image_id)


def _either(stem: str, *folders: str) -> list[str]:
    return [f"{folder}{stem}.{extension}" for folder in folders for extension in ("jpg", "png")]


CLEVR = Source(
    name="clevr",
    title="CLEVR",
    use="PF-1M",
    task="vqa",
    category="VQA",
    files="CLEVR_SPLIT_questions.json (also CoGenT's); images/SPLIT/<image_filename>",
    published="cs.stanford.edu/people/jcjohns/clevr",
    licence="CC BY 4.0",
    evidence="transcribed",
    adopted=26_390,
    records=recorder(
        lambda path: (found for _, _, found in listed(path, "questions")),
        *("question_index", "question", "answer", "image_filename", "split"),
    ),
    identify=lambda record: identity(entry(record), "question_index"),
    build=build_clevr,
    split_in_record=True,
)
GQA = Source(
    name="gqa",
    title="GQA",
    use="PF-1M",
    task="vqa",
    category="VQA",
    files="SPLIT_balanced_questions.json (one or several of a folder's parts); images/<imageId>.jpg",
    published="cs.stanford.edu/people/dorarad/gqa",
    licence="CC BY 4.0",
    evidence="transcribed",
    adopted=223_244,
    records=recorder(gqa_questions, "question_id", "question", "answer", "fullAnswer", "imageId"),
    identify=lambda record: identity(entry(record), "question_id"),
    build=build_gqa,
)
OCR_VQA = Source(
    name="ocr_vqa",
    title="OCR-VQA",
    use="PF-1M",
    task="vqa",
    category="VQA",
    files="dataset.json; images/<book id><suffix of its imageURL>",
    published="ocr-vqa.github.io",
    evidence="transcribed",
    adopted=24_164,
    records=ocr_vqa_records,
    identify=lambda record: f"{identity(record, 'book')}-{record['number']}",
    build=build_ocr_vqa,
    split_in_record=True,
)
CHARTQA = Source(
    name="chartqa",
    title="ChartQA",
    use="evaluation",
    task="vqa",
    category="VQA",
    files="SPLIT_human.json and SPLIT_augmented.json; png/<imgname>",
    published="github.com/vis-nlp/ChartQA",
    licence="GPL-3.0",
    evidence="transcribed",
    records=recorder(elements, "imgname", "query", "label"),
    identify=lambda record: named_by(text(entry(record), "imgname"), question_of(record, "query")),
    build=build_chartqa,
)
GRID_3D = Source(
    name="grid_3d",
    title="GRiD-3D",
    use="evaluation",
    task="vqa",
    category="VQA",
    files="questions.json, and to tell its splits train_idxs.json, val_idxs.json, test_idxs.json; images/<img_idx>.png",
    published="github.com/knowledgetechnologyuhh/grid-3d",
    evidence="documentation",
    records=grid_3d_records,
    identify=lambda record: identity(entry(record), "number"),
    build=build_grid_3d,
    split_in_record=True,
)
