"""What a chat model is asked as a judge: to reason about each answer, then to rate it on five scales from 0 to 4.

The attributes are HelpSteer's, the wording is ours. The pictures come first, then the turns before, the question, the
reference if it is shown, and the answers by number: the order of the answers is the only thing that changes between two
requests about the same prompt, so a server computes the rest once.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from PIL import Image as Pillow

from polite_flamingo.conversations import asked
from polite_flamingo.endpoints.pictures import content
from polite_flamingo.images import decoding
from polite_flamingo.preference.judges.config import JudgeEndpoint
from polite_flamingo.preference.judges.reading import schema
from polite_flamingo.sample import IMAGE_MARK, Image, Sample, unmarked

Message = dict[str, Any]

SYSTEM = """\
You rate answers that assistants gave to the last question of a conversation{seeing}. Rate each answer by itself, with \
whole numbers from 0 (worst) to 4 (best), on five scales:
helpfulness: does it do what the user needs? 4: completely, nothing is left to ask; 2: in part; 0: not at all.
correctness: is everything that it says true{true}, and does it leave out nothing that matters? 4: all of it; 2: the \
main point holds, but a detail is wrong or missing; 0: it is wrong.
coherence: is it clear, consistent and complete language? 4: fluent and free of errors; 2: it can be understood with \
some effort, or is a mere fragment; 0: garbled.
complexity: how much knowledge or thought does it show? 4: an expert's; 2: common knowledge, put together; 0: a word.
verbosity: how long is it for what was asked? 4: very detailed; 2: about as long as needed; 0: as short as possible.
Length, tone and the place in the list say nothing about whether an answer is right: a short true answer is more \
correct than a long false one. Answers may be equal, and may all be bad.
First write in `reason`, in a sentence or two, what is good and bad about the answer; then give the numbers that \
follow from it. Reply with JSON alone: {form}"""

_SEEING = "; you see the pictures that it is about"
_UNSEEN = "; you cannot see the pictures that it is about"
_FORM = (
    '{"answers": [{"answer": 1, "reason": "…", "helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 1, '
    '"verbosity": 2}, …]}, with one entry for each answer.'
)

ASK_AGAIN = "Your reply cannot be used: {fault}. Reply again, with the whole JSON and nothing else: {form}"


def messages_of(config: JudgeEndpoint, sample: Sample, shown: Sequence[int], *, blind: bool = False) -> list[Message]:
    """Return the messages that ask for ratings.

    Args:
        config: whether pictures and the reference are shown.
        sample: with candidates.
        shown: numbers of the candidates, in the order in which the judge sees them.
        blind: show black pictures instead.

    Raises:
        BadSample: a picture cannot be read.
    """
    images = sample.images if config.pictures else ()
    seeing = (_SEEING if config.pictures else _UNSEEN) if sample.images else ""
    true = {(True, True): " of the pictures and of the reference", (True, False): " of the pictures"}.get(
        (bool(images), config.reference), " by the reference" if config.reference else ""
    )
    system = SYSTEM.format(seeing=seeing, true=true, form=_FORM)
    said = content(IMAGE_MARK * len(images) + _text(config, sample, shown), _black(images) if blind else images,
                   config.max_side)  # fmt: skip
    return [{"role": "system", "content": system}, {"role": "user", "content": said}]


def ask_again(messages: Sequence[Message], reply: str, fault: str) -> list[Message]:
    """Return the messages that ask for the reply again and say what was wrong with it."""
    said = ASK_AGAIN.format(fault=fault, form=_FORM)
    return [*messages, {"role": "assistant", "content": reply or "(no reply)"}, {"role": "user", "content": said}]


def response_format(shown: int) -> dict[str, Any]:
    """Return the field of a request that binds the reply to the schema."""
    return {"type": "json_schema", "json_schema": {"name": "ratings", "strict": True, "schema": schema(shown)}}


def wording() -> list[str]:
    """Return what identifies the prompt: other words make other ratings."""
    return [SYSTEM, _SEEING, _UNSEEN, _FORM, ASK_AGAIN]


def _text(config: JudgeEndpoint, sample: Sample, shown: Sequence[int]) -> str:
    *before, last = sample.turns
    parts = []
    if before:
        said = "\n".join(f"User: {asked(turn)}\nAssistant: {turn.response}" for turn in before)
        parts.append(f"The turns before:\n{said}")
    parts.append(f"Question: {asked(last)}")
    if config.reference:
        parts.append(f"Reference: {last.response}")
    parts += [f"Answer {place}:\n{sample.candidates[number].text}" for place, number in enumerate(shown, start=1)]
    return unmarked("\n\n".join(parts))


def _black(images: Sequence[Image]) -> tuple[Image, ...]:
    headers = [decoding.inspect(image.data) for image in images]
    return tuple(_black_image(header.width, header.height) for header in headers)


@lru_cache(maxsize=64)
def _black_image(width: int, height: int) -> Image:
    buffer = io.BytesIO()
    Pillow.new("RGB", (width, height)).save(buffer, "PNG")
    return Image(extension="png", data=buffer.getvalue())
