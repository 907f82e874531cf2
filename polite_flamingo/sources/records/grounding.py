"""Objects and boxes in the texts of a conversation, in the words of our own responses.

`label: [0.123, 0.045, 0.312, 0.298]`, normalised by the image size (`responses.py`). Boxes that are plain numbers in a
text stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.field_checks import as_object, finite_number, list_field, verbatim
from polite_flamingo.sources.reading.json_values import json_in
from polite_flamingo.sources.records.boxes import Box, clip, normalised

_LABEL = r"(?:<ref>|<\|object_ref_start\|>)(?P<label>.*?)(?:</ref>|<\|object_ref_end\|>)"
_BOX = r"(?:<box>|<\|box_start\|>)(?P<box>.*?)(?:</box>|<\|box_end\|>)"
_GROUNDED = re.compile(f"{_LABEL}|{_BOX}", re.S)
_NUMBERS = re.compile(r"-?\d+(?:\.\d+)?")


def grounding_in_words(text: str) -> str:
    """Write the marks of Qwen-VL and InternVL, with boxes in thousandths of the picture, as names and our boxes.

    Raises:
        BadSample: `unsupported` for a box in another form.
    """
    pieces: list[tuple[str, str]] = []
    end = 0
    for match in _GROUNDED.finditer(text):
        pieces.append(("text", text[end : match.start()]))
        end = match.end()
        if match["label"] is not None:
            pieces.append(("label", match["label"].strip()))
            continue
        inside = match["box"]
        numbers = [float(number) for number in _NUMBERS.findall(inside)]
        if re.sub(r"[\d\s.,()\[\]-]", "", inside) or len(numbers) not in (2, *range(4, 400, 4)) or max(numbers) > 1000:
            raise BadSample("unsupported", f"{match[0][:60]!r} in a text is not a box in thousandths of the image size")
        size = 2 if len(numbers) == 2 else 4
        boxes = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        pieces += [("box", _box_text([number / 1000 for number in box])) for box in boxes]
    return _join_pieces([*pieces, ("text", text[end:])])


@dataclass(frozen=True)
class GroundedObjects:
    """Names and boxes of ms-swift's `objects`: `<ref-object>` and `<bbox>` stand for them, each in order."""

    names: Sequence[str]
    boxes: Sequence[Sequence[float]]
    unit: str
    images: Sequence[int]

    @staticmethod
    def read(value: Any) -> GroundedObjects:
        """Read {ref, bbox, bbox_type, image_id}, or the older [{caption, bbox, bbox_type, image}]; also a JSON string.

        Raises:
            BadSample: `bad_field`.
        """
        if isinstance(value := json_in(value), str):
            raise BadSample("bad_field", "field 'objects' is a string and not JSON")
        if isinstance(value, list):
            value = _from_older_form(value)
        fields = as_object(value)
        names = [verbatim(name, "a name in field 'objects'").strip() for name in _list(fields, "ref")]
        boxes = []
        for box in _list(fields, "bbox"):
            if not isinstance(box, list) or len(box) not in (2, 4):
                raise BadSample("bad_field", "a box in field 'objects' must be [x1, y1, x2, y2] or a point [x, y]")
            boxes.append([finite_number(number, "a number of a box in field 'objects'") for number in box])
        images = _list(fields, "image_id")
        if any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in images):
            raise BadSample("bad_field", "field 'image_id' of 'objects' must hold numbers of pictures, from 0")
        unit = fields.get("bbox_type") or "real"
        if unit not in ("real", "norm1", "norm1000"):
            raise BadSample("unsupported", f"bbox_type {str(unit)[:20]!r} of 'objects' is not real, norm1 or norm1000")
        return GroundedObjects(names, boxes, unit, [*images, *[0] * (len(boxes) - len(images))])

    def located(self, texts: Sequence[str], sizes: Sequence[tuple[int, int]]) -> list[str]:
        """Replace the placeholders in the texts by names and boxes.

        Args:
            texts: the texts in the order of the conversation.
            sizes: width and height of each of the record's pictures.

        Raises:
            BadSample: `bad_field` for more or fewer placeholders than objects, or a box outside its picture.
        """
        names, boxes = iter(self.names), iter(range(len(self.boxes)))
        for what, there, wanted in (("ref-object", "ref", self.names), ("bbox", "bbox", self.boxes)):
            count = sum(text.count(f"<{what}>") for text in texts)
            if count != len(wanted):
                raise BadSample("bad_field", f"{count} <{what}> in the texts, {len(wanted)} in {there!r} of 'objects'")
        found = []
        for text in texts:
            pieces: list[tuple[str, str]] = []
            for piece in re.split(r"(<ref-object>|<bbox>)", text):
                if piece == "<ref-object>":
                    pieces.append(("label", next(names)))
                elif piece == "<bbox>":
                    pieces.append(("box", self._worded(next(boxes), sizes)))
                else:
                    pieces.append(("text", piece))
            found.append(_join_pieces(pieces))
        return found

    def _worded(self, number: int, sizes: Sequence[tuple[int, int]]) -> str:
        image, box = self.images[number], self.boxes[number]
        if image >= len(sizes):
            what = f"box {number} of 'objects' is in picture {image}, the record has {len(sizes)}"
            raise BadSample("bad_field", what)
        width, height = {"real": sizes[image], "norm1": (1, 1), "norm1000": (1000, 1000)}[self.unit]
        if len(box) == 2:
            if not (0 <= box[0] <= width and 0 <= box[1] <= height):
                raise BadSample("bad_field", f"point {number} of 'objects' lies outside of its picture")
            return _box_text([box[0] / width, box[1] / height])
        inside = clip([Box(label="", x1=box[0], y1=box[1], x2=box[2], y2=box[3])], width, height)
        if not inside:
            raise BadSample("bad_field", f"box {number} of 'objects' lies outside of its picture or has no area")
        return _box_text(normalised(inside, width, height)[0][1])


