"""Draw a scene: anti-aliased shapes with a soft shadow on a plain, striped or dotted ground, encoded as PNG or JPEG."""

from __future__ import annotations

import io
import math

from PIL import Image, ImageDraw

from polite_flamingo.testbed.shapes.scene import BACKGROUNDS, CANVAS, COLOURS, SIZES, Scene, Thing

SUPERSAMPLING = 3


def draw(scene: Scene) -> Image.Image:
    """Render to RGB, CANVAS × CANVAS pixels. The same scene always gives the same pixels."""
    side = CANVAS * SUPERSAMPLING
    image = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(image)
    _ground(pen, scene, side)
    for thing in scene.things:
        fill = COLOURS[thing.colour]
        edge = tuple(int(channel * 0.62) for channel in fill)
        shadow = tuple(int(channel * 0.80) for channel in BACKGROUNDS[scene.background])
        offset = 1.2 * SUPERSAMPLING
        _shape(pen, thing, shadow, shadow, offset)
        _shape(pen, thing, fill, edge, 0.0)
    return image.resize((CANVAS, CANVAS), Image.Resampling.BOX)


def encode(image: Image.Image, extension: str) -> bytes:
    """Encode as PNG or JPEG (quality 92); `extension` is "png" or "jpg"."""
    buffer = io.BytesIO()
    if extension == "png":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _ground(pen: ImageDraw.ImageDraw, scene: Scene, side: int) -> None:
    mark = tuple(int(channel * 0.86) for channel in BACKGROUNDS[scene.background])
    step = 12 * SUPERSAMPLING
    if scene.pattern == "striped":
        for start in range(-side, side, step):
            pen.line([(start, side), (start + side, 0)], fill=mark, width=3 * SUPERSAMPLING)
    elif scene.pattern == "dotted":
        radius = 1.8 * SUPERSAMPLING
        for y in range(step // 2, side, step):
            for x in range(step // 2, side, step):
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=mark)


def _shape(pen: ImageDraw.ImageDraw, thing: Thing, fill: tuple[int, ...], edge: tuple[int, ...], offset: float) -> None:
    half = SIZES[thing.size] * SUPERSAMPLING
    x = thing.centre[0] * SUPERSAMPLING + offset
    y = thing.centre[1] * SUPERSAMPLING + offset
    width = SUPERSAMPLING
    if thing.shape == "circle":
        pen.ellipse((x - half, y - half, x + half, y + half), fill=fill, outline=edge, width=width)
    elif thing.shape == "square":
        s = half * 0.9
        pen.rectangle((x - s, y - s, x + s, y + s), fill=fill, outline=edge, width=width)
    else:
        corners = [(x + px * half, y + py * half) for px, py in _OUTLINES[thing.shape]]
        pen.polygon(corners, fill=fill, outline=edge, width=width)


def _star() -> list[tuple[float, float]]:
    corners = []
    for i in range(10):
        radius = 1.0 if i % 2 == 0 else 0.42
        angle = math.pi * (i / 5 - 0.5)
        corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    return corners


def _heart() -> list[tuple[float, float]]:
    corners = []
    for i in range(40):
        t = 2 * math.pi * i / 40
        corners.append(
            (
                math.sin(t) ** 3,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
            )
        )
    return corners


_ARM = 0.34
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "triangle": [(0.0, -0.95), (0.98, 0.85), (-0.98, 0.85)],
    "star": _star(),
    "cross": [
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ],
    "heart": _heart(),
}  # fmt: skip
