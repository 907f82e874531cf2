"""GQA: an object of question id -> record. The short answer is used; the full sentence stays in `meta`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polite_flamingo.sample import BadSample, Sample, Turn
from polite_flamingo.sources.base import Place, Row, Source, SourceOptions, numbered, rows_of
from polite_flamingo.sources.instructions import ask
from polite_flamingo.sources.reading import ImageFolder, entry, identity, load_json, text
from polite_flamingo.sources.responses import answer_response


def read(options: SourceOptions) -> Iterator[Row]:
    """Rows in: the questions. A record's number is its place in the object."""
    folder = ImageFolder.of(options.images)
    records: list[tuple[Place, int, Any]] = []
    for path in options.annotations:
        records.extend(numbered(Place(file=path.name, part="questions"), load_json(path, dict).items()))

    def build(key: str, record: tuple[str, Any]) -> Sample:
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
        image, _ = folder.read(*names)
        full = {"full_answer": text(fields, "fullAnswer")} if fields.get("fullAnswer") is not None else {}
        return Sample(
            key=key,
            dataset="gqa",
            task="vqa",
            turns=(Turn(instruction=ask(question), response=answer_response(answer)),),
            images=(image,),
            meta={"image_id": image_id, **full},
        )

    yield from rows_of(
        "gqa",
        records,
        options,
        identify=lambda record: identity({"question id": record[0]}, "question id"),
        build=build,
    )


SOURCE = Source(
    name="gqa",
    task="vqa",
    category="VQA",
    files="SPLIT_balanced_questions.json (one or several of a folder's parts); images/<imageId>.jpg",
    licence="CC BY 4.0",
    read=read,
)