def _from_older_form(value: list[Any]) -> dict[str, Any]:
    """Convert the older form, in which each object has its name, its boxes and its picture."""
    found: dict[str, Any] = {"ref": [], "bbox": [], "image_id": [], "bbox_type": None}
    for one in map(as_object, value):
        if one.get("caption") is not None:
            found["ref"].append(one["caption"])
        boxes = one.get("bbox") or []
        if not isinstance(boxes, list):
            raise BadSample("bad_field", "a box in field 'objects' must be a list")
        boxes = boxes if boxes and isinstance(boxes[0], list) else [boxes] if boxes else []
        found["bbox"] += boxes
        found["image_id"] += [one.get("image") or 0] * len(boxes)
        unit = one.get("bbox_type") or "real"
        if found["bbox_type"] not in (None, unit):
            raise BadSample("unsupported", "'objects' mix kinds of boxes (bbox_type)")
        found["bbox_type"] = unit
    return found


def _list(fields: dict[str, Any], name: str) -> list[Any]:
    """Return a list field that may be absent or null."""
    return [] if fields.get(name) is None else list_field(fields, name)


def _box_text(numbers: Sequence[float]) -> str:
    return f"[{', '.join(f'{number:.3f}' for number in numbers)}]"


_BETWEEN = {("label", "box"): ": ", ("box", "box"): ", ", ("box", "label"): "\n", ("label", "label"): ", "}


def _join_pieces(pieces: Sequence[tuple[str, str]]) -> str:
    """Join the pieces; between names and boxes that touch stands what our responses have there."""
    text, before = "", "text"
    for kind, piece in pieces:
        if kind == "text" and not piece.strip():
            text += piece if before == "text" else ""
            continue
        text += _BETWEEN.get((before, kind), "") + piece
        before = kind
    return text
