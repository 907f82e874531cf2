"""OASST-1: trees of messages, with several replies to each. The best path of a tree becomes a conversation.

    {message_tree_id, tree_state, prompt: {text, role, rank, lang, deleted, review_result, replies: [{…}, …]}}

The path starts at the prompt: the assistant's best reply, the human's best reply to it that is answered, and so on. The
best reply has the lowest `rank` (0, 1, …); unranked replies (null or missing) come last, and the first of equals wins.
A message does not count if it is deleted, was not accepted in review, is labelled with one of `FLAWS` by most people,
or is called bad by another field (`field_meanings.py`). If a file has no reviews, everything is accepted. A tree that
moderators stopped is quarantined, and so is a prompt without a usable reply. Files of nested messages (no `prompt`
around the root) are read as well; files of single messages, whose replies are lines of their own, are not.
"""

from __future__ import annotations

from typing import Any

from polite_flamingo.sample import BadSample, Sample, Turn
from polite_flamingo.sources.reading.field_checks import (
    as_object,
    as_text,
    finite_number,
    id_field,
    list_field,
    required,
    verbatim,
)
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.extra_fields import Findings, check_fields, with_notes
from polite_flamingo.sources.records.file_records import file_records
from polite_flamingo.sources.records.source import Context, Records, Source, SourceOptions
from polite_flamingo.sources.records.turns import text_sample

FLAWS = frozenset({
    "spam", "fails_task", "lang_mismatch", "pii", "not_appropriate", "hate_speech", "sexual_content",
})  # fmt: skip
"""Labels (yes or no, averaged over people) that rule a message out."""

STOPPED = ("aborted_low_grade", "halted_by_moderator")
"""States of trees that are not to be used."""

TREE_FIELDS = frozenset({"message_tree_id", "tree_state", "prompt", "origin"})
MESSAGE_FIELDS = frozenset({
    "message_id", "parent_id", "message_tree_id", "tree_state", "user_id", "created_date", "text", "role", "lang",
    "rank", "deleted", "review_result", "review_count", "replies", "labels",
})  # fmt: skip
"""Fields of the format. Those that only say which message it is, by whom and when, are not kept."""


def records(options: SourceOptions, scratch: Scratch) -> Records:
    """The trees."""
    return with_notes(file_records(options, scratch, "trees"), lambda record: _path(record)[1].notes, scratch)


def identify(record: Any) -> str:
    """Return the tree's id, which is that of its root."""
    return id_field(record, "message_tree_id" if "message_tree_id" in as_object(record) else "message_id")


def build(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the conversation of a tree."""
    turns, found, meta = _path(record)
    return text_sample(key, turns, found.meta | meta)


def _path(record: dict[str, Any]) -> tuple[list[Turn], Findings, dict[str, Any]]:
    """Return the turns of the best path, what is kept of its messages, and its language."""
    found = Findings()
    if record.get("tree_state") in STOPPED:
        raise BadSample("excluded", f"the tree's state is {record['tree_state']!r}")
    if "prompt" in record:
        check_fields(record, TREE_FIELDS, found)
    prompt = record.get("prompt", record)
    if prompt is None or not _usable(as_object(prompt), "prompter"):
        raise BadSample("missing_annotation", "the prompt is deleted, was not accepted, or is not a prompt")
    language = prompt.get("lang")
    meta = {"language": as_text(language, "field 'lang'")} if language is not None else {}
    turns: list[Turn] = []
    answer = _best(prompt, "assistant")
    while prompt and answer:
        for what, message in (("prompt", prompt), ("answer", answer)):
            check_fields(message, MESSAGE_FIELDS, found, "message", f"turns[{len(turns)}].{what}.")
        if any(isinstance(one.get("replies"), list) and len(one["replies"]) > 1 for one in (prompt, answer)):
            found.note("replies beside the best one are left out")
        turns.append(Turn(instruction=_text(prompt), response=_text(answer)))
        followed = ((reply, _best(reply, "assistant")) for reply in _replies(answer, "prompter"))
        prompt, answer = next(((reply, best) for reply, best in followed if best), (None, None))
    if not turns:
        raise BadSample("missing_annotation", "the prompt has no usable reply; were messages given instead of trees?")
    return turns, found, meta


def _best(message: dict[str, Any], role: str) -> dict[str, Any] | None:
    return next(iter(_replies(message, role)), None)


def _replies(message: dict[str, Any], role: str) -> list[dict[str, Any]]:
    """List the usable replies to a message, the best one first."""
    if message.get("replies") is None:
        return []
    found = [reply for reply in map(as_object, list_field(message, "replies")) if _usable(reply, role)]
    return sorted(found, key=_rank)


def _usable(message: dict[str, Any], role: str) -> bool:
    reviewed = "review_result" in message or "review_count" in message
    accepted = message.get("review_result") is True or not reviewed
    fit = message.get("role") == role and not message.get("deleted") and accepted and bool(_text(message))
    return fit and not _flawed(message)


def _flawed(message: dict[str, Any]) -> bool:
    """Whether people's labels, or other fields, call a message bad."""
    labels = message.get("labels")
    if isinstance(labels, dict):
        if isinstance(labels.get("name"), list) and isinstance(labels.get("value"), list):
            labels = dict(zip(labels["name"], labels["value"], strict=False))
        for name, label in labels.items():
            value = label.get("value") if isinstance(label, dict) else label
            if name in FLAWS and isinstance(value, int | float) and value >= 0.5:
                return True
    told = Findings()
    try:
        check_fields(message, MESSAGE_FIELDS, told, "message")
    except BadSample as bad:
        if bad.reason != "excluded":
            raise
        return True
    return told.bad or told.learned is False


def _text(message: dict[str, Any]) -> str:
    return verbatim(required(message, "text"), "the text of a message").strip()


def _rank(message: dict[str, Any]) -> float:
    rank = message.get("rank")
    return float("inf") if rank is None else finite_number(rank, "field 'rank'")


SOURCE = Source(
    name="oasst1",
    title="OASST-1 (OpenAssistant Conversations)",
    use="text",
    task="text",
    files="2023-04-12_oasst_ready.trees.jsonl.gz, as it is or unpacked",
    published="Hugging Face: OpenAssistant/oasst1",
    licence="Apache-2.0",
    evidence="real file",
    records=records,
    identify=identify,
    build=build,
    images="none",
)
