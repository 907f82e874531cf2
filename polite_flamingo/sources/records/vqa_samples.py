"""What the VQA datasets share: questions, answers, choices, and the sample they become."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

from polite_flamingo.sample import BadSample, Image, Sample
from polite_flamingo.sources.reading.field_checks import as_text, required, text_field
from polite_flamingo.sources.records.responses import answer_response
from polite_flamingo.sources.records.source import one_turn

UNLISTED = "unlisted"
"""The split of records that no list of a split names."""


def vqa_sample(key: str, instruction: str, answer: str, *images: Image, rationale: str = "", **meta: Any) -> Sample:
    """Make the sample of a question; with a rationale its task is `vqa_rationale`."""
    task = "vqa_rationale" if rationale else "vqa"
    return one_turn(key, task, instruction, answer_response(answer, rationale), images, meta)


def question_of(record: dict[str, Any], name: str = "question") -> str:
    """Return the text of a question, which must not be empty."""
    question = text_field(record, name)
    if not question:
        raise BadSample("bad_field", "the question is empty")
    return question


def answer_of(record: dict[str, Any], name: str = "answer") -> str:
    """Return the text of an answer. Test splits have none: `missing_annotation`; "" is an `empty_response`."""
    if record.get(name) is None:
        raise BadSample("missing_annotation", "the question has no answer (as in test splits)")
    answer = text_field(record, name)
    if not answer:
        raise BadSample("empty_response", "the answer is empty")
    return answer


def derived_id(image: str, question: str) -> str:
    """Make an id for a question without one: the image's name and a digest of what is asked about it."""
    return f"{PurePosixPath(image).stem}-{hashlib.sha256(question.encode()).hexdigest()[:12]}"


def majority(answers: Any) -> tuple[str, dict[str, int]]:
    """Return the most frequent answer (the first of equals), and how often each was given.

    Args:
        answers: a list of strings, or of objects with an `answer` and perhaps a `raw_answer`, its unstemmed form.
    """
    if not isinstance(answers, list):
        raise BadSample("bad_field", f"field 'answers' must be a list, not {type(answers).__name__}")
    given = []
    for number, answer in enumerate(answers):
        what = f"answers[{number}]"
        said = answer.get("raw_answer") if isinstance(answer, dict) else None
        stem = as_text(required(answer, "answer") if isinstance(answer, dict) else answer, what)
        given.append((stem, as_text(said, what) or stem if said is not None else stem))
    counts = Counter(stem for stem, _ in given if stem)
    if not counts:
        raise BadSample("empty_response", "no annotator gave an answer")
    (answer, _), *_ = counts.most_common(1)  # the first of equals
    (raw, _), *_ = Counter(raw for stem, raw in given if stem == answer).most_common(1)
    return raw, dict(counts)


MAX_OPTIONS = 26
"""As many as there are letters."""

NO_OPTION = ("", "{}")
"""What AI2D's files have in place of an answer that the annotators did not give."""


def options_of(record: dict[str, Any], name: str = "choices") -> list[str]:
    """Return the answers to choose from, in their places."""
    values = required(record, name)
    if not isinstance(values, list) or not 0 < len(values) <= MAX_OPTIONS:
        raise BadSample("bad_field", f"field {name!r} must be a list of 1 to {MAX_OPTIONS} answers")
    return [as_text(value, f"{name}[{number}]") for number, value in enumerate(values)]


def index_of(record: dict[str, Any], options: list[str], name: str = "answer") -> int:
    """Return the place of the right answer, counted from 0. It is null in test splits: `missing_annotation`."""
    index = record.get(name)
    if index is None:
        raise BadSample("missing_annotation", "the question has no answer (as in test splits)")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(options):
        raise BadSample("bad_field", f"field {name!r} must count from 0 to {len(options) - 1}")
    if options[index] in NO_OPTION:
        raise BadSample("empty_response", "the correct choice is empty")
    return index
