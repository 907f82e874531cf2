"""The judge, an optional filter: a chat model that marks each text from 1 to 5 on four axes.

The axes are those by which FineVision (arXiv 2510.17269) rated its turns, in our own words; its "image correspondence"
is `correctness` here, because the annotation is known: a text must say what the annotation says and the picture shows.

A judge is asked at temperature 0 and bound by a JSON schema. What it thinks of politeness is not asked: small models
find garbage, but do not judge manners. How far its marks can be trusted is measured (`evaluation/agreement.py`). A text
that it does not mark fails only if a threshold of the judge is set: no answer of it costs a sample otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polite_flamingo.endpoints.answers import Unfinished, first_choice, stripped, without_reasoning
from polite_flamingo.endpoints.batched import BatchedRequests, Route
from polite_flamingo.endpoints.connection import Refused
from polite_flamingo.endpoints.pictures import content, trial_image
from polite_flamingo.filters.endpoint_config import FilterEndpoint
from polite_flamingo.filters.served_models import ServedModel
from polite_flamingo.sample import IMAGE_MARK, BadSample, Sample, Turn
from polite_flamingo.usage import Usage

AXES = ("relevance", "correctness", "visual_dependency", "formatting")
MARKS = range(1, 6)

_SYSTEM = """\
You examine one exchange of a dataset of pictures and texts, made to train an assistant. Each message gives the \
question, the annotation that a person wrote for it unless it is the answer, and the answer to be marked{seeing}. Mark \
the answer on four axes, with whole numbers from 1 (bad) to 5 (good), each by itself:
relevance: does it answer the question? 5: directly and completely; 3: in part, or with much else; 1: not at all.
correctness: does it agree with the annotation, if there is one{shown}? 5: in everything, nothing is \
invented; 3: a detail is wrong or missing; 1: it contradicts them.
visual_dependency: must one see the picture to answer the question? 5: impossible without it; 3: it helps; 1: common \
knowledge or the question itself gives the answer.
formatting: is it well written? 5: complete, fluent sentences without errors; 3: understandable, but terse or clumsy; \
1: garbled, cut off, repetitive or full of markup.
Reply with JSON alone, such as {{"relevance": 4, "correctness": 2, "visual_dependency": 5, "formatting": 3}}."""

_NO_MARKS = "no marks in the answer"

SCHEMA = {
    "type": "object",
    "properties": {axis: {"type": "integer", "enum": [*MARKS]} for axis in AXES},
    "required": [*AXES],
    "additionalProperties": False,
}


@dataclass(frozen=True, kw_only=True)
class JudgeEndpoint(FilterEndpoint):
    """Chat servers whose model marks texts.

    Attributes:
        pictures: whether the model is shown the pictures; false for a language model.
        max_side: longest side of a picture in pixels; larger ones are scaled down before they are sent.
        structured: bind the answer by a JSON schema (`response_format`); false for servers that know none.
        max_tokens: longest answer in tokens, reasoning included.
    """

    pictures: bool = True
    max_side: int = 1024
    structured: bool = True
    max_tokens: int = 256

    def identity(self) -> dict[str, Any]:
        """Return what decides the marks: the wording too."""
        return {**super().identity(), "wording": _SYSTEM}


class Judge(ServedModel):
    """Asks the servers for marks, one request per sample."""

    def __init__(self, config: JudgeEndpoint):
        self._config = config
        self._requests = BatchedRequests(config, "scoring.judge", config.extra)
        self._route: Route[Any, dict[str, int] | str] = Route(
            path="/chat/completions",
            body=lambda contents: self._body(contents[0]),
            read=lambda said, _: [_marks_or_why(first_choice(said))],
            items=1,
        )
        turn, sky = Turn(instruction="<image>What is the weather like?", response="sunny"), trial_image()
        sample = Sample(
            key="trial", dataset="trial", task="vqa", turns=(turn,), images=(sky,), rewritten="It is sunny."
        )
        self._trial = (self._route, self._content(sample))

    def score(self, rows: Sequence[Sample], usage: Usage | None = None) -> list[dict[str, int] | str]:
        """Return each single-turn sample's marks by axis, or in a few words why it has none.

        A sample without pictures has no mark of `visual_dependency`.
        """
        usage = Usage() if usage is None else usage
        contents: dict[int, Any] = {}
        found: dict[int, dict[str, int] | str] = {}
        for number, sample in enumerate(rows):
            try:
                contents[number] = self._content(sample)
                if self._config.pictures:
                    usage["judge.images"] += len(sample.images)
            except BadSample as bad:
                found[number] = f"the picture cannot be read ({bad.reason})"
        answers = self._requests.ask(self._route, [*contents.values()], usage) if contents else []
        for number, answer in zip(contents, answers, strict=True):
            found[number] = _refusal(answer) if isinstance(answer, Refused) else answer
        return [_applicable(found[number], sample) for number, sample in enumerate(rows)]

    def _content(self, sample: Sample) -> Any:
        """Return what the user says: pictures, question, annotation and answer. Raises `BadSample` for a picture."""
        images = sample.images if self._config.pictures else ()
        annotation = "" if sample.rewritten == sample.response else f"Annotation: {sample.response}\n"
        text = f"Question: {sample.question}\n{annotation}Answer: {sample.rewritten}"
        return content(IMAGE_MARK * len(images) + text.replace(IMAGE_MARK, "(image)"), images, self._config.max_side)

    def _body(self, asked: Any) -> dict[str, Any]:
        seeing, shown = ("; you see the picture", ", and with the picture") if self._config.pictures else ("", "")
        system = _SYSTEM.format(seeing=seeing, shown=shown)
        body: dict[str, Any] = {
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": asked}],
            "max_tokens": self._config.max_tokens,
            "temperature": 0.0,
        }
        if self._config.structured:
            schema = {"name": "marks", "strict": True, "schema": SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


def marks(answer: str) -> dict[str, int] | None:
    """Return the marks in an answer: JSON, in a fence or among words, or lines such as "relevance: 4"; None if any of
    the four is missing or no mark.
    """
    start, end = answer.find("{"), answer.rfind("}")
    try:
        found = json.loads(answer[start : end + 1]) if start >= 0 else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        said = answer.lower().replace("visual dependency", "visual_dependency")
        lines = {axis: re.search(rf"\b{axis}\W{{1,8}}([1-5])\b(?![.,]\d)", said) for axis in AXES}
        found = {axis: line[1] for axis, line in lines.items() if line}
    read = {axis: _mark(found.get(axis)) for axis in AXES}
    known = {axis: mark for axis, mark in read.items() if mark is not None}
    return known if len(known) == len(AXES) else None


def _mark(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value in MARKS
    return int(value) if whole else None


def _marks_or_why(said: str) -> dict[str, int] | str:
    answer = stripped(without_reasoning(said))
    found = marks(answer)
    if found is not None:
        return found
    return "the answer was cut or withheld" if isinstance(answer, Unfinished) else _NO_MARKS


def _refusal(refused: Refused) -> str:
    return f"the server refuses (HTTP {refused.status})" if refused.status else "the server gives no answer"


def _applicable(found: dict[str, int] | str, sample: Sample) -> dict[str, int] | str:
    if isinstance(found, str) or sample.images:
        return found
    return {axis: mark for axis, mark in found.items() if axis != "visual_dependency"}
