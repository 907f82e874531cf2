"""Conversations without images: ShareGPT's format, which is also one for data of your own, and UltraChat's.

    sharegpt   {id, conversations: [{from, value}, …], system}, or {messages: [{role, content}, …]}
    ultrachat  {id, data: [human, assistant, human, …]}

What becomes of the turns, here and in LLaVA's datasets (`llava.py`): pairs of what the human says and what the
assistant answers, verbatim but for white space around them. Turns of one speaker in a row are joined by a blank line.
What the assistant says before any human, and what the human says last without an answer, is left out; the system's
message is kept in `meta`, and so are the numbers of turns joined and left out. An empty turn in between means that
something is missing which the rest answers or asks about: the conversation is quarantined. So is one that names images.

An id may repeat: ShareGPT and LLaVA name several conversations alike, UltraChat counts in each of its files. So a key
is the id and the content's hash, and only a true copy is a duplicate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

from polite_flamingo.sample import IMAGE_MARK, BadSample, Reason, Sample, Turn, unmarked
from polite_flamingo.sources.base import Context, Place, Source, SourceOptions
from polite_flamingo.sources.files import file_records
from polite_flamingo.sources.reading import entry, fingerprint, identity, list_of, value_of, verbatim
from polite_flamingo.sources.shelf import Shelf

Said = list[tuple[str, str]]
"""(speaker, text) in order; a speaker is "human", "assistant" or "system"."""

SPEAKERS = {
    "human": "human", "user": "human", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bard": "assistant", "bing": "assistant", "system": "system",
}  # fmt: skip
"""As they are called in ShareGPT's dump and in OpenAI's messages. Tools and functions are no part of a sample."""


def records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
    """The conversations."""
    return file_records(options, shelf, "conversations")


def identify(record: Any) -> str:
    """The id, where there is one, and the hash of the content."""
    named = [identity(record, "id")] if entry(record).get("id") is not None else []
    return "-".join([*named, fingerprint(record)])


def said_in(record: dict[str, Any]) -> Said:
    """What is said in a record of ShareGPT's format, or of OpenAI's."""
    name = "messages" if "messages" in record and "conversations" not in record else "conversations"
    found = [("system", verbatim(record["system"], "field 'system'"))] if record.get("system") else []
    for number, turn in enumerate(list_of(record, name)):
        what, fields = f"{name}[{number}]", entry(turn)
        role = verbatim(value_of(fields, "from" if "from" in fields else "role"), f"the role of {what}")
        if role.lower() not in SPEAKERS:
            raise BadSample("unsupported", f"{what} is said by {role[:40]!r}, who is neither human nor assistant")
        value = verbatim(value_of(fields, "value" if "value" in fields else "content"), f"the text of {what}")
        found.append((SPEAKERS[role.lower()], value))
    return found


def said_by_turns(record: dict[str, Any]) -> Said:
    """What is said in a record of UltraChat: the human begins, they take turns."""
    return [
        ("assistant" if number % 2 else "human", verbatim(text, f"data[{number}]"))
        for number, text in enumerate(list_of(record, "data"))
    ]


def exchanges(said: Said) -> tuple[list[Turn], dict[str, Any]]:
    """The whole exchanges of a conversation, and what had to be done for them: see the module.

    Returns:
        at least one turn, and of `system` (text), `joined`, `left_out_before`, `left_out_after` (numbers of turns)
        those that apply.
    """
    system = "\n\n".join(text.strip() for speaker, text in said if speaker == "system" and text.strip())
    spoken = ((speaker, text.strip()) for speaker, text in said if speaker != "system")
    runs = [(speaker, [text for _, text in run]) for speaker, run in groupby(spoken, key=lambda one: one[0])]
    before = runs.pop(0)[1] if runs and runs[0][0] == "assistant" else []
    after = runs.pop()[1] if runs and runs[-1][0] == "human" else []
    if not runs:
        raise BadSample("missing_annotation", "the human says nothing that is answered")
    texts = ["\n\n".join(filter(None, run)) for _, run in runs]
    for number, text in enumerate(texts):
        if not text:
            speaker = runs[number][0]
            reason: Reason = "empty_response" if speaker == "assistant" else "bad_field"
            raise BadSample(reason, f"in exchange {number // 2} the {speaker} says nothing")
    notes = {
        "system": system,
        "joined": sum(len(run) - 1 for _, run in runs),
        "left_out_before": len(before),
        "left_out_after": len(after),
    }
    turns = [Turn(instruction=human, response=answer) for human, answer in zip(texts[::2], texts[1::2], strict=True)]
    return turns, {name: note for name, note in notes.items() if note}


def text_sample(name: str, key: str, turns: Iterable[Turn], meta: dict[str, Any]) -> Sample:
    """A sample without images.

    Where a text says "<image>", a model would take it for one: it becomes "(image)", and `meta["unmarked"]` counts how
    often.
    """
    turns = list(turns)
    marks = sum((turn.instruction + turn.response).count(IMAGE_MARK) for turn in turns)
    return Sample(
        key=key,
        dataset=name,
        task="text",
        turns=tuple(Turn(instruction=unmarked(turn.instruction), response=unmarked(turn.response)) for turn in turns),
        meta=meta | ({"unmarked": marks} if marks else {}),
    )


def builder(name: str, said: Callable[[dict[str, Any]], Said]) -> Callable[[str, Any, Context], Sample]:
    """The `build` of a dataset whose conversations `said` reads."""

    def build(key: str, record: Any, context: Context) -> Sample:
        if record.get("image") or record.get("images"):
            raise BadSample("unsupported", "the record names an image: read such a file with --source llava")
        return text_sample(name, key, *exchanges(said(record)))

    return build


SHAREGPT = Source(
    name="sharegpt",
    title="ShareGPT, or your own text in its format",
    use="text",
    task="text",
    category="text",
    files="a JSON list or JSON lines of {id, conversations: [{from, value}]} or {messages: [{role, content}]}",
    published="Hugging Face: anon8231489123/ShareGPT_Vicuna_unfiltered",
    evidence="real file",
    records=records,
    identify=identify,
    build=builder("sharegpt", said_in),
    images="none",
)
ULTRACHAT = Source(
    name="ultrachat",
    title="UltraChat",
    use="text",
    task="text",
    category="text",
    files="its parts, JSON lines (also where they end in .json) of {id, data: [human, assistant, …]}",
    published="github.com/thunlp/UltraChat",
    licence="MIT",
    evidence="transcribed",
    records=records,
    identify=identify,
    build=builder("ultrachat", said_by_turns),
    images="none",
)
