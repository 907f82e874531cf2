"""Read a judge's reply: strict JSON where the server binds it, and whatever else can be read without a guess.

A reply is accepted as a whole or not at all: every answer that was shown once, with five integers from 0 to 4 each.
Nothing missing is ever filled in. What is wrong with a reply is told in words that its author can act on.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from polite_flamingo.candidates import ATTRIBUTES, MOST
from polite_flamingo.endpoints.answers import Unfinished, declines, stripped, without_reasoning

Fault = Literal[
    "cut", "withheld", "refused", "prose", "incomplete", "out of range", "timed out", "rejected", "no answer",
    "picture",
]  # fmt: skip
"""A reply ends at the limit of tokens; the server's filter withheld it; the judge declines; there are no ratings in it;
answers or attributes are missing, repeated or unknown; a rating is no integer from 0 to 4. Without a reply: every try
took too long; the server rejects the request; every try failed otherwise; a picture cannot be read."""
FAULTS: tuple[Fault, ...] = get_args(Fault)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The ratings in a reply.

    Attributes:
        values: of each answer, in the order shown.
        reasons: likewise.
        places: place of each rated answer in the order in which the reply has them.
        lenient: whether it was not plain JSON of the form that was asked for.
    """

    values: tuple[dict[str, int], ...]
    reasons: tuple[str, ...]
    places: tuple[int, ...]
    lenient: bool = False


@dataclass(frozen=True, kw_only=True)
class Faulty:
    """Why a reply cannot be used. `words` is one line, for a re-ask and for the quarantine."""

    fault: Fault
    words: str


def schema(shown: int) -> dict[str, Any]:
    """Return the JSON schema of a reply about so many answers: reasons first, so that ratings follow from them."""
    rating = {"type": "integer", "enum": [*range(MOST + 1)]}
    properties: dict[str, Any] = {"answer": {"type": "integer", "enum": [*range(1, shown + 1)]}}
    properties |= {"reason": {"type": "string"}, **dict.fromkeys(ATTRIBUTES, rating)}
    one = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    many = {"type": "array", "items": one, "minItems": shown, "maxItems": shown}
    return {"type": "object", "properties": {"answers": many}, "required": ["answers"], "additionalProperties": False}


def read_reply(said: str, shown: int) -> Reply | Faulty:
    """Return the ratings in a reply, or why it has none.

    Args:
        said: what the judge said; `Unfinished` if it was cut.
        shown: number of answers that it was shown.
    """
    text = stripped(without_reasoning(said))
    found, lenient = _entries(text)
    if found is None:
        return _without_ratings(text)
    try:
        rated = [_rated(entry, number, shown, len(found)) for number, entry in enumerate(found)]
        places = [place for place, _, _ in rated]
        for place in range(shown):
            if places.count(place) != 1:
                often = f"comes {places.count(place)} times" if place in places else "is missing"
                raise _Wrong("incomplete", f"answer {place + 1} {often}")
    except _Wrong as wrong:
        if isinstance(text, Unfinished):
            return _without_ratings(text)
        return Faulty(fault=wrong.fault, words=str(wrong))
    by_place = sorted(rated, key=lambda one: one[0])
    return Reply(
        values=tuple(values for _, values, _ in by_place), reasons=tuple(reason for _, _, reason in by_place),
        places=tuple(places), lenient=lenient,
    )  # fmt: skip


class _Wrong(Exception):
    def __init__(self, fault: Fault, words: str):
        super().__init__(words)
        self.fault: Fault = fault


def _without_ratings(text: str) -> Faulty:
    why = text.why if isinstance(text, Unfinished) else ""
    if why == "content_filter":
        return Faulty(fault="withheld", words="the server's filter withheld the reply")
    if why:
        return Faulty(fault="cut", words="the reply ends before its ratings are complete")
    if declines(text):
        return Faulty(fault="refused", words=f"the judge declines: {_start(text)}")
    return Faulty(fault="prose", words=f"no ratings in JSON: {_start(text)}")


def _start(text: str) -> str:
    return repr(" ".join(text.split())[:80])


