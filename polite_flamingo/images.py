"""Encoded bytes -> an RGB picture, or a typed reason why not.

Every model reads images through `decode`, so that a rotated, transparent or 16-bit file looks the same to all of them.
Nothing here encodes, resizes or normalises; colour profiles (ICC) are ignored.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow

from polite_flamingo.sample import BadSample

MAX_PIXELS = 64_000_000
"""More than any camera of the source datasets made; a decoded picture then takes at most 256 MB on its way to RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""What the datasets use. The rest of Pillow's decoders (some start other programs) never see untrusted bytes."""

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "jp2")

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the first bytes tell: the format in Pillow's spelling, and pixels as stored (before EXIF rotation)."""

    format: str
    width: int
    height: int


def inspect(data: bytes) -> Header:
    """Read the header only: microseconds, whatever the image holds.

    Raises:
        BadSample: `empty_image`, `corrupt_image` (no header of `FORMATS`) or `image_too_large`.
    """
    opened = _open(data)
    return Header(format=opened.format or "", width=opened.width, height=opened.height)


def decode(data: bytes) -> Pillow.Image:
    """Decode to an upright RGB image: first frame, transparency on white, 16 bits scaled to 8.

    Raises:
        BadSample: as `inspect`; `corrupt_image` also for bytes that end early; `unsupported` for pixels without an
            obvious way to RGB (32-bit integer, floating point, LAB).
    """
    return upright(*decode_as_stored(data))


def decode_as_stored(data: bytes) -> tuple[Pillow.Image, int]:
    """As `decode`, but with rows and columns as stored, and the EXIF orientation that `upright` then needs."""
    opened = _open(data)
    try:
        opened.load()
        orientation = _orientation(opened)
    except MemoryError:
        raise
    except Exception as error:  # whatever a decoder makes of hostile bytes: the type is kept in the reason
        raise BadSample(
            "corrupt_image", f"{opened.format} does not decode ({type(error).__name__}: {error})"
        ) from error
    return _to_rgb(opened), orientation


def upright(image: Pillow.Image, orientation: int) -> Pillow.Image:
    """The image turned and mirrored as its EXIF orientation (1 to 8; others mean nothing) tells."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def without_extreme_aspect(image: Pillow.Image, limit: int = 16) -> Pillow.Image:
    """The middle of a strip, so that its sides differ at most `limit` times; any other image as it is.

    CLIP's transform enlarges the short side to the model's size and cuts the middle square out: a 1 x 60,000 strip
    would become 224 x 13,440,000 pixels on the way. What is cut here would be cut there.
    """
    width, height = image.size
    most = limit * min(width, height)
    if max(width, height) <= most:
        return image
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return image.crop((left, top, left + min(width, most), top + min(height, most)))


def black() -> Pillow.Image:
    """The 224x224 image that text-only samples show, as the published models were trained."""
    return Pillow.new("RGB", (224, 224))


def _open(data: bytes) -> Pillow.Image:
    if not data:
        raise BadSample("empty_image", "the image has no bytes")
    try:
        opened = Pillow.open(io.BytesIO(data), formats=FORMATS)
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise BadSample("image_too_large", f"{error}; at most {MAX_PIXELS:,} are decoded") from error
    except MemoryError:
        raise
    except Exception as error:
        detail = f"{len(data)} bytes are no {', '.join(FORMATS)} image ({type(error).__name__})"
        raise BadSample("corrupt_image", detail) from error
    if opened.width * opened.height > MAX_PIXELS:
        size = f"{opened.width}x{opened.height}"
        raise BadSample("image_too_large", f"{size} pixels; at most {MAX_PIXELS:,} are decoded")
    return opened


def _orientation(image: Pillow.Image) -> int:
    """1 to 8; a file whose EXIF block is unreadable shows its pixels as stored, as every viewer does."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, OSError, TypeError, KeyError, IndexError, ArithmeticError):
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Pillow.Image) -> Pillow.Image:
    if image.mode in _SIXTEEN_BIT or (
        image.mode == "I" and image.format == "PPM"
    ):  # Pillow's own conversion clips at 255
        levels = np.asarray(image, dtype=np.uint32)
        image = Pillow.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F", "LAB"):
        raise BadSample("unsupported", f"{image.format} image of mode {image.mode} has no obvious 8-bit form")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
