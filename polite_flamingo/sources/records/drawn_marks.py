"""Marks on an image: a coloured rectangle or ellipse around a region, a coloured arrow at a point.

This is the only place where a source decodes and encodes an image. Colour and shape depend only on the sample's key
(sha256); the instruction names them. Each mark has a thin edge in black or white, whichever contrasts more, so that a
red box on a red bus stays visible. Sizes scale with the image.

Coordinates refer to the pixels **as stored**: the datasets are from 2014 to 2019, and browsers have rotated pictures by
their EXIF orientation by default only since 2020 (Chrome 81). If the annotations give the size of their picture, that
decides instead: coordinates are scaled to an image that was resized since, and one of another shape is refused, since
a misplaced mark is worse than none. The image is rotated upright after drawing; no EXIF block is written.

A JPEG stays a JPEG (quality 95, full-size chroma: else a red line of three pixels turns brown), everything else becomes
a PNG. The same input gives the same bytes, as long as Pillow's codecs stay the same.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image as Pillow
from PIL import ImageDraw

from polite_flamingo.images.decoding import apply_exif_orientation, decode_as_stored
from polite_flamingo.sample import BadSample, Image
from polite_flamingo.sources.records.boxes import Box, clip
from polite_flamingo.sources.records.instructions import pick

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 0, 0),
    "green": (0, 200, 40),
    "blue": (20, 60, 255),
    "yellow": (255, 225, 0),
    "magenta": (235, 0, 235),
    "cyan": (0, 220, 255),
}
SHAPES = ("bounding box", "circle")

ARROW_ANGLE = math.radians(27)
"""The angle between the arrow's axis and the side of its head."""

SAME_SHAPE = 0.01
"""Tolerance of the aspect ratio: resizing rounds to whole pixels."""

_STENCIL = 1 << 24
"""Maximum pixels of a supersampled stencil."""

_Point = tuple[float, float]
_RGB = tuple[int, int, int]


def colour_of(key: str) -> str:
    """Choose the colour, by name, for the sample `key`."""
    return pick(tuple(COLOURS), key, " colour")


def shape_of(key: str) -> str:
    """Choose what surrounds the region of the sample `key`: one of `SHAPES`."""
    return pick(SHAPES, key, " shape")


def draw_region(image: Image, box: Box, colour: str, shape: str, size: tuple[float, float] | None = None) -> Image:
    """Draw a bounding box or circle (an ellipse) around `box`, as far as the picture reaches.

    Args:
        image: the encoded image.
        box: the region in pixels; what lies outside the picture is cut off.
        colour: one of `COLOURS`.
        shape: one of `SHAPES`.
        size: width and height, above 0, of the picture that the box was drawn on, if the annotations give them.

    Raises:
        BadSample: `bad_field` if the box has no part inside the picture, or the picture does not have the shape of
            `size`; otherwise as `decode` raises it.
    """
    canvas, orientation, (across, down) = _canvas(image, size)
    width, height = canvas.size
    scaled = Box(label="", x1=box.x1 * across, y1=box.y1 * down, x2=box.x2 * across, y2=box.y2 * down)
    inside = clip([scaled], width, height)
    if not inside:
        corners = f"{box.x1:g}, {box.y1:g}, {box.x2:g}, {box.y2:g}"
        raise BadSample("bad_field", f"the box ({corners}) has no part inside the image ({width}x{height})")
    line = max(1 if min(canvas.size) < 24 else 2, round((width + height) / 200))
    edge = max(1, round(line / 4))
    if shape == "circle":
        _ellipse(canvas, inside[0], colour, line, edge)
    else:
        _rectangle(canvas, inside[0], colour, line, edge)
    return _encoded(apply_exif_orientation(canvas, orientation), image.extension)


def draw_arrow(image: Image, x: float, y: float, colour: str, size: tuple[float, float] | None = None) -> Image:
    """Draw an arrow whose tip is at the pixel (x, y), coming from where there is most room for it.

    Args:
        image: the encoded image.
        x: pixels from the left.
        y: pixels from the top.
        colour: one of `COLOURS`.
        size: as in `draw_region`.

    Raises:
        BadSample: as in `draw_region`.
    """
    canvas, orientation, (across, down) = _canvas(image, size)
    width, height = canvas.size
    x, y = x * across, y * down
    if not (0 <= x <= width and 0 <= y <= height):
        raise BadSample("bad_field", f"the point ({x:g}, {y:g}) lies outside the image ({width}x{height})")
    tip = (min(x + 0.5, width - 0.5), min(y + 0.5, height - 0.5))  # the middle of the pixel
    length, angle = _longest_arrow(tip, width, height)
    edge = max(0.02 * length, min(0.6, 0.04 * length))
    _fill_polygon(canvas, _contrast(colour), _arrow(tip, angle, length))
    _fill_polygon(canvas, COLOURS[colour], _arrow(tip, angle, length, edge))
    return _encoded(apply_exif_orientation(canvas, orientation), image.extension)


def _canvas(image: Image, size: tuple[float, float] | None) -> tuple[Pillow.Image, int, _Point]:
    """Decode the picture that coordinates refer to; also return its EXIF orientation and the factors for x and y."""
    stored, orientation = decode_as_stored(image.data)
    if size is None:
        return stored, orientation, (1.0, 1.0)
    turned = apply_exif_orientation(stored, orientation)
    for picture, still in ((stored, orientation), (turned, 1)):
        across, down = picture.width / size[0], picture.height / size[1]
        if abs(across / down - 1) < SAME_SHAPE:
            return picture, still, (across, down)
    given, found = f"{size[0]:g}x{size[1]:g}", f"{turned.width}x{turned.height}"
    raise BadSample("bad_field", f"the annotations are for an image of {given}, this one has {found}")


