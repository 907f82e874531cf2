"""A-OKVQA: a question, its answer and a rationale.

The answer is the correct choice: the rationales were written to explain it, and the ten direct answers are often all
different. Where a record has no choices, the majority of the direct answers is used. Of the three rationales (three
people explaining the same) the first that is not empty is used, and all are kept in `meta`. Images are COCO **2017**.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polite_flamingo.sample import BadSample, Sample, Turn
from polite_flamingo.sources.base import Context, Place, Source, SourceOptions, numbered, split_of
from polite_flamingo.sources.instructions import ask
from polite_flamingo.sources.reading import as_text, entry, identity, text, texts, value_of
from polite_flamingo.sources.responses import answer_response
from polite_flamingo.sources.shelf import Shelf
from polite_flamingo.sources.streaming import elements
from polite_flamingo.sources.vqa import majority


def records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
    """The questions."""
    for path in options.annotations:
        yield from numbered(Place(file=path.name, part="questions"), elements(path))


def build(key: str, record: dict[str, Any], context: Context) -> Sample:
    """One question, one sample."""
    question = text(record, "question")
    if not question:
        raise BadSample("bad_field", "the question is empty")
    answer = _answer(record)
    rationales = texts(record, "rationales") if record.get("rationales") is not None else []
    if not rationales:
        raise BadSample("missing_annotation", "the question has no rationale")
    image_id, split = identity(record, "image_id"), split_of(record, context.options)
    number = image_id.zfill(12)
    places = ("", f"{split}2017/", "images/")
    names = (f"{place}{number}.{extension}" for place in places for extension in ("jpg", "png"))
    image, _ = context.images.read(*names)
    return Sample(
        key=key,
        dataset="aokvqa",
        task="vqa_rationale",
        turns=(Turn(instruction=ask(question), response=answer_response(answer, rationales[0])),),
        images=(image,),
        meta={"image_id": image_id, "rationales": rationales},
    )


def _answer(record: dict[str, Any]) -> str:
    if record.get("choices") is not None and record.get("correct_choice_idx") is not None:
        choices, index = value_of(record, "choices"), record["correct_choice_idx"]
        if not isinstance(choices, list):
            raise BadSample("bad_field", f"field 'choices' must be a list, not {type(choices).__name__}")
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choices):
            raise BadSample("bad_field", f"field 'correct_choice_idx' must count from 0 to {len(choices) - 1}")
        answer = as_text(choices[index], f"choices[{index}]")
        if not answer:
            raise BadSample("empty_response", "the correct choice is empty")
        return answer
    if record.get("direct_answers") is None:
        raise BadSample("missing_annotation", "the question has no answer (as in the test split)")
    return majority(record["direct_answers"])[0]


SOURCE = Source(
    name="aokvqa",
    title="A-OKVQA",
    use="PF-1M",
    task="vqa_rationale",
    category="VQA with rationale",
    files="aokvqa_v1p0_SPLIT.json; SPLIT2017/%012d.jpg",
    published="github.com/allenai/aokvqa",
    licence="Apache-2.0",
    evidence="transcribed",
    adopted=14_868,
    records=records,
    identify=lambda record: identity(entry(record), "question_id"),
    build=build,
    split_in_record=True,
)
