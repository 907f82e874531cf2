"""The two sides of a pair in a record of any layout, and what makes a pair useless.

    {image, question: {from, value}, chosen: {from, value}, rejected: {from, value}}    mllm-dpo
    {image: {bytes, path}, question, chosen, rejected, ds_name, origin_dataset, idx, …}  RLAIF-V
    {image, question, chosen, rejected}                                                 MMPR
    {prompt, chosen, rejected, images}                                                  TRL, texts or messages
    {chosen, rejected}, two conversations that begin alike                              TRL without a prompt
    {conversations, chosen, rejected, images}, {instruction, input, chosen, rejected}    LLaMA-Factory

`split` gives the record as a conversation that ends with the chosen answer, which `messages.read_conversation` reads,
and the rejected answer. Nothing here reads a picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import regex

from polite_flamingo.sample import BadSample, unmarked
from polite_flamingo.sources.reading.field_checks import as_object, list_field, required
from polite_flamingo.sources.reading.json_values import json_list_in
from polite_flamingo.sources.records.extra_fields import Findings, is_empty
from polite_flamingo.sources.records.field_meanings import SPEAKERS
from polite_flamingo.sources.records.message_content import Message, make_message, read_entry
from polite_flamingo.sources.records.record_layouts import MESSAGE_LISTS, history_of

SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen_rating", "rejected_rating"))
"""Fields that some files have beside the sides. A chosen side with the lower score is a swapped pair."""

PROMPTS = (*MESSAGE_LISTS, "prompt", "question", "instruction")
"""Fields that may hold what comes before the two answers; the first that is present counts."""

_ENOUGH = 12
"""Letters from which on a text has a script of its own: fewer may be a name or a unit."""


def split(record: Any) -> tuple[dict[str, Any], str]:
    """Return the record as a conversation that ends with the chosen answer, and the rejected answer's text.

    Raises:
        BadSample: the record has no two sides, or a side or the prompt has a wrong speaker (`swapped_roles`).
    """
    fields = as_object(record)
    chosen, rejected = (_messages(required(fields, name), "assistant", name) for name in ("chosen", "rejected"))
    name = next((one for one in PROMPTS if not is_empty(fields.get(one))), "")
    if name:
        prompt = _prompt(fields, name)
    else:
        same = sum(1 for _ in _beginning(chosen, rejected))
        prompt = chosen[:same]
    chosen, rejected = (side[len(prompt) :] if side[: len(prompt)] == prompt else side for side in (chosen, rejected))
    if not prompt or _speaker(prompt[-1]) not in ("human", ""):
        raise BadSample("swapped_roles", "the prompt does not end with what the human says")
    answers = [_answer(side, what) for side, what in ((chosen, "chosen"), (rejected, "rejected"))]
    rest = {one: value for one, value in fields.items() if one not in ("chosen", "rejected", "input", "history", name)}
    return rest | {"conversations": [*prompt, *chosen]}, answers[1]


def check_sides(record: dict[str, Any], chosen: str, rejected: str) -> None:
    """Raise `BadSample` for a pair that would teach nothing, or the wrong thing.

    Raises:
        BadSample: `empty_response`, `equal_sides`, `swapped_sides` (by the record's own scores), `bad_encoding` or
            `other_language` (the sides are in different scripts).
    """
    for what, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise BadSample("empty_response", f"the {what} answer is empty")
        if broken := broken_encoding(text):
            raise BadSample(
                "bad_encoding", f"the {what} answer holds {broken!r}: UTF-8 that was read as something else"
            )
    if chosen.split() == rejected.split():
        raise BadSample("equal_sides", "both answers are the same text")
    for better, worse in SCORES:
        scores = [record.get(better), record.get(worse)]
        if all(isinstance(one, int | float) for one in scores) and scores[0] < scores[1]:  # type: ignore[operator]
            raise BadSample("swapped_sides", f"{better} is {scores[0]:g} and {worse} {scores[1]:g}")
    scripts = [script_of(text) for text in (chosen, rejected)]
    if "" not in scripts and scripts[0] != scripts[1]:
        raise BadSample("other_language", f"the chosen answer is in {scripts[0]} letters, the rejected in {scripts[1]}")


_SCRIPTS = ("Latin", "Han", "Cyrillic", "Arabic", "Hangul", "Hiragana", "Devanagari", "Greek", "Hebrew", "Thai")
_IN_SCRIPT = {name: regex.compile(rf"\p{{Script={name}}}") for name in _SCRIPTS}
_JAPANESE = "Hiragana"


def script_of(text: str) -> str:
    """Return the script of most of a text's letters, such as "Latin"; "" for too few letters, or an unusual script.

    Languages of one script are not told apart.
    """
    counts = Counter({name: len(pattern.findall(text)) for name, pattern in _IN_SCRIPT.items()})
    if counts[_JAPANESE]:
        counts[_JAPANESE] += counts.pop("Han", 0)  # Japanese has characters of both
    [(name, count)] = counts.most_common(1)
    return name if count >= _ENOUGH or (name not in ("Latin", "Greek") and count >= _ENOUGH // 3) else ""


_SUSPECT = regex.compile(r"\S*[ÂÃâð]\S*")
"""Words with a letter that the first byte of UTF-8 becomes if it is read as Windows-1252."""


def broken_encoding(text: str) -> str:
    """Return a word that is UTF-8 read as another encoding ("cafÃ©"), or holds U+FFFD; "" if there is none."""
    if "\ufffd" in text:
        return "\ufffd"
    return next((word for word in _SUSPECT.findall(text) if _was_utf8(word)), "")


def _was_utf8(word: str) -> bool:
    for encoding in ("cp1252", "latin-1"):
        try:
            if word.encode(encoding).decode("utf-8") != word:
                return True
        except UnicodeError:
            continue
    return False


def _beginning(chosen: list[Any], rejected: list[Any]) -> Iterator[Any]:
    """Yield the messages with which both sides begin, without the last of either."""
    for one, other in zip(chosen[:-1], rejected[:-1], strict=False):
        if one != other:
            return
        yield one


def _prompt(fields: dict[str, Any], name: str) -> list[Any]:
    """Return the messages before the answers."""
    said = fields[name]
    if name == "instruction" and isinstance(said, str) and isinstance(fields.get("input"), str) and fields["input"]:
        said = f"{said}\n\n{fields['input']}"
    return [*history_of(fields), *_messages(said, "user", name)]


def _messages(value: Any, role: str, name: str) -> list[Any]:
    """Return a text, a message or a list of messages as a list of messages."""
    value = json_list_in(value, dict)
    if value is None:
        return []
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return [value] if isinstance(value, dict) else list_field({name: value}, name)


def _speaker(message: Any) -> str:
    """Return human, assistant or system; "" where that is for `read_entry` to say."""
    role = message.get("from", message.get("role")) if isinstance(message, dict) else None
    return SPEAKERS.get(role.lower(), "") if isinstance(role, str) else ""


def _answer(side: list[Any], what: str) -> str:
    """Return the text of a side, which is one message of the assistant."""
    if not side:
        raise BadSample("empty_response", f"there is no {what} answer")
    if len(side) > 1:
        raise BadSample("unsupported", f"the {what} answer is {len(side)} messages; a pair differs in one")
    if not isinstance(side[0], dict) or not {"from", "role"} & side[0].keys():
        message: Message = make_message("assistant", side[0], what, Findings(), Findings())
    else:
        [message] = read_entry(side[0], what, 0, Findings())
    if message.speaker != "assistant":
        raise BadSample("swapped_roles", f"the {what} answer is said by the {message.speaker}")
    return unmarked(message.text.strip())
