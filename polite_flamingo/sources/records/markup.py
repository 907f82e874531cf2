"""What stands in the texts of a conversation for something else: pictures, objects, boxes (`meanings.PLACEHOLDERS`).

A place of a picture becomes the mark `<image>`; objects become their names, boxes what our own responses say of them,
`label: [0.123, 0.045, 0.312, 0.298]`, normalised by the picture's size (`responses.py`). Boxes that are plain numbers
in a text stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from polite_flamingo.sample import IMAGE_MARK, BadSample
from polite_flamingo.sources.reading.checks import entry, finite, list_of, verbatim
from polite_flamingo.sources.records.boxes import Box, clip, normalised
from polite_flamingo.sources.records.meanings import MEDIA_ENDINGS, PLACEHOLDERS, Placeholder


@dataclass(frozen=True)
class Shown:
    """A picture at its place in a text.

    Attributes:
        written: what stands there; "" where it is no part of a text.
        reference: the picture, where the place itself names or holds it.
        number: which of the record's pictures it is, as written.
    """

    written: str = ""
    reference: Any = None
    number: int | None = None


_GROUP = re.compile(r"(?<!\\)\((?!\?)")
_ALL = re.compile("|".join(f"(?P<p{n}>{_GROUP.sub('(?:', one.pattern)})" for n, one in enumerate(PLACEHOLDERS)), re.I)
_OPENS = re.compile(r"[<\[({]")
"""What every placeholder begins with."""

_TAKEN = {n: re.compile(one.pattern, re.I) for n, one in enumerate(PLACEHOLDERS) if one.takes}
_HTML = re.compile(
    r"</(?:div|p|a|ul|li|span|head|body|html|script|style|video|audio|picture|svg|table)>|<!doctype|\bhtml", re.I
)
_MEDIA_FILE = re.compile(rf"<(?:video|audio)>\s*[^<>\n]+\.(?:{'|'.join(MEDIA_ENDINGS)})\s*</", re.I)


def places(text: str) -> Iterator[tuple[Placeholder, re.Match[str], str]]:
    """The placeholders of a text in order, with what their group says."""
    end = 0
    for start in _OPENS.finditer(text):  # to try all patterns at each letter would take milliseconds a text
        match = _ALL.match(text, start.start()) if start.start() >= end else None
        if match is None:
            continue
        end = match.end()
        number = int((match.lastgroup or "p0")[1:])
        taken = _TAKEN[number].fullmatch(match[0]) if number in _TAKEN else None
        yield PLACEHOLDERS[number], match, taken[1] if taken else ""


def check_placeholders(text: str, *, pictured: bool, objects: bool = False) -> None:
    """Refuse what stands for something that is not read.

    Args:
        text: what one speaker says.
        pictured: whether the record shows pictures; in a text about other things, a word may look like a placeholder.
        objects: whether the record names objects and boxes.

    Raises:
        BadSample: `unsupported`, naming it.
    """
    html = bool(_HTML.search(text)) and not _MEDIA_FILE.search(text)
    for placeholder, match, _ in places(text):
        written = repr(match[0][:40])
        quoted = text[max(0, match.start() - 1) : match.start()] == text[match.end() : match.end() + 1] == "`"
        ordinary = (placeholder.text and not pictured) or (placeholder.html and html) or quoted
        if placeholder.becomes == "refused" and not ordinary:
            raise BadSample("unsupported", f"{written} in a text: {placeholder.says}, which is not read")
        if placeholder.becomes in ("object", "box") and not objects and not ordinary:
            raise BadSample("unsupported", f"{written} in a text, and the record names no objects for it")
        if placeholder.becomes == "picture" and not (pictured or ordinary):
            raise BadSample("unsupported", f"{written} in a text shows a picture, and the record has none")


def names_picture(text: str) -> bool:
    """Whether a picture's path stands in a text, between marks for it."""
    return any(placeholder.takes == "path" for placeholder, _, _ in places(text))


def thinks(text: str) -> bool:
    """Whether thoughts are marked in a text."""
    return any(placeholder.becomes == "noted" for placeholder, _, _ in places(text))


def with_marks(text: str, *, pictured: bool) -> tuple[str, list[Shown]]:
    """A human's text with `<image>` at each place of a picture, and these places.

    Args:
        text: as it is written.
        pictured: whether the record shows pictures; else only `<image>` itself is a place.
    """
    pieces, shown, end = [], [], 0
    for placeholder, match, taken in places(text):
        if placeholder.becomes != "picture" or not (pictured or match[0] == IMAGE_MARK):
            continue
        times = max(1, match[0].lower().count(IMAGE_MARK)) if match[0].startswith("<fake") else 1
        pieces += [text[end : match.start()], IMAGE_MARK * times]
        end = match.end()
        path = taken.strip() if placeholder.takes == "path" else None
        shown += [Shown(match[0], path, int(taken) if placeholder.takes == "number" else None)] * times
    return "".join([*pieces, text[end:]]), shown


def marked(text: str, pictures: int) -> str:
    """One speaker's text about pictures that are given in their order: `<image>` for each place, boxes in words.

    Args:
        text: as it is written.
        pictures: how many the record shows; with none, only `<image>` itself is a place.

    Raises:
        BadSample: `unsupported`: it stands for something that is not read, or for the pictures in another order.
    """
    check_placeholders(text, pictured=pictures > 0)
    found, shown = with_marks(text, pictured=pictures > 0)
    numbers = [place.number for place in shown if place.number is not None]
    for place in shown:
        if place.reference is not None:
            raise BadSample("unsupported", f"{place.written[:60]!r} in a text names a picture: name it beside the text")
    if numbers and (numbers[0] not in (0, 1) or numbers != list(range(numbers[0], numbers[0] + len(shown)))):
        raise BadSample("unsupported", f"the pictures stand in a text in another order: {numbers}"[:200])
    return in_words(found) if pictures else found


