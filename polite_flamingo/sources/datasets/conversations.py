"""Conversations without images: ShareGPT's format and UltraChat's.

    sharegpt   {id, conversations: [{from, value}, …], system}, or {messages: [{role, content}, …]}
    ultrachat  {id, data: [human, assistant, human, …]}

`record_layouts.py` lists the layouts, `turns.py` says how messages become turns, `field_meanings.py` what other fields
do. A conversation that shows images is quarantined.

An id may repeat: ShareGPT and LLaVA reuse ids for several conversations, and UltraChat counts from 0 in each file. So a
key is the id and the content's hash, and only a true copy is a duplicate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from polite_flamingo.sample import Sample
from polite_flamingo.sources.reading.field_checks import as_object, content_hash, id_field
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.extra_fields import with_notes, without_empty_cells
from polite_flamingo.sources.records.file_records import file_records
from polite_flamingo.sources.records.messages import Conversation, read_alternating_turns, read_conversation
from polite_flamingo.sources.records.source import Builder, Context, Reader, Records, Source
from polite_flamingo.sources.records.turns import text_sample, text_turns, to_turns


def identify(record: Any) -> str:
    """Return the id, if there is one, and the hash of the content."""
    named = [id_field(record, "id")] if as_object(record).get("id") is not None else []
    return "-".join([*named, content_hash(record)])


def builder(read: Callable[[dict[str, Any]], Conversation]) -> Builder:
    """Make the `build` function of a dataset whose conversations `read` reads."""

    def build(key: str, record: Any, context: Context) -> Sample:
        conversation = read(without_empty_cells(as_object(record), context.options))
        turns, meta = text_turns(conversation)
        return text_sample(key, turns, conversation.found.meta | meta)

    return build


def noted(records: Records, read: Callable[[dict[str, Any]], Conversation], scratch: Scratch) -> Records:
    """Yield the records, which `read` reads, and note what is kept of each or left out."""

    def notes(record: dict[str, Any]) -> Iterable[str]:
        conversation = read(record)
        to_turns(conversation.messages, conversation.found)
        return conversation.found.notes

    return with_notes(records, notes, scratch)


def reader(read: Callable[[dict[str, Any]], Conversation]) -> Reader:
    """Make the `records` function of a dataset whose conversations `read` reads."""
    return lambda options, scratch: noted(file_records(options, scratch, "conversations"), read, scratch)


_source = functools.partial(Source, use="text", task="text", identify=identify, images="none")

SHAREGPT = _source(
    name="sharegpt",
    title="ShareGPT, or your own text in its format",
    files="a JSON list or JSON lines of {id, conversations: [{from, value}]} or {messages: [{role, content}]}",
    published="Hugging Face: anon8231489123/ShareGPT_Vicuna_unfiltered",
    evidence="real file",
    records=reader(read_conversation),
    build=builder(read_conversation),
)
ULTRACHAT = _source(
    name="ultrachat",
    title="UltraChat",
    files="its parts, JSON lines (even if their names end in .json) of {id, data: [human, assistant, …]}",
    published="github.com/thunlp/UltraChat",
    licence="MIT",
    evidence="transcribed",
    records=reader(read_alternating_turns),
    build=builder(read_alternating_turns),
)
