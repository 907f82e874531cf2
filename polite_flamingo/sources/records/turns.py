"""From messages to turns: which of them make an exchange, and what is left out.

An exchange is what the human says and what the assistant answers, verbatim except for surrounding white space.
Consecutive messages of one speaker are joined by a blank line. What the assistant says before the first human message
is left out, and so is a last human message without an answer, or with an empty one. `meta` keeps the system message,
and counts the messages that were joined and left out. An empty message in between means that something is missing which
the rest refers to: the conversation is quarantined.

An answer that the record excludes from learning, or calls bad, stays as context and is not learned (`Turn.learned`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import Any

from polite_flamingo.sample import IMAGE_MARK, BadSample, Reason, Sample, Turn, unmarked
from polite_flamingo.sources.records.extra_fields import Findings
from polite_flamingo.sources.records.message_content import Message
from polite_flamingo.sources.records.messages import Conversation
from polite_flamingo.sources.records.placeholders import ShownImage, check_placeholders


def to_turns(said: Iterable[Message], found: Findings) -> tuple[list[Turn], list[ShownImage], dict[str, Any]]:
    """Pair messages into whole exchanges, and say what had to be done for that: see the module.

    Args:
        said: the messages in order.
        found: collects notes of what is left out.

    Returns:
        At least one turn; the pictures that its human shows, one for each mark; and of `system` (text), `joined`,
        `left_out_before`, `left_out_after` (numbers of turns) those that apply.

    Raises:
        BadSample: nothing is answered, a turn is empty, or one answer is partly learned.
    """
    said = list(said)
    system = "\n\n".join(filter(None, (message.text.strip() for message in said if message.speaker == "system")))
    spoken = groupby((message for message in said if message.speaker != "system"), key=attrgetter("speaker"))
    runs = [(speaker, list(run)) for speaker, run in spoken]
    before = runs.pop(0)[1] if runs and runs[0][0] == "assistant" else []
    after = runs.pop()[1] if runs and runs[-1][0] == "human" else []
    while len(runs) > 2 and not any(message.text.strip() for message in runs[-1][1]):  # the last answer is empty
        after = [*runs[-2][1], *runs[-1][1], *after]
        del runs[-2:]
    if not runs:
        raise BadSample("missing_annotation", "no human message is answered")
    texts = ["\n\n".join(filter(None, (message.text.strip() for message in run))) for _, run in runs]
    for number, text in enumerate(texts):
        if not text:
            speaker = runs[number][0]
            reason: Reason = "empty_response" if speaker == "assistant" else "bad_field"
            raise BadSample(reason, f"in exchange {number // 2 + 1} the {speaker} says nothing")
    notes = {
        "system": system,
        "joined": sum(len(run) - 1 for _, run in runs),
        "left_out_before": len(before),
        "left_out_after": len(after),
    }
    for name, says in _TURN_NOTES.items():
        if notes[name]:
            found.note(says)
    turns = []
    for number, (human, answer) in enumerate(zip(runs[::2], runs[1::2], strict=True)):
        learned = {message.learned for message in answer[1]}
        if len(learned) > 1:
            raise BadSample(
                "unsupported", f"exchange {number + 1}: one answer with parts to learn and parts not to learn"
            )
        called_bad = any(message.bad for message in human[1])
        turn = Turn(
            instruction=texts[2 * number], response=texts[2 * number + 1], learned=learned.pop() and not called_bad
        )
        turns.append(turn)
    if not any(turn.learned for turn in turns):
        why = next(message.why for _, run in runs for message in run if message.why)
        raise BadSample("excluded", f"no answer may be learned: {why}")
    if not all(turn.learned for turn in turns):
        found.note("answers that may not be learned stay as context")
    shown = [picture for _, run in runs[::2] for message in run for picture in message.shown]
    return turns, shown, {name: note for name, note in notes.items() if note}


SYSTEM_KEPT = "the system message is kept in meta; it is not part of the prompt"

_TURN_NOTES = {
    "system": SYSTEM_KEPT,
    "joined": "messages of one speaker that follow each other are joined: is one missing between them?",
    "left_out_before": "what the assistant says before the first human message is left out",
    "left_out_after": "a last human message without an answer is left out",
}


def text_turns(conversation: Conversation) -> tuple[list[Turn], dict[str, Any]]:
    """Return the turns of a conversation without pictures, and its `meta`. Raises `BadSample` if it shows one."""
    if conversation.pictured:
        raise BadSample("unsupported", "the record names an image: read such a file with --source llava")
    if conversation.found.unread:
        what = f"column {conversation.found.unread[0][:40]!r} holds bytes, not text"
        raise BadSample("unsupported", f"{what}: drop it, or read the file with --source llava if it is a picture")
    if conversation.objects is not None:
        raise BadSample("unsupported", "field 'objects' names places in a picture, and the record has none")
    turns, _, meta = to_turns(conversation.messages, conversation.found)
    return turns, meta


def text_sample(key: str, turns: Iterable[Turn], meta: dict[str, Any]) -> Sample:
    """Make a sample without images. Raises `BadSample` if a human's text shows one, or a video or a sound.

    A model would take the text "<image>" for an image, so it becomes "(image)"; `meta["unmarked"]` counts how often.
    """
    turns = list(turns)
    for turn in turns:
        check_placeholders(turn.instruction, pictured=False)
    marks = sum((turn.instruction + turn.response).count(IMAGE_MARK) for turn in turns)
    return Sample(
        key=key,
        dataset="",
        task="text",
        turns=tuple(
            replace(turn, instruction=unmarked(turn.instruction), response=unmarked(turn.response)) for turn in turns
        ),
        meta=meta | ({"unmarked": marks} if marks else {}),
    )
