"""Boxes in pixels -> normalised boxes inside their image; shared by COCO's instances and the aerial detection sets.

Boxes are clipped to the image. A box outside it, or without area, is left out and counted. `responses.py` words them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from polite_flamingo.sample import BadSample

MAX_BOXES = 40
"""Aerial images hold up to 2,000 objects; the largest 40 fill about half of the rewriter's context (1024 tokens)."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A label and an axis-aligned box in pixels, (x1, y1) the top left corner."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def area(self) -> float:
        """The area in square pixels."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)


def clip(boxes: Sequence[Box], width: float, height: float) -> list[Box]:
    """Clip boxes to a picture of `width` x `height` pixels; boxes outside it are left out."""
    if width <= 0 or height <= 0:
        raise BadSample("bad_field", f"boxes cannot be normalised by a size of {width:g}x{height:g}")
    inside = [
        replace(box, x1=max(box.x1, 0.0), y1=max(box.y1, 0.0), x2=min(box.x2, width), y2=min(box.y2, height))
        for box in boxes
    ]
    return [box for box in inside if box.x1 < box.x2 and box.y1 < box.y2]


def largest(boxes: Sequence[Box]) -> list[Box]:
    """Return the `MAX_BOXES` largest boxes, in their original order."""
    chosen = sorted(range(len(boxes)), key=lambda number: (-boxes[number].area, number))[:MAX_BOXES]
    return [boxes[number] for number in sorted(chosen)]


def normalised(
    boxes: Sequence[Box], width: float, height: float
) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Return label and (x1, y1, x2, y2) from 0 to 1 of each box, as `responses.captions_and_boxes` takes them."""
    return [(box.label, (box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height)) for box in boxes]