def _encoded(picture: Pillow.Image, extension: str) -> Image:
    buffer = io.BytesIO()
    if extension == "jpg":
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        extension = "png"
        picture.save(buffer, "PNG", compress_level=4)  # up to four times faster than 6, for 5 % more bytes
    return Image(extension=extension, data=buffer.getvalue())


def _contrast(colour: str) -> _RGB:
    red, green, blue = COLOURS[colour]
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else (255, 255, 255)


def _rectangle(canvas: Pillow.Image, box: Box, colour: str, line: int, edge: int) -> None:
    """Draw a rectangle, outside the box where there is room; on whole pixels, hence sharp without anti-aliasing."""
    thick = line + 2 * edge
    left, top = max(0, math.floor(box.x1) - thick), max(0, math.floor(box.y1) - thick)
    right, bottom = min(canvas.width, math.ceil(box.x2) + thick) - 1, min(canvas.height, math.ceil(box.y2) + thick) - 1
    pen = ImageDraw.Draw(canvas)
    if min(right - left, bottom - top) < 2 * edge:  # a picture of a few pixels
        pen.rectangle((left, top, right, bottom), fill=COLOURS[colour])
        return
    pen.rectangle((left, top, right, bottom), outline=_contrast(colour), width=thick)
    pen.rectangle((left + edge, top + edge, right - edge, bottom - edge), outline=COLOURS[colour], width=line)


def _ellipse(canvas: Pillow.Image, box: Box, colour: str, line: int, edge: int) -> None:
    """Draw an ellipse, through the corners of the box where there is room."""
    thick = line + 2 * edge
    beyond = (math.sqrt(2) - 1) / 2
    wide, high = beyond * (box.x2 - box.x1) + thick, beyond * (box.y2 - box.y1) + thick
    left, top = max(0.0, box.x1 - wide), max(0.0, box.y1 - high)
    right, bottom = min(float(canvas.width), box.x2 + wide), min(float(canvas.height), box.y2 + high)
    rings = [_oval(left + cut, top + cut, right - cut, bottom - cut) for cut in (0, edge, edge + line, thick)]
    _fill_polygon(canvas, _contrast(colour), rings[0], rings[3])
    _fill_polygon(canvas, COLOURS[colour], rings[1] or rings[0], rings[2])


def _oval(left: float, top: float, right: float, bottom: float) -> list[_Point]:
    """Return 360 points of an ellipse; none if it has no width or height."""
    across, down = (right - left) / 2, (bottom - top) / 2
    if across <= 0 or down <= 0:
        return []
    turns = (math.radians(degrees) for degrees in range(360))
    return [(left + across * (1 + math.cos(turn)), top + down * (1 + math.sin(turn))) for turn in turns]


def _longest_arrow(tip: _Point, width: int, height: int) -> tuple[float, float]:
    """Find length and direction (tip to tail, radians) of the longest arrow inside, preferably from the middle."""
    to_middle = (width / 2 - tip[0], height / 2 - tip[1])
    angles = [math.radians(225 + 11.25 * turn) for turn in range(32)]
    angles.sort(key=lambda angle: -round(to_middle[0] * math.cos(angle) + to_middle[1] * math.sin(angle), 6))
    length = max(0.16 * math.sqrt(width * height), 16.0)
    while length > 2:
        for angle in angles:
            if all(0 <= x <= width and 0 <= y <= height for x, y in _arrow(tip, angle, length)):
                return length, angle
        length *= 0.8
    return length, angles[0]  # a picture of a few pixels: what does not fit is cut off


def _arrow(tip: _Point, angle: float, length: float, inset: float = 0.0) -> list[_Point]:
    """Return the corners of an arrow, with all its sides moved inwards by `inset`."""
    head = max(0.38 * length, min(7.0, 0.45 * length)) - inset
    shaft = max(0.07 * length, min(1.6, 0.1 * length)) - inset
    front = inset / math.sin(ARROW_ANGLE)
    barb = (head - front) * math.tan(ARROW_ANGLE)
    half = [(front, 0.0), (head, barb), (head, shaft), (length - inset, shaft)]
    outline = half + [(along, -aside) for along, aside in half[:0:-1]]
    cos, sin = math.cos(angle), math.sin(angle)
    return [(tip[0] + along * cos - aside * sin, tip[1] + along * sin + aside * cos) for along, aside in outline]


def _fill_polygon(canvas: Pillow.Image, colour: _RGB, figure: Sequence[_Point], hole: Sequence[_Point] = ()) -> None:
    """Fill a polygon around its hole, anti-aliased; only the part of the canvas that it covers is touched."""
    xs, ys = [x for x, _ in figure], [y for _, y in figure]
    left, top = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
    right, bottom = min(canvas.width, math.ceil(max(xs))), min(canvas.height, math.ceil(max(ys)))
    wide, high = right - left, bottom - top
    if wide <= 0 or high <= 0:  # in a picture of a few pixels
        return
    scale = next((scale for scale in (4, 2) if wide * high * scale * scale <= _STENCIL), 1)
    stencil = Pillow.new("L", (wide * scale, high * scale))
    pen = ImageDraw.Draw(stencil)
    for polygon, level in ((figure, 255), (hole, 0)):
        if polygon:
            pen.polygon([((x - left) * scale - 0.5, (y - top) * scale - 0.5) for x, y in polygon], fill=level)
    canvas.paste(colour, (left, top, right, bottom), stencil.reduce(scale))
