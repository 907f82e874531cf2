"""VQA whose answers come with a reason: A-OKVQA, VQA-E, ScienceQA. Answer and reason become one response.

A-OKVQA: the answer is the correct choice, since the rationales were written to explain it and the ten direct answers
are often all different; if a record has no choices, their majority is used. Of the three rationales (three people
explaining the same) the first that is not empty is used, and all are kept in `meta`. Images are COCO **2017**.

VQA-E is known from its README only (github.com/liqing-ustc/VQA-E). The answer is the annotators' majority; on a tie,
it is `multiple_choice_answer`, to which the explanation belongs. The explanation's score is not
used. Images are COCO 2014.

ScienceQA: the hint and the answers to choose from are part of the instruction. The reason is the `solution`, or, where
that is empty, the `lecture`. More than half of the questions have no image: they become samples without one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from polite_flamingo.sample import BadSample, Image, Sample
from polite_flamingo.sources.datasets.coco import coco_names
from polite_flamingo.sources.reading.field_checks import (
    as_object,
    as_text,
    id_field,
    list_field,
    required,
    text_field,
    text_list,
    usable_id,
)
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.streaming import elements, members
from polite_flamingo.sources.records.instructions import multiple_choice, with_image_marks
from polite_flamingo.sources.records.readers import keep_fields, list_reader
from polite_flamingo.sources.records.source import (
    Context,
    Place,
    Records,
    Source,
    SourceOptions,
    extra_choice,
    split_of,
)
from polite_flamingo.sources.records.vqa_samples import (
    UNLISTED,
    derived_id,
    index_of,
    majority,
    options_of,
    question_of,
    vqa_sample,
)

_AOKVQA_FIELDS = (
    "question_id", "split", "question", "image_id", "choices", "correct_choice_idx", "direct_answers", "rationales",
)  # fmt: skip


def build_aokvqa(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a question."""
    question, answer = question_of(record), _aokvqa_answer(record)
    rationales = text_list(record, "rationales") if record.get("rationales") is not None else []
    if not rationales:
        raise BadSample("missing_annotation", "the question has no rationale")
    image_id, split = id_field(record, "image_id"), split_of(record, context.options)
    stems = (f"{place}{image_id.zfill(12)}" for place in ("", f"{split}2017/", "images/"))
    image, _ = context.images.read(*(f"{stem}.{end}" for stem in stems for end in ("jpg", "png")))
    meta = {"image_id": image_id, "rationales": rationales}
    return vqa_sample(key, with_image_marks(question), answer, image, rationale=rationales[0], **meta)


def _aokvqa_answer(record: dict[str, Any]) -> str:
    if record.get("choices") is not None and record.get("correct_choice_idx") is not None:
        options = options_of(record)
        return options[index_of(record, options, "correct_choice_idx")]
    if record.get("direct_answers") is None:
        raise BadSample("missing_annotation", "the question has no answer (as in test splits)")
    return majority(record["direct_answers"])[0]


