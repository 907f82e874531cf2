"""CLEVR (and CoGenT): one question a record, its answer a string; the test split has none and is quarantined whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polite_flamingo.sample import BadSample, Sample, Turn
from polite_flamingo.sources.base import Context, Place, Source, SourceOptions, split_of
from polite_flamingo.sources.instructions import ask
from polite_flamingo.sources.reading import entry, identity, text
from polite_flamingo.sources.responses import answer_response
from polite_flamingo.sources.shelf import Shelf
from polite_flamingo.sources.streaming import listed


def records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
    """The questions."""
    for path in options.annotations:
        for part, number, question in listed(path, "questions"):
            yield Place(file=path.name, part=part), number, question


def build(key: str, record: dict[str, Any], context: Context) -> Sample:
    """One question, one sample."""
    if record.get("answer") is None:
        raise BadSample("missing_annotation", f"question {identity(record, 'question_index')} has no answer")
    question, answer = text(record, "question"), text(record, "answer")
    if not question:
        raise BadSample("bad_field", "the question is empty")
    if not answer:
        raise BadSample("empty_response", "the answer is empty")
    name, split = text(record, "image_filename"), split_of(record, context.options)
    image, _ = context.images.read(name, f"{split}/{name}", f"images/{split}/{name}")
    return Sample(
        key=key,
        dataset="clevr",
        task="vqa",
        turns=(Turn(instruction=ask(question), response=answer_response(answer)),),
        images=(image,),
        meta={"image_id": name},
    )


SOURCE = Source(
    name="clevr",
    title="CLEVR",
    use="PF-1M",
    task="vqa",
    category="VQA",
    files="CLEVR_SPLIT_questions.json; images/SPLIT/<image_filename>",
    published="cs.stanford.edu/people/jcjohns/clevr",
    licence="CC BY 4.0",
    evidence="transcribed",
    adopted=26_390,
    records=records,
    identify=lambda record: identity(entry(record), "question_index"),
    build=build,
    split_in_record=True,
)
