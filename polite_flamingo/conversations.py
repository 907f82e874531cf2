"""A conversation as single-turn samples, and back.

Everything that handles one annotation at a time (the paper's prompt, the filters, the thresholds, the report) gets the
turns of a conversation as samples of their own. A single-turn sample is its own part. Turns that must not be learned
are only context: they are never rewritten or scored, so they have no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from polite_flamingo.sample import IMAGE_MARK, BadSample, Reason, Sample, Turn


def parts_of(sample: Sample) -> dict[int, Sample]:
    """Return number of a turn -> the turn as a single-turn sample, in order.

    The parts of a conversation are called KEY/turn0, KEY/turn1 …; each has the images that the conversation has shown
    so far, because later turns ask about the same image without a mark of their own, the scores of the whole, and the
    turns `before` it.
    """
    if len(sample.turns) == 1:
        return {0: sample}
    parts = {}
    shown = 0
    for number, turn in enumerate(sample.turns):
        before, shown = shown, shown + turn.instruction.count(IMAGE_MARK)
        if turn.learned:
            parts[number] = replace(
                sample,
                key=part_key(sample, number),
                turns=(replace(turn, instruction=IMAGE_MARK * before + turn.instruction, rewritten=None, scores={}),),
                images=sample.images[:shown],
                rewritten=turn.rewritten,
                scores={**sample.scores, **turn.scores},
                before=sample.turns[:number],
            )
    return parts


def part_key(sample: Sample, number: int) -> str:
    """Return the key of a sample's part: its own if it has one turn."""
    return sample.key if len(sample.turns) == 1 else f"{sample.key}/turn{number}"


def joined(sample: Sample, results: Mapping[int, Sample | BadSample]) -> Sample | BadSample:
    """Put what parts became back into their sample.

    A failed turn of a conversation is marked (`Turn.failed`), and the conversation goes on without its text. If none
    is left the sample has failed, for the reason of its first turn.

    Args:
        sample: a sample.
        results: number of a turn -> its part with a text or scores, or why it has none. Other turns stay as they are.
    """
    if len(sample.turns) == 1:
        return results.get(0, sample)
    turns = [_joined(turn, results.get(number)) for number, turn in enumerate(sample.turns)]
    failures = [result for _, result in sorted(results.items()) if isinstance(result, BadSample)]
    if failures and all(turn.failed for turn in turns if turn.learned):
        number = next(number for number, turn in enumerate(turns) if turn.learned)
        first = results.get(number)  # not there if it failed earlier, and only its reason is known
        detail = f"{part_key(sample, number)} has no text, and no other turn has one and scores: {failures[0].detail}"
        return first if isinstance(first, BadSample) else BadSample(cast(Reason, turns[number].failed), detail)
    return replace(sample, turns=tuple(turns))


def with_texts(sample: Sample, texts: Sequence[str | BadSample | None]) -> Sample | BadSample:
    """Return the sample with a rewritten text per turn; see `joined`.

    Args:
        sample: a sample.
        texts: one entry per turn; None for a turn without a part.
    """
    parts = parts_of(sample)
    return joined(
        sample,
        {
            number: text if isinstance(text, BadSample) else replace(parts[number], rewritten=text)
            for number, text in enumerate(texts)
            if text is not None
        },
    )


def is_rewritten(sample: Sample) -> bool:
    """Whether a sample, or a turn of it, has a rewritten text."""
    return sample.rewritten is not None or any(turn.rewritten is not None for turn in sample.turns)


def polite_turns(sample: Sample) -> tuple[Turn, ...]:
    """Return the turns, each with its polite response in `rewritten`: None in a turn that is only context."""
    if len(sample.turns) == 1:
        return (replace(sample.turns[0], rewritten=sample.rewritten),)
    return sample.turns


def asked(turn: Turn) -> str:
    """Return what the user asks in a turn, without marks of images."""
    return turn.instruction.replace(IMAGE_MARK, "").strip()


def polite_text(turn: Turn) -> str:
    """Return what the assistant says in a turn: its polite response, or the annotation where it has none (context)."""
    return turn.response if turn.rewritten is None else turn.rewritten


def raw(sample: Sample) -> Sample:
    """Return the sample as it was before anything was rewritten or scored."""
    turns = tuple(replace(turn, rewritten=None, scores={}, failed="") for turn in sample.turns)
    return replace(sample, turns=turns, rewritten=None, scores={}, provenance={})


def _joined(turn: Turn, result: Sample | BadSample | None) -> Turn:
    if result is None:
        return turn
    if isinstance(result, BadSample):
        return replace(turn, failed=result.reason)
    return replace(turn, rewritten=result.rewritten, scores=result.scores)
