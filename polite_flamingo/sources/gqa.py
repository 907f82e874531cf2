"""GQA: an object of question id -> record. The short answer is used; the full sentence stays in `meta`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polite_flamingo.sample import BadSample, Sample, Turn
from polite_flamingo.sources.base import Context, Place, Source, SourceOptions, numbered
from polite_flamingo.sources.instructions import ask
from polite_flamingo.sources.reading import entry, identity, text
from polite_flamingo.sources.responses import answer_response
from polite_flamingo.sources.shelf import Shelf
from polite_flamingo.sources.streaming import entries


def records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
    """The questions, as [id, fields]. A record's number is its place in the object."""
    for path in options.annotations:
        yield from numbered(Place(file=path.name, part="questions"), entries(path))


def build(key: str, record: tuple[str, Any], context: Context) -> Sample:
    """One question, one sample."""
    fields = entry(record[1])
    if fields.get("answer") is None:
        raise BadSample("missing_annotation", "the question has no answer (as in the test splits)")
    question, answer = text(fields, "question"), text(fields, "answer")
    if not question:
        raise BadSample("bad_field", "the question is empty")
    if not answer:
        raise BadSample("empty_response", "the answer is empty")
    image_id = identity(fields, "imageId")
    names = [f"{place}{image_id}.{extension}" for place in ("", "images/") for extension in ("jpg", "png")]
    image, _ = context.images.read(*names)
    full = {"full_answer": text(fields, "fullAnswer")} if fields.get("fullAnswer") is not None else {}
    return Sample(
        key=key,
        dataset="gqa",
        task="vqa",
        turns=(Turn(instruction=ask(question), response=answer_response(answer)),),
        images=(image,),
        meta={"image_id": image_id, **full},
    )


SOURCE = Source(
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
    records=records,
    identify=lambda record: identity({"question id": record[0]}, "question id"),
    build=build,
)
