"""Where a record keeps its messages, in the layouts that people use.

    {conversations: [{from, value}]}, {messages: [{role, content}]}      LLaVA, ShareGPT, OpenAI
    content: "…" or [{type: "text", text}, {type: "image", …}, …]        the parts of OpenAI, TRL, Qwen, Anthropic
    {texts: [{user, assistant}]}, {conversation: [{human, assistant}]}   pairs: the Cauldron, FineVision, ms-swift
    {prompt, completion}, {prompt, chosen, rejected}                     TRL; texts or messages
    {conversations, chosen, rejected}                                    LLaMA-Factory: `chosen` is the answer
    {instruction, input, output, history: [[human, assistant]], system}  Alpaca's, with images in LLaMA-Factory
    {query, response, history, system}                                   ms-swift

Of `Sequence({role, content})`, `datasets` stores {messages: {role: […], content: […]}}, which is read as a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.field_checks import list_field, verbatim
from polite_flamingo.sources.reading.json_values import json_list_in
from polite_flamingo.sources.records.extra_fields import is_empty
from polite_flamingo.sources.records.field_meanings import SPEAKERS
from polite_flamingo.sources.records.message_content import unzipped

MESSAGE_LISTS = ("conversations", "messages", "conversation", "dialogue", "dialog", "texts")
"""Fields that may hold the messages; the first that is present counts."""

ASKED, ANSWERED = ("instruction", "query"), ("output", "response")
"""Fields that hold the only exchange of a record, or its last; the first that is present counts."""


def entries_of(record: dict[str, Any]) -> tuple[str, list[Any], set[str]]:
    """Return the field that holds a record's messages, these messages unread, and further fields that hold them."""
    chosen = record.get("chosen") if is_answer(record.get("chosen")) else None
    name = next((key for key in MESSAGE_LISTS if record.get(key) is not None), "")
    if name:
        entries = list_field({name: unzipped(json_list_in(record[name], dict))}, name)
        return name, _with_chosen(entries, chosen), set()
    if record.get("prompt") is not None and (chosen is not None or record.get("completion") is not None):
        asked = _as_messages(record["prompt"], "user", "prompt")
        what = "completion" if record.get("completion") is not None else "chosen"
        answer = _as_messages(record[what], "assistant", what)
        return "prompt", answer if answer[: len(asked)] == asked else [*asked, *answer], {"completion"}
    if isinstance(messages := json_list_in(chosen, dict), list):
        return "chosen", messages, set()
    name = next((key for key in ASKED if isinstance(record.get(key), str)), "")
    answered = next((key for key in ANSWERED if isinstance(record.get(key), str)), "")
    if name and (answered or chosen is not None):
        said = [{"role": "assistant", "content": record[answered]}] if answered else []
        return name, _with_chosen([*_asked(record, name), *said], chosen), {answered, "input", "history"}
    return "conversations", list_field(record, "conversations"), set()


def _asked(record: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Yield the messages of `history` and what is asked: the field `name` and its `input`."""
    yield from history_of(record)
    given = [verbatim(record["input"], "field 'input'")] if record.get("input") else []
    yield {"role": "user", "content": "\n\n".join([record[name], *given])}


def history_of(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the messages of `history`, a list of [human, assistant] or of {human, assistant}; none if it is empty."""
    for number, pair in enumerate([] if is_empty(record.get("history")) else list_field(record, "history")):
        if isinstance(pair, dict):
            pair = [pair.get("human"), pair.get("assistant")]
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadSample("bad_field", f"history[{number}] must be what the human says and what the assistant says")
        yield {"role": "user", "content": pair[0]}
        yield {"role": "assistant", "content": pair[1]}


def _with_chosen(entries: list[Any], chosen: Any) -> list[Any]:
    """Add the preferred answer to the messages, which may have it already."""
    if chosen is None:
        return entries
    answer = _as_messages(chosen, "assistant", "chosen")
    if answer[: len(entries)] == entries:
        return answer
    last = entries[-1] if entries and isinstance(entries[-1], dict) else {}
    role = last.get("from", last.get("role"))
    if isinstance(role, str) and SPEAKERS.get(role.lower()) == "assistant":
        if len(answer) == 1 and _said(answer[0]) == _said(last):
            return entries
        raise BadSample("unsupported", "field 'chosen' is another answer than the conversation ends with")
    return [*entries, *answer]


def is_answer(value: Any) -> bool:
    """Whether `chosen` holds an answer, not a verdict."""
    return isinstance(value, str | dict | list) and not is_empty(value)


def _said(message: dict[str, Any]) -> Any:
    return message.get("value", message.get("content"))


def _as_messages(value: Any, role: str, name: str) -> list[Any]:
    value = json_list_in(value, dict)
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, dict):
        return [value]
    return list_field({name: value}, name)
