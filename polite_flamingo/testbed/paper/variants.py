"""What some models of the repeated paper are shown instead: coarser pictures, one picture of two, texts by template."""

from __future__ import annotations

import dataclasses
import io

from PIL.Image import Resampling

from polite_flamingo.images.decoding import decode
from polite_flamingo.sample import IMAGE_MARK, BadSample, Image, Sample
from polite_flamingo.sources.records.responses import BOXES_FOLLOW

COARSE = 64
"""Side of a coarse picture in pixels: two thirds of 96, as 224 is of 336 ([PF], section 5)."""


def coarse(sample: Sample) -> Sample:
    """Return the sample with pictures of `COARSE` pixels. A broken picture stays as it is."""
    return dataclasses.replace(sample, images=tuple(map(_shrunk, sample.images)))


def _shrunk(image: Image) -> Image:
    try:
        picture = decode(image.data)
    except BadSample:
        return image
    buffer = io.BytesIO()
    picture.resize((COARSE, COARSE), Resampling.BICUBIC).save(buffer, "PNG")
    return Image(extension="png", data=buffer.getvalue())


def first_picture(sample: Sample) -> Sample:
    """Return the sample without all pictures but the first."""
    turn = sample.turns[0]
    before, mark, after = turn.instruction.partition(IMAGE_MARK)
    turn = dataclasses.replace(turn, instruction=before + mark + after.replace(IMAGE_MARK, ""))
    return dataclasses.replace(sample, turns=(turn, *sample.turns[1:]), images=sample.images[:1])


def by_template(sample: Sample) -> str:
    """Return the annotation as a sentence, from the text alone and by one template a task, as M³IT's writers were told.

    It is as true as the annotation, and knows no more than it.
    """
    first, *others = [line.strip() for line in sample.response.split(f"\n{BOXES_FOLLOW}")[0].splitlines()]
    if sample.task in ("vqa", "vqa_rationale"):
        answer = f"The answer is {first.removeprefix('Answer: ')}"
        rationale = "".join(others).removeprefix("Rationale: ")
        return f"{answer}, because {rationale}." if rationale else f"{answer}."
    said = [f"{line[0].upper()}{line[1:].removesuffix('.')}." for line in (first, *others) if line]
    return " ".join(said)