def build_vqa_e(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a question."""
    question, (answer, counts) = question_of(record), majority(required(record, "answers"))
    if record.get("multiple_choice_answer") is not None:
        explained = text_field(record, "multiple_choice_answer")
        answer = explained if counts.get(explained) == counts[answer] else answer
    explanation = list_field(record, "explanation")
    if not explanation:
        raise BadSample("bad_field", "field 'explanation' must be a list of a text and its score")
    rationale = as_text(explanation[0], "explanation[0]")
    if not rationale:
        raise BadSample("missing_annotation", "the question has no explanation")
    image_id = _vqa_e_image(record)
    subtype = f"{context.options.split or 'train'}2014"
    image, _ = context.images.read(*coco_names({"image_id": image_id}, subtype))
    meta = {"image_id": image_id, "answers": counts}
    return vqa_sample(key, with_image_marks(question), answer, image, rationale=rationale, **meta)


def _vqa_e_image(record: dict[str, Any]) -> str:
    """Return the image's name. The README calls the field `image_id`, the file `img_id`."""
    return id_field(record, "img_id" if "img_id" in record else "image_id")


_SPLIT_LISTS = ("train", "val", "test", "trainval", "minitrain", "minival", "minitest")


def scienceqa_records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the problems. If one does not name its split, the lists of pid_splits.json do.

    With `questions=with_image`, which the 4,596 in PF-1M must all be, the others are passed over.
    """
    passed_over = extra_choice(options, "questions", "all", "with_image") == "with_image"
    names = ("question", "choices", "answer", "hint", "image", "solution", "split")
    otherwise = ""
    for path in options.annotations:
        for split, ids in members(path):
            if isinstance(ids, Iterator) and split in _SPLIT_LISTS[:3]:
                otherwise = UNLISTED
                for problem in ids:
                    scratch.put("split", usable_id({"id": problem}, "id") or "", split)  # "" is nobody's id
    for path in options.annotations:
        place = Place(file=path.name, part="problems")
        for number, (problem, fields) in enumerate(members(path)):
            if isinstance(fields, Iterator):
                if problem not in _SPLIT_LISTS:
                    yield place, number, BadSample("bad_field", "a record must be an object, not list")
                continue
            record = keep_fields(fields, names, id=problem)
            if isinstance(record, dict):
                if passed_over and record.get("image") is None:
                    continue
                # a lecture has up to 7,000 characters, and is needed only without a solution
                record |= {} if fields.get("solution") else keep_fields(fields, ("lecture",))
                known = scratch.get("split", usable_id(record, "id") or "")
                record["split"] = record.get("split") or (known or [otherwise])[0]
            yield place, number, record


def build_scienceqa(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a problem."""
    question, options = question_of(record), options_of(record)
    answer = options[index_of(record, options)]
    hint = text_field(record, "hint") if record.get("hint") is not None else ""
    sources = ((name, text_field(record, name)) for name in ("solution", "lecture") if record.get(name) is not None)
    name, rationale = next((found for found in sources if found[1]), ("", ""))
    if not rationale:
        raise BadSample("missing_annotation", "the question has neither solution nor lecture")
    images: tuple[Image, ...] = ()
    meta = {"rationale_from": name}
    if record.get("image") is not None:
        problem, file, split = id_field(record, "id"), text_field(record, "image"), split_of(record, context.options)
        places = (f"{split}/{problem}", f"images/{split}/{problem}", problem)
        images = (context.images.read(*(f"{place}/{file}" for place in places))[0],)
        meta |= {"image_id": f"{split}/{problem}"}
    asked = with_image_marks(multiple_choice(question, options, hint), images=len(images))
    return vqa_sample(key, asked, answer, *images, rationale=rationale, **meta)


_source = functools.partial(Source, use="PF-1M", task="vqa_rationale")

AOKVQA = _source(
    name="aokvqa",
    title="A-OKVQA",
    files="aokvqa_v1p0_SPLIT.json; SPLIT2017/%012d.jpg",
    published="github.com/allenai/aokvqa",
    licence="Apache-2.0",
    evidence="transcribed",
    adopted=14_868,
    records=list_reader(elements, "questions", *_AOKVQA_FIELDS),
    identify=lambda record: id_field(as_object(record), "question_id"),
    build=build_aokvqa,
    split_in_record=True,
)
VQA_E = _source(
    name="vqa_e",
    title="VQA-E",
    files="VQA-E_SPLIT_set.json; COCO 2014 images, SPLIT2014/COCO_SPLIT2014_%012d.jpg",
    published="github.com/liqing-ustc/VQA-E",
    licence="MIT",
    evidence="documentation",
    adopted=65_133,
    records=list_reader(
        elements, "questions", "img_id", "image_id", "question", "answers", "multiple_choice_answer", "explanation"
    ),
    identify=lambda record: derived_id(_vqa_e_image(as_object(record)), question_of(record)),
    build=build_vqa_e,
)
SCIENCEQA = _source(
    name="scienceqa",
    title="ScienceQA",
    files="problems.json, and pid_splits.json if it does not name splits; SPLIT/<id>/image.png",
    published="github.com/lupantech/ScienceQA",
    licence="CC BY-NC-SA 4.0",
    evidence="real file",
    adopted=4_596,
    records=scienceqa_records,
    identify=lambda record: id_field(as_object(record), "id"),
    build=build_scienceqa,
    split_in_record=True,
    extra={"questions": "all (the default; more than half have no image) or with_image"},
)
