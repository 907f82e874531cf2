"""Read and write recorded answers: one JSON line per sample, `{"key": …, "response": …}`.

An unfinished answer has `"finish_reason": "length"` or `"content_filter"`. A failure is a line too, `{"key": …,
"failed": reason, "detail": …}`, so that it is counted with its reason. An evaluation records the answers of its models
in this format; the next one can read them as `recorded:FILE`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from polite_flamingo.endpoints.answers import Unfinished, ending
from polite_flamingo.evaluation.judging import Answer
from polite_flamingo.sample import REASONS, BadSample
from polite_flamingo.storage.location import Location, write_atomically
from polite_flamingo.text_files import read_text


def write_responses(file: Path | Location, answers: Mapping[str, Answer]) -> None:
    """Write answers by key, atomically."""
    lines = []
    for key, answer in answers.items():
        if isinstance(answer, BadSample):
            record = {"key": key, "failed": answer.reason, "detail": answer.detail}
        else:
            record = {"key": key, "response": answer}
            if isinstance(answer, Unfinished):
                record["finish_reason"] = answer.why
        lines.append(json.dumps(record) + "\n")  # ASCII, because a model may produce half of a surrogate pair
    write_atomically(file, "".join(lines))


def read_responses(file: Path | Location) -> dict[str, Answer]:
    """Read answers by key.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, or a line is invalid or repeats a key; the message names the line.
    """
    answers: dict[str, Answer] = {}
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            key, answer = _answer(json.loads(line))
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f'{file}, line {number}: each line must be like {{"key": "coco/val/1", "response": "A dog."}}'
            ) from None
        if key in answers:
            raise ValueError(f"{file}, line {number}: {key!r} is already on an earlier line")
        answers[key] = answer
    return answers


def known_responses(file: Path | Location) -> dict[str, Answer]:
    """Read answers by key; none if there is no file."""
    try:
        return read_responses(file)
    except FileNotFoundError:
        return {}


def _answer(record: Mapping[str, object]) -> tuple[str, Answer]:
    key = record["key"]
    if not isinstance(key, str):
        raise TypeError
    if "failed" in record:
        reason = record["failed"]
        if reason not in REASONS:
            raise ValueError
        return key, BadSample(reason, str(record.get("detail", "")))  # type: ignore[arg-type]
    response = record["response"]
    if not isinstance(response, str):
        raise TypeError
    return key, ending(response, record.get("finish_reason"))
