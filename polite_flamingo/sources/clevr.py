"""CLEVR (and CoGenT): one question a record, its answer a string; the test split has none and is quarantined whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polite_flamingo.sample import BadSample, Sample, Turn
from polite_flamingo.sources.base import Place, Row, Source, SourceOptions, numbered, of_split, rows_of, split_of
from polite_flamingo.sources.instructions import ask
from polite_flamingo.sources.reading import ImageFolder, entry, identity, list_in, load_json, text
from polite_flamingo.sources.responses import answer_response


def read(options: SourceOptions) -> Iterator[Row]:
    """Rows in: the questions."""
    folder = ImageFolder.of(options.images)
    records: list[tuple[Place, int, Any]] = []
    for path in options.annotations:
        content = load_json(path, dict, "questions")
        records.extend(numbered(Place(file=path.name, part="questions"), list_in(path, content, "questions")))

    def build(key: str, record: dict[str, Any]) -> Sample:
        if record.get("answer") is None:
            raise BadSample("missing_annotation", f"question {identity(record, 'question_index')} has no answer")
        question, answer = text(record, "question"), text(record, "answer")
        if not question:
            raise BadSample("bad_field", "the question is empty")
        if not answer:
            raise BadSample("empty_response", "the answer is empty")
        name, split = text(record, "image_filename"), split_of(record, options)
        image, _ = folder.read(name, f"{split}/{name}", f"images/{split}/{name}")
        return Sample(
            key=key,
            dataset="clevr",
            task="vqa",
            turns=(Turn(instruction=ask(question), response=answer_response(answer)),),
            images=(image,),
            meta={"image_id": name},
        )

    yield from rows_of(
        "clevr",
        of_split(records, options),
        options,
        identify=lambda record: identity(entry(record), "question_index"),
        build=build,
    )


SOURCE = Source(
    name="clevr",
    task="vqa",
    category="VQA",
    files="CLEVR_SPLIT_questions.json; images/SPLIT/<image_filename>",
    licence="CC BY 4.0",
    read=read,
)
