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
from functools import partial
from typing import Any

from polite_flamingo.conversations import asked, polite_text
from polite_flamingo.endpoints.answer_store import Answer, AnswerStore
from polite_flamingo.endpoints.answers import Unfinished, stripped, without_reasoning
from polite_flamingo.endpoints.chat import ChatServers
from polite_flamingo.endpoints.connection import Refused
from polite_flamingo.endpoints.pictures import content, trial_image
from polite_flamingo.filters.endpoint_config import FilterEndpoint
from polite_flamingo.sample import IMAGE_MARK, BadSample, Sample, Turn
from polite_flamingo.usage import Usage, of_model

AXES = ("relevance", "correctness", "visual_dependency", "formatting")
MARKS = range(1, 6)

_SYSTEM = """\
You examine one exchange of a dataset of pictures and texts, made to train an assistant. Each message gives the \
turns before it if it is part of a conversation, the question, the annotation that a person wrote for it unless it is \
the answer, and the answer to be marked{seeing}. Mark the answer on four axes, with whole numbers from 1 (bad) to 5 \
(good), each by itself:
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


class Judge:
    """Asks the servers for marks, one request per sample."""

    def __init__(self, config: JudgeEndpoint):
        self._config = config
        self._chats = ChatServers(config, "scoring.judge", config.extra)

    def score(
        self, rows: Sequence[Sample], usage: Usage | None = None, answers: AnswerStore | None = None
    ) -> list[dict[str, int] | str]:
        """Return each single-turn sample's marks by axis, or in a few words why it has none.

        A sample without pictures has no mark of `visual_dependency`.

        Args:
            rows: rewritten.
            usage: what the marks cost is added to it, also if an earlier attempt has paid for them.
            answers: those of earlier attempts; new ones are added.

        Raises:
            EndpointDown: the servers are down, or are not what the profile says; the rest is not sent.
        """
        found = [
            *self._chats.threads.map(partial(self._marked, answers=answers), rows)
        ]  # cancels the rest if one raises
        for _, used in found:
            if usage is not None:
                usage.update(of_model(used, "judge"))
        return [one for one, _ in found]

    def try_out(self) -> list[str]:
        """Ask every server about one text; see `BatchedRequests.try_out`."""
        turn, sky = Turn(instruction="<image>What is the weather like?", response="sunny"), trial_image()
        sample = Sample(
            key="trial", dataset="trial", task="vqa", turns=(turn,), images=(sky,), rewritten="It is sunny."
        )
        problems = self._chats.try_out(self._body(sample), _marks_or_why)
        return [f"{url} does not answer at present: {problem}" for url, problem in problems.items()]

    def _marked(self, sample: Sample, answers: AnswerStore | None) -> tuple[dict[str, int] | str, Usage]:
        """Return a sample's marks, or why it has none, and what that cost."""
        usage = Usage()
        try:
            answer = self._chats.ask(self._body(sample), usage, answers)
        except BadSample as bad:
            return f"the picture cannot be read ({bad.reason})", usage
        except Refused as refused:
            usage["requests"] += 1
            return _refusal(refused), usage
        if self._config.pictures:
            usage["images"] += len(sample.images)
        return _applicable(_marks_or_why(answer), sample), usage

    def _content(self, sample: Sample) -> Any:
        """Return what the user says: pictures, the turns before, question, annotation and answer.

        Raises:
            BadSample: a picture cannot be read.
        """
        images = sample.images if self._config.pictures else ()
        annotation = "" if sample.rewritten == sample.response else f"Annotation: {sample.response}\n"
        said = "".join(f"User: {asked(turn)}\nAssistant: {polite_text(turn)}\n" for turn in sample.before)
        before = f"The turns before:\n{said}\n" if said else ""
        text = f"{before}Question: {sample.question}\n{annotation}Answer: {sample.rewritten}"
        return content(IMAGE_MARK * len(images) + text.replace(IMAGE_MARK, "(image)"), images, self._config.max_side)

    def _body(self, sample: Sample) -> dict[str, Any]:
        """Return the request, without the model. Raises `BadSample` for a picture."""
        seeing, shown = ("; you see the picture", ", and with the picture") if self._config.pictures else ("", "")
        system = _SYSTEM.format(seeing=seeing, shown=shown)
        body: dict[str, Any] = {
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": self._content(sample)}],
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


def _marks_or_why(answer: Answer) -> dict[str, int] | str:
    text = stripped(without_reasoning(answer.text))
    found = marks(text)
    if found is not None:
        return found
    return "the answer was cut or withheld" if isinstance(text, Unfinished) else _NO_MARKS


def _refusal(refused: Refused) -> str:
    return f"the server refuses (HTTP {refused.status})" if refused.status else "the server gives no answer"


def _applicable(found: dict[str, int] | str, sample: Sample) -> dict[str, int] | str:
    if isinstance(found, str) or sample.images:
        return found
    return {axis: mark for axis, mark in found.items() if axis != "visual_dependency"}