def _entries(text: str) -> tuple[list[Any] | None, bool]:
    """Return the entries of the outermost JSON object or list, and whether the form is another than was asked for."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found, plain = _outermost(text), False
    else:
        plain = True
    if isinstance(found, Mapping) and isinstance(found.get("answers"), list):
        return found["answers"], not plain
    if isinstance(found, list) and found:
        return found, True
    if isinstance(found, Mapping) and found:
        if {*map(_name, found)} & {*ATTRIBUTES}:
            return [found], True  # one answer, without a list
        if all(isinstance(one, Mapping) for one in found.values()):  # {"Answer 1": {…}, …}
            return [{"answer": name, **one} for name, one in found.items()], True
    return None, True


def _outermost(text: str) -> Any:
    """Return the largest JSON value among other words; commas too many and single quotes are forgiven."""
    for opening, closing in ("{}", "[]"):
        start, end = text.find(opening), text.rfind(closing)
        if start < 0 or end < start:
            continue
        piece = text[start : end + 1]
        bare = re.sub(r",(\s*[}\]])", r"\1", piece)
        for read in (json.loads, ast.literal_eval):
            try:
                return read(bare)
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                continue
    return None


def _rated(entry: Any, number: int, shown: int, entries: int) -> tuple[int, dict[str, int], str]:
    """Return the place, the ratings and the reason in an entry. Raises `_Wrong`."""
    if not isinstance(entry, Mapping):
        raise _Wrong("incomplete", f"entry {number + 1} is not a JSON object")
    known = {_name(name): value for name, value in entry.items()}
    label = known.get("answer", number + 1 if entries == shown else None)
    label = re.sub(r"\D*(\d+)\D*", r"\1", label) if isinstance(label, str) else label
    whole = _integer(label)
    if whole is None or not 1 <= whole <= shown:
        raise _Wrong("incomplete", f"entry {number + 1} is about answer {label!r}; there are {shown}")
    values = {}
    for attribute in ATTRIBUTES:
        if attribute not in known:
            raise _Wrong("incomplete", f"answer {whole}: {attribute} is missing")
        value = _integer(known[attribute])
        if value is None or not 0 <= value <= MOST:
            raise _Wrong(
                "out of range",
                f"answer {whole}: {attribute} is {str(known[attribute])[:40]!r}, not an integer from 0 to 4",
            )
        values[attribute] = value
    reason = known.get("reason", "")
    return whole - 1, values, reason if isinstance(reason, str) else json.dumps(reason, ensure_ascii=False)


def _name(name: Any) -> str:
    return str(name).strip().casefold()


def _integer(value: Any) -> int | None:
    """Return 3 for 3, 3.0, "3", "3.0" and "3/4" (of four); None for anything else."""
    if isinstance(value, str):
        found = re.fullmatch(rf"\s*(\d+)(?:\.0+)?(?:\s*/\s*{MOST})?\s*", value)
        return int(found[1]) if found and len(found[1]) < 9 else None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or value != value
        or value in (float("inf"), float("-inf"))
    ):
        return None
    return int(value) if value == int(value) else None


def expected_ratings(tokens: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Return the mean of each rating by the probabilities of its token, in the order of the reply.

    Args:
        tokens: `logprobs.content` of an OpenAI-compatible response: a token each, with `top_logprobs`.

    Returns:
        Attribute and mean of 0 to 4 over the likeliest tokens that are such digits; nothing for a rating that is not a
        token of its own.
    """

    found, text = [], ""
    for token in tokens:
        said = token["token"]
        if said.strip() in _DIGITS and (before := _ASKED.search(text)):
            weights = dict.fromkeys(_DIGITS, 0.0)
            for other in token.get("top_logprobs") or [token]:
                if (digit := other["token"].strip()) in weights:
                    weights[digit] += math.exp(min(0.0, other["logprob"]))
            if total := sum(weights.values()):
                found.append((before[1], sum(int(digit) * weight for digit, weight in weights.items()) / total))
        text = (text + said)[-80:]
    return found


_DIGITS = tuple(map(str, range(MOST + 1)))
_ASKED = re.compile(rf'["\']({"|".join(ATTRIBUTES)})["\']\s*:\s*["\']?\s*\Z')
