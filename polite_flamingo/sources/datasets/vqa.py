"""Datasets in the layout of VQA-v2: VQA-v2 itself, OK-VQA, and TextVQA (which also has a layout of its own).

Questions and annotations lie in two files, joined by `question_id`; the answer is the one that most of the ten
annotators gave (the first of equally frequent ones). `multiple_choice_answer` is not read: in TextVQA's files it is
merely the first answer. OK-VQA's `answer` is stemmed, which helps counting; the response uses its most frequent
`raw_answer`. What TextVQA's annotators could tick instead of answering ("unanswerable", "answering does not require
reading text in the image") counts as an answer; `meta` has all counts.
Rows in: the questions, plus every annotation that is malformed, repeated, or has no question.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.sources.datasets.coco import coco_names
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import as_object, as_text, id_field, usable_id
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.streaming import members
from polite_flamingo.sources.records.instructions import with_image_marks
from polite_flamingo.sources.records.source import Builder, Context, Place, Records, Source, SourceOptions
from polite_flamingo.sources.records.vqa_samples import majority, question_of, vqa_sample

ImageNames = Callable[[dict[str, Any], str], list[str]]
"""(question, the file's data_subtype) -> the names under which its image may lie."""

_LISTS = ("questions", "annotations", "data")


def textvqa_names(question: dict[str, Any], subtype: str) -> list[str]:
    """Return the file names for an Open Images id; train and validation share a folder."""
    name = f"{id_field(question, 'image_id')}.jpg"
    return [name, f"train_images/{name}", f"test_images/{name}"]


def records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the questions as {record, answers, subtype}, and each annotation that belongs to none.

    The names of their lists tell questions from annotations. Both wait in the scratch space, because either may come
    first and `data_subtype` may follow the questions that it describes.
    """
    asking = False
    for file, path in enumerate(options.annotations):
        found = False
        for part, value in members(path):
            if part == "data_subtype":
                scratch.put("subtype", str(file), None if isinstance(value, Iterator) else value)
            if part not in _LISTS:
                continue
            if not isinstance(value, Iterator):
                raise SourceError(f"{path}: {part!r} must be a list; is it the right file?")
            found = True
            asking |= part != "annotations"
            for number, record in enumerate(value):
                if part == "annotations":
                    joins = usable_id(record, "question_id")
                    answers = _answers_only(record.get("answers")) if joins else record
                    scratch.put("annotations", joins or "", [path.name, number, answers])
                else:
                    scratch.put("questions", usable_id(record, "question_id") or "", [file, part, number, record])
        if not found:
            raise SourceError(f"{path} holds neither 'questions', 'annotations' nor 'data'; see --list")
    if not asking:
        raise SourceError("none of the files holds questions: pass the questions file too")

    for question_id, (name, number, answers) in scratch.items("annotations"):
        place = Place(file=name, part="annotations")
        if bad := _unjoined(question_id, answers, scratch):
            yield place, number, bad
    for question_id, (file, part, number, record) in scratch.items("questions"):
        given = scratch.get("annotations", question_id) if question_id else []
        subtype = (scratch.get("subtype", str(file)) or [None])[-1]
        path = options.annotations[file]
        data = {"record": record, "answers": given[0][2] if given else None, "subtype": subtype}
        yield Place(file=path.name, part=part), number, data


def _answers_only(answers: Any) -> Any:
    """Keep only what the ten annotators said, a quarter of the file. `majority` refuses what is malformed later."""
    if not isinstance(answers, list):
        return answers
    return [item["answer"] if isinstance(item, dict) and "answer" in item else item for item in answers]


def _unjoined(question_id: str, annotation: Any, scratch: Scratch) -> BadSample | None:
    """Say why an annotation is of no use."""
    if not question_id:
        try:
            id_field(as_object(annotation), "question_id")
        except BadSample as bad:
            return bad
    if not scratch.has("questions", question_id):
        return BadSample("missing_annotation", f"question {question_id} of this answer is not in any questions file")
    if not scratch.is_new(f"annotation {question_id}"):
        return BadSample("duplicate_key", f"question {question_id} is answered earlier; the first is kept")
    return None


def identify(record: dict[str, Any]) -> str:
    """Return the question's id."""
    return id_field(as_object(record["record"]), "question_id")


def builder(image_names: ImageNames) -> Builder:
    """Make the `build` function of a dataset in this layout."""

    def build(key: str, joined: dict[str, Any], context: Context) -> Sample:
        record, subtype = joined["record"], joined["subtype"]
        question_id = id_field(record, "question_id")
        answers = record.get("answers", joined["answers"])
        if answers is None:
            raise BadSample("missing_annotation", f"question {question_id} has no answers")
        question = question_of(record)
        answer, counts = majority(answers)
        named = as_text(subtype, "field 'data_subtype'") if subtype else f"{context.options.split or 'train'}2014"
        image, _ = context.images.read(*image_names(record, named))
        image_id = id_field(record, "image_id")
        return vqa_sample(key, with_image_marks(question), answer, image, image_id=image_id, answers=counts)

    return build


_source = functools.partial(Source, task="vqa", licence="CC BY 4.0", records=records, identify=identify)

VQA_V2 = _source(
    name="vqa_v2",
    title="VQA-v2",
    use="PF-1M",
    files="v2_OpenEnded_mscoco_SPLIT2014_questions.json and v2_mscoco_SPLIT2014_annotations.json; COCO 2014 images",
    published="visualqa.org",
    evidence="transcribed",
    adopted=210_743,
    build=builder(coco_names),
)
OKVQA = _source(
    name="okvqa",
    title="OK-VQA",
    use="evaluation",
    files="OpenEnded_mscoco_SPLIT2014_questions.json and mscoco_SPLIT2014_annotations.json; COCO 2014 images",
    published="okvqa.allenai.org",
    evidence="transcribed",
    build=builder(coco_names),
)
TEXTVQA = _source(
    name="textvqa",
    title="TextVQA",
    use="PF-1M",
    files="TextVQA_0.5.1_SPLIT.json, or its questions and annotations in VQA layout; train_images/<image_id>.jpg",
    published="textvqa.org",
    evidence="real file",
    adopted=30_056,
    build=builder(textvqa_names),
)
