"""Conversations: how turns become exchanges; and those without images: ShareGPT's format and UltraChat's.

    sharegpt   {id, conversations: [{from, value}, …], system}, or {messages: [{role, content}, …]}; see `messages.py`
    ultrachat  {id, data: [human, assistant, human, …]}

What becomes of the turns, here and in LLaVA's datasets (`llava.py`): pairs of what the human says and what the
assistant answers, verbatim but for white space around them. Turns of one speaker in a row are joined by a blank line.
What the assistant says before any human, and what the human says last without an answer, is left out; the system's
message is kept in `meta`, and so are the numbers of turns joined and left out. An empty turn in between means that
something is missing which the rest answers or asks about: the conversation is quarantined. So is one that shows images.

An answer that the record excludes from learning, or calls bad, stays as context and is not learned (`Turn.learned`).
Which fields say so, and what becomes of all others, is in `meanings.py`.

An id may repeat: ShareGPT and LLaVA name several conversations alike, UltraChat counts in each of its files. So a key
is the id and the content's hash, and only a true copy is a duplicate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from polite_flamingo.sample import IMAGE_MARK, BadSample, Reason, Sample, Turn, unmarked
from polite_flamingo.sources.reading.checks import entry, fingerprint, identity
from polite_flamingo.sources.reading.shelf import Shelf
from polite_flamingo.sources.records.annotation_files import file_records
from polite_flamingo.sources.records.fields import Found, noted, present
from polite_flamingo.sources.records.markup import Shown, check_placeholders
from polite_flamingo.sources.records.meanings import ROLES
from polite_flamingo.sources.records.messages import Message, Talk, read_talk, talk_by_turns
from polite_flamingo.sources.records.source import Context, Place, Source, SourceOptions

SPEAKERS = ROLES


def records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
    """The conversations."""
    return file_records(options, shelf, "conversations")


def identify(record: Any) -> str:
    """The id, where there is one, and the hash of the content."""
    named = [identity(record, "id")] if entry(record).get("id") is not None else []
    return "-".join([*named, fingerprint(record)])


def exchanges(said: Iterable[Message], found: Found) -> tuple[list[Turn], list[Shown], dict[str, Any]]:
    """The whole exchanges of a conversation, and what had to be done for them: see the module.

    Args:
        said: in order.
        found: is told what is left out.

    Returns:
        at least one turn; the pictures that its human shows, one for each mark; and of `system` (text), `joined`,
        `left_out_before`, `left_out_after` (numbers of turns) those that apply.

    Raises:
        BadSample: nothing is answered, a turn is empty, or one answer is partly learned.
    """
    said = list(said)
    system = "\n\n".join(one.text.strip() for one in said if one.speaker == "system" and one.text.strip())
    spoken = groupby((one for one in said if one.speaker != "system"), key=lambda one: one.speaker)
    runs = [(speaker, list(run)) for speaker, run in spoken]
    before = runs.pop(0)[1] if runs and runs[0][0] == "assistant" else []
    after = runs.pop()[1] if runs and runs[-1][0] == "human" else []
    if not runs:
        raise BadSample("missing_annotation", "the human says nothing that is answered")
    texts = ["\n\n".join(filter(None, (one.text.strip() for one in run))) for _, run in runs]
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
    for name, says in _SAID.items():
        if notes[name]:
            found.note(says)
    turns = []
    for number, (human, answer) in enumerate(zip(runs[::2], runs[1::2], strict=True)):
        learned = {one.learned for one in answer[1]}
        if len(learned) > 1:
            raise BadSample(
                "unsupported", f"exchange {number}: one answer of parts that are learned and parts that are not"
            )
        called_bad = any(one.bad for one in human[1])
        turn = Turn(
            instruction=texts[2 * number], response=texts[2 * number + 1], learned=learned.pop() and not called_bad
        )
        turns.append(turn)
    if not any(turn.learned for turn in turns):
        why = next(one.why for _, run in runs for one in run if one.why)
        raise BadSample("excluded", f"no answer is to be learned: {why}")
    if not all(turn.learned for turn in turns):
        found.note("answers that are not to be learned stay as context")
    shown = [picture for _, run in runs[::2] for one in run for picture in one.shown]
    return turns, shown, {name: note for name, note in notes.items() if note}


SYSTEM_KEPT = "the system's message is kept in meta; it is not in the prompt"

_SAID = {
    "system": SYSTEM_KEPT,
    "left_out_before": "what the assistant says before any human is left out",
    "left_out_after": "what the human says last, without an answer, is left out",
}


def text_turns(talk: Talk) -> tuple[list[Turn], dict[str, Any]]:
    """The turns of a conversation without pictures, and its `meta`. Raises `BadSample` where it shows one."""
    if talk.pictured:
        raise BadSample("unsupported", "the record names an image: read such a file with --source llava")
    if talk.found.unread:
        what = f"column {talk.found.unread[0][:40]!r} holds bytes, which no text is"
        raise BadSample("unsupported", f"{what}: drop it, or read the file with --source llava if it is a picture")
    if talk.objects is not None:
        raise BadSample("unsupported", "field 'objects' names places in a picture, and the record has none")
    turns, _, meta = exchanges(talk.messages, talk.found)
    return turns, meta


def text_sample(name: str, key: str, turns: Iterable[Turn], meta: dict[str, Any]) -> Sample:
    """A sample without images. Raises `BadSample` where a human's text shows one, or a video or a sound.

    Where a text says "<image>", a model would take it for one: it becomes "(image)", and `meta["unmarked"]` counts how
    often.
    """
    turns = list(turns)
    for turn in turns:
        check_placeholders(turn.instruction, pictured=False)
    marks = sum((turn.instruction + turn.response).count(IMAGE_MARK) for turn in turns)
    return Sample(
        key=key,
        dataset=name,
        task="text",
        turns=tuple(
            replace(turn, instruction=unmarked(turn.instruction), response=unmarked(turn.response)) for turn in turns
        ),
        meta=meta | ({"unmarked": marks} if marks else {}),
    )


def builder(name: str, read: Callable[[dict[str, Any]], Talk]) -> Callable[[str, Any, Context], Sample]:
    """The `build` of a dataset whose conversations `read` reads."""

    def build(key: str, record: Any, context: Context) -> Sample:
        talk = read(present(entry(record), context.options))
        turns, meta = text_turns(talk)
        return text_sample(name, key, turns, talk.found.meta | meta)

    return build


def reader(
    read: Callable[[dict[str, Any]], Talk],
) -> Callable[[SourceOptions, Shelf], Iterator[tuple[Place, int, Any]]]:
    """The `records` of a dataset whose conversations `read` reads: what is kept or left out of them is noted."""

    def notes(record: dict[str, Any]) -> Iterable[str]:
        talk = read(record)
        exchanges(talk.messages, talk.found)
        return talk.found.notes

    return lambda options, shelf: noted(records(options, shelf), notes, shelf)


SHAREGPT = Source(
    name="sharegpt",
    title="ShareGPT, or your own text in its format",
    use="text",
    task="text",
    category="text",
    files="a JSON list or JSON lines of {id, conversations: [{from, value}]} or {messages: [{role, content}]}",
    published="Hugging Face: anon8231489123/ShareGPT_Vicuna_unfiltered",
    evidence="real file",
    records=reader(read_talk),
    identify=identify,
    build=builder("sharegpt", read_talk),
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
    records=reader(talk_by_turns),
    identify=identify,
    build=builder("ultrachat", talk_by_turns),
    images="none",
)