_LABEL = r"<ref>(?P<a>.*?)</ref>|<\|object_ref_start\|>(?P<b>.*?)<\|object_ref_end\|>"
_BOX = r"<box>(?P<c>.*?)</box>|<\|box_start\|>(?P<d>.*?)<\|box_end\|>"
_GROUNDED = re.compile(f"{_LABEL}|{_BOX}", re.S)
_NUMBERS = re.compile(r"-?\d+(?:\.\d+)?")


def in_words(text: str) -> str:
    """The marks of Qwen-VL and InternVL, whose boxes are in thousandths of the picture, as names and our boxes.

    Raises:
        BadSample: `unsupported`: a box of another form.
    """
    pieces: list[tuple[str, str]] = []
    end = 0
    for match in _GROUNDED.finditer(text):
        pieces.append(("text", text[end : match.start()]))
        end = match.end()
        label = match["a"] if match["a"] is not None else match["b"]
        if label is not None:
            pieces.append(("label", label.strip()))
            continue
        inside = match["c"] if match["c"] is not None else match["d"]
        numbers = [float(number) for number in _NUMBERS.findall(inside)]
        if re.sub(r"[\d\s.,()\[\]-]", "", inside) or len(numbers) not in (2, *range(4, 400, 4)) or max(numbers) > 1000:
            raise BadSample("unsupported", f"{match[0][:60]!r} in a text is no box in thousandths of a picture")
        size = 2 if len(numbers) == 2 else 4
        boxes = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        pieces += [("box", _box([number / 1000 for number in box])) for box in boxes]
    return _joined([*pieces, ("text", text[end:])])


@dataclass(frozen=True)
class Objects:
    """Names and boxes of ms-swift's `objects`: `<ref-object>` and `<bbox>` stand for them, each in its order."""

    names: Sequence[str]
    boxes: Sequence[Sequence[float]]
    unit: str
    images: Sequence[int]

    @staticmethod
    def read(value: Any) -> Objects:
        """Of {ref, bbox, bbox_type, image_id}, or the older [{caption, bbox, bbox_type, image}]; a JSON string, too.

        Raises:
            BadSample: `bad_field`.
        """
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise BadSample("bad_field", "field 'objects' is a string and not JSON") from None
        if isinstance(value, list):
            value = _older(value)
        fields = entry(value)
        names = [
            verbatim(name, "a name in field 'objects'").strip() for name in list_of({"ref": [], **_set(fields)}, "ref")
        ]
        boxes = []
        for box in list_of({"bbox": [], **_set(fields)}, "bbox"):
            if not isinstance(box, list) or len(box) not in (2, 4):
                raise BadSample("bad_field", "a box in field 'objects' must be [x1, y1, x2, y2] or a point [x, y]")
            boxes.append([finite(number, "a number of a box in field 'objects'") for number in box])
        images = list_of({"image_id": [], **_set(fields)}, "image_id")
        if any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in images):
            raise BadSample("bad_field", "field 'image_id' of 'objects' must hold numbers of pictures, from 0")
        unit = fields.get("bbox_type") or "real"
        if unit not in ("real", "norm1", "norm1000"):
            raise BadSample(
                "unsupported", f"bbox_type {str(unit)[:20]!r} of 'objects' is none of real, norm1, norm1000"
            )
        return Objects(names, boxes, unit, [*images, *[0] * (len(boxes) - len(images))])

    def located(self, texts: Sequence[str], sizes: Sequence[tuple[int, int]]) -> list[str]:
        """The texts with names and boxes in the places of their placeholders.

        Args:
            texts: in the order of the conversation.
            sizes: width and height of the record's pictures.

        Raises:
            BadSample: `bad_field`: more or fewer placeholders than objects, or a box outside of its picture.
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
            found.append(_joined(pieces))
        return found

    def _worded(self, number: int, sizes: Sequence[tuple[int, int]]) -> str:
        image, box = self.images[number], self.boxes[number]
        if image >= len(sizes):
            raise BadSample(
                "bad_field", f"box {number} of 'objects' is in picture {image}, the record has {len(sizes)}"
            )
        width, height = {"real": sizes[image], "norm1": (1, 1), "norm1000": (1000, 1000)}[self.unit]
        if len(box) == 2:
            if not (0 <= box[0] <= width and 0 <= box[1] <= height):
                raise BadSample("bad_field", f"point {number} of 'objects' lies outside of its picture")
            return _box([box[0] / width, box[1] / height])
        inside = clip([Box(label="", x1=box[0], y1=box[1], x2=box[2], y2=box[3])], width, height)
        if not inside:
            raise BadSample("bad_field", f"box {number} of 'objects' lies outside of its picture or has no area")
        return _box(normalised(inside, width, height)[0][1])


def _older(value: list[Any]) -> dict[str, Any]:
    """The older form of objects: each has its name, its boxes and its picture."""
    found: dict[str, Any] = {"ref": [], "bbox": [], "image_id": [], "bbox_type": None}
    for one in map(entry, value):
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


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _box(numbers: Sequence[float]) -> str:
    return f"[{', '.join(f'{number:.3f}' for number in numbers)}]"


_BETWEEN = {("label", "box"): ": ", ("box", "box"): ", ", ("box", "label"): "\n", ("label", "label"): ", "}


def _joined(pieces: Sequence[tuple[str, str]]) -> str:
    """The pieces; between names and boxes that touch, what our responses have there."""
    text, before = "", "text"
    for kind, piece in pieces:
        if kind == "text" and not piece.strip():
            text += piece if before == "text" else ""
            continue
        text += _BETWEEN.get((before, kind), "") + piece
        before = kind
    return text
