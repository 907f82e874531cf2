"""Datasets in the layout of VQA-v2: VQA-v2 itself, and TextVQA (which also has a layout of its own).

Questions and annotations lie in two files, joined by `question_id`; the answer is the one most of the ten annotators
gave (of equally frequent ones, the first). `multiple_choice_answer` is not read: in TextVQA's files it is merely the
first answer. Rows in: the questions, plus every annotation that is malformed, repeated, or has no question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from polite_flamingo.sample import BadSample, Sample, Turn
from polite_flamingo.sources.base import Place, Row, Source, SourceOptions, numbered, rows_of
from polite_flamingo.sources.instructions import ask
from polite_flamingo.sources.reading import (
    ImageFolder,
    SourceError,
    as_text,
    entry,
    found_id,
    identity,
    list_in,
    load_json,
    text,
    value_of,
)
from polite_flamingo.sources.responses import answer_response

ImageNames = Callable[[dict[str, Any], str], list[str]]
"""(question, the file's data_subtype) -> the names under which its image may lie."""


def majority(answers: Any) -> tuple[str, dict[str, int]]:
    """The most frequent answer (the first of equals), and how often each was given.

    Args:
        answers: a list of strings, or of objects with an `answer`.
    """
    if not isinstance(answers, list):
        raise BadSample("bad_field", f"field 'answers' must be a list, not {type(answers).__name__}")
    given = []
    for number, answer in enumerate(answers):
        value = value_of(answer, "answer") if isinstance(answer, dict) else answer
        given.append(as_text(value, f"answers[{number}]"))
    counts = Counter(answer for answer in given if answer)
    if not counts:
        raise BadSample("empty_response", "no annotator gave an answer")
    return max(counts, key=counts.__getitem__), dict(counts)  # max and Counter both keep the first


def coco_names(question: dict[str, Any], subtype: str) -> list[str]:
    """COCO's file name of a numeric `image_id`: of 2014/2015 with their prefix, of 2017 without."""
    image_id = identity(question, "image_id")
    number = image_id.zfill(12)
    stems = [f"COCO_{subtype}_{number}", f"{subtype}/COCO_{subtype}_{number}", number]
    return [f"{stem}.{extension}" for stem in stems for extension in ("jpg", "png")]


def textvqa_names(question: dict[str, Any], subtype: str) -> list[str]:
    """Open Images ids; train and validation share a folder."""
    name = f"{identity(question, 'image_id')}.jpg"
    return [name, f"train_images/{name}", f"test_images/{name}"]


def reader(name: str, image_names: ImageNames) -> Callable[[SourceOptions], Iterator[Row]]:
    """The adapter of a dataset in this layout."""

    def read(options: SourceOptions) -> Iterator[Row]:
        folder = ImageFolder.of(options.images)
        questions: list[tuple[Place, int, Any]] = []
        annotations: list[tuple[Place, int, Any]] = []
        asking = False
        for path in options.annotations:
            content = load_json(path, dict)
            lists = [part for part in ("questions", "annotations", "data") if part in content]
            if not lists:
                raise SourceError(f"{path} holds neither 'questions', 'annotations' nor 'data'; see --list")
            for part in lists:
                place, items = Place(file=path.name, part=part), list_in(path, content, part)
                if part == "annotations":
                    annotations.extend(numbered(place, items))
                else:
                    asking = True
                    questions.extend(numbered(place, [(item, content.get("data_subtype")) for item in items]))
        if not asking:
            raise SourceError(f"{name}: none of the files holds questions: pass the questions file too")

        answers: dict[str, Any] = {}
        yield from _join(annotations, questions, answers)

        def build(key: str, asked: tuple[dict[str, Any], Any]) -> Sample:
            record, subtype = asked
            question_id = identity(record, "question_id")
            annotation = record if "answers" in record else answers.get(question_id, {})
            if "answers" not in annotation:
                raise BadSample("missing_annotation", f"question {question_id} has no answers")
            question = text(record, "question")
            if not question:
                raise BadSample("bad_field", f"question {question_id} is empty")
            answer, counts = majority(annotation["answers"])
            named = as_text(subtype, "field 'data_subtype'") if subtype else f"{options.split or 'train'}2014"
            image, _ = folder.read(*image_names(record, named))
            return Sample(
                key=key,
                dataset=name,
                task="vqa",
                turns=(Turn(instruction=ask(question), response=answer_response(answer)),),
                images=(image,),
                meta={"image_id": identity(record, "image_id"), "answers": counts},
            )

        yield from rows_of(
            name, questions, options, identify=lambda asked: identity(entry(asked[0]), "question_id"), build=build
        )

    return read


def _join(
    annotations: list[tuple[Place, int, Any]], questions: list[tuple[Place, int, Any]], answers: dict[str, Any]
) -> Iterator[Row]:
    """Fill `answers` by question id; yield the annotations that belong to no question."""
    asked = {found_id(question, "question_id") for _, _, (question, _) in questions}
    for place, number, annotation in annotations:
        try:
            question_id = identity(entry(annotation), "question_id")
            if question_id not in asked:
                raise BadSample("missing_annotation", f"question {question_id} of this answer is in no questions file")
            if question_id in answers:
                raise BadSample("duplicate_key", f"question {question_id} is answered before; the first is kept")
            answers[question_id] = annotation
        except BadSample as bad:
            yield place.quarantined(number, bad.reason, bad.detail)


VQA_V2 = Source(
    name="vqa_v2",
    task="vqa",
    category="VQA",
    files="v2_OpenEnded_mscoco_SPLIT2014_questions.json and v2_mscoco_SPLIT2014_annotations.json; COCO 2014 images",
    licence="CC BY 4.0",
    read=reader("vqa_v2", coco_names),
)
TEXTVQA = Source(
    name="textvqa",
    task="vqa",
    category="VQA",
    files="TextVQA_0.5.1_SPLIT.json, or its questions and annotations in VQA layout; train_images/<image_id>.jpg",
    licence="CC BY 4.0",
    read=reader("textvqa", textvqa_names),
)
