"""A sample as a dialogue with a chat model: what to ask for each turn, and what to make of each answer.

Whoever has the model drives it: an endpoint a dialogue at a time in each thread, vLLM all dialogues of a call at once.
An answer that is no rewritten text fails its turn, with the reason `refused` or `answer_cut` where the user can do
something about it, else `rewriting_failed`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from polite_flamingo.conversations import part_key
from polite_flamingo.endpoints.answers import Fault, Unfinished, faults, repeats, stripped, without_reasoning
from polite_flamingo.rewriters import chat_prompt
from polite_flamingo.rewriters.config import ChatConfig
from polite_flamingo.sample import IMAGE_MARK, MAX_TEXT_CHARACTERS, BadSample, Reason, Sample

Text = str | BadSample | None

_REASONS: dict[Fault, tuple[Reason, str]] = {
    "cut": ("answer_cut", "the answer ends at the limit of tokens"),
    "declined": ("refused", "the model declines"),
    "filtered": ("refused", "the server's filter withheld the answer"),
    "aborted": ("rewriting_failed", "the server ended the answer early"),
    "empty": ("rewriting_failed", "the answer is empty"),
    "leaked": ("rewriting_failed", "the answer contains markup of the chat template"),
    "echo": ("rewriting_failed", "the answer repeats the prompt"),
}
"""Fault of an answer -> reason and words; if it has several, the first counts."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request to rewrite a turn.

    Attributes:
        key: of the turn.
        messages: the whole chat up to it.
        given: the instruction and the annotation, whose markup and refusals a text may repeat.
    """

    key: str
    messages: Sequence[chat_prompt.Message]
    given: tuple[str, str]

    @property
    def images(self) -> int:
        """Number of pictures in the messages."""
        contents = [message["content"] for message in self.messages]
        return sum(part["type"] == "image_url" for one in contents if isinstance(one, list) for part in one)


class Dialogue:
    """The turns of a sample, in order; `next` and `take` alternate until `next` returns None.

    Attributes:
        texts: one entry per turn so far, as a rewriter returns them.
    """

    def __init__(self, config: ChatConfig, opening: Sequence[chat_prompt.Message], sample: Sample):
        """Args: opening: see `chat_prompt.opening`."""
        self.texts: list[Text] = []
        self._config, self._sample = config, sample
        self._messages = list(opening)
        self._images = iter(sample.images)

    def next(self) -> Ask | None:
        """Return what to ask next; None after the last turn."""
        try:
            if not self.texts:
                self._sample.validate()
            while len(self.texts) < len(self._sample.turns):
                number = len(self.texts)
                turn = self._sample.turns[number]
                shown = [next(self._images) for _ in range(turn.instruction.count(IMAGE_MARK))]
                self._messages.append(
                    chat_prompt.user(self._config, turn.instruction, turn.response, self._sample.task, shown)
                )
                if turn.learned:
                    return Ask(
                        key=part_key(self._sample, number),
                        messages=tuple(self._messages),
                        given=(turn.instruction, turn.response),
                    )
                self.take(None)
        except BadSample as bad:  # later turns cannot be asked without this one's picture
            self.texts += [bad if turn.learned else None for turn in self._sample.turns[len(self.texts) :]]
        return None

    def take(self, text: Text) -> None:
        """Take the text of the turn that `next` has asked for, or why there is none."""
        said = text if isinstance(text, str) else self._sample.turns[len(self.texts)].response
        self.texts.append(text)
        self._messages.append(chat_prompt.assistant(self._config, said))


def rewritten_text(ask: Ask, said: str, *, structured: bool) -> str | BadSample:
    """Return the rewritten text in an answer, or why it has none. Args: structured: whether JSON was asked for."""
    answer = stripped(without_reasoning(said))
    text = answer
    if structured and not isinstance(answer, Unfinished):
        found = polite_of(answer)
        if found is None and not faults(answer, ask.given):
            return BadSample(
                "rewriting_failed", f"{ask.key}: the answer is not the JSON that was asked for: {answer[:80]!r}"
            )
        if found is not None:
            text = found.encode("utf-8", "replace").decode().strip()  # half a surrogate pair, escaped in the JSON
    if len(text) > MAX_TEXT_CHARACTERS:
        return BadSample("text_too_long", f"{ask.key}: the answer has {len(text):,} characters")
    faulty = {*faults(text, ask.given), *(["echo"] if _echoes(text, ask.messages[-1]) else [])}
    for fault, (reason, words) in _REASONS.items():
        if fault in faulty:
            return BadSample(reason, f"{ask.key}: {words}" + (f": {text[:80]!r}" if text else ""))
    return text


def polite_of(answer: str) -> str | None:
    """Return the text in an answer of JSON, in a fence or not; None if it is not what `SCHEMA` describes."""
    bare = re.sub(r"\A```(?:json)?\s*|\s*```\Z", "", answer.strip())
    try:
        found = json.loads(bare)
    except (ValueError, RecursionError):
        return None
    text = found.get("polite") if isinstance(found, dict) else None
    return text if isinstance(text, str) else None


def _echoes(text: str, asked: chat_prompt.Message) -> bool:
    content = asked["content"]
    said = content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)
    return repeats(text, said)
