"""Image decoding: from encoded bytes to an RGB image, or the reason why that fails.

Every model reads images through `decode`, so rotated, transparent or 16-bit files look the same to all of them. Nothing
is encoded, resized or normalised here. Colour profiles (ICC) are ignored, and broken metadata does not make an image
unreadable (`metadata.py`). HEIC needs its plug-in. Formats that are not read are named in errors (`file_types.py`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pillow

from polite_flamingo.images.file_types import HEIF_BRANDS, as_text, brands, describe
from polite_flamingo.images.metadata import without_metadata
from polite_flamingo.sample import BadSample

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 64_000_000
"""More than any image of the source datasets; decoding then takes at most 256 MB on the way to RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats of the datasets. Pillow's other decoders, some of which start programs, never see untrusted bytes."""

EXTENSION_OF = {
    "JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "PPM": "ppm",
    "JPEG2000": "jp2", "AVIF": "avif", "HEIF": "heic",
}  # fmt: skip
"""File extension by format (`Header.format`)."""

EXTENSIONS = (
    "jpg", "jpeg", "jfif", "png", "apng", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "jp2",
    "avif", "heic", "heif",
)  # fmt: skip
"""File extensions that mark a file as an image."""

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
_PNG_EXIF = (b"eXIf", b"Raw profile type ", b"XML:com.adobe.xmp")
"""What a PNG with EXIF or XMP has in it."""

_SUBFILE_TYPE, _SUB_DIRECTORIES, _DNG_VERSION = 254, 330, 50706
_VARIANT = re.compile(r"unsupported|not supported|unknown (?:pixel mode|data organization)|cannot handle", re.I)
_TRANSPOSE_OF = {
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
    """The format, in Pillow's spelling, and the size in pixels as stored (before EXIF rotation)."""

    format: str
    width: int
    height: int


def inspect(data: bytes) -> Header:
    """Read only the header, which takes microseconds.

    Raises:
        BadSample: `empty_image`, `corrupt_image` (no image header), `unsupported_image` (another format, or not an
            image; the detail names it) or `image_too_large`.
    """
    try:
        opened = _open(data)
    except BadSample as bad:
        opened = _open(_bare(data, bad))
    return Header(format=opened.format or "", width=opened.width, height=opened.height)


def decode(data: bytes) -> Pillow.Image:
    """Decode to an upright RGB image: the first frame, transparency on white, 16 bits scaled to 8.

    Raises:
        BadSample: as in `inspect`; also `corrupt_image` for truncated bytes, and `unsupported` for pixels without an
            obvious conversion to RGB (32-bit integer, floating point, LAB).
    """
    return apply_exif_orientation(*decode_as_stored(data))


def decode_as_stored(data: bytes) -> tuple[Pillow.Image, int]:
    """Decode like `decode`, but not upright; also return the EXIF orientation, for `apply_exif_orientation`."""
    try:
        opened = _loaded(data)
    except BadSample as bad:
        opened = _loaded(_bare(data, bad))
    return _to_rgb(opened), _orientation(opened)


def is_plain(data: bytes) -> bool:
    """Return whether any reader shows the image as `decode` does: one opaque, upright frame of 8-bit grey or colour.

    Raises:
        BadSample: as in `inspect`.
    """
    try:
        opened = _open(data)
    except BadSample as bad:
        _open(_bare(data, bad))
        return False
    if opened.format == "PNG" and not any(mark in data for mark in _PNG_EXIF):
        upright = True  # Pillow would decode all pixels to look for EXIF behind them
    else:
        upright = _orientation(opened) == 1
    still = opened.format == "MPO" or not getattr(opened, "is_animated", False)  # readers show an MPO's first picture
    opaque = opened.mode in ("1", "L", "P", "RGB") and not opened.has_transparency_data
    return still and opaque and upright


def apply_exif_orientation(image: Pillow.Image, orientation: int) -> Pillow.Image:
    """Rotate and mirror an image by its EXIF orientation (1 to 8; other values do nothing)."""
    return image.transpose(_TRANSPOSE_OF[orientation]) if orientation in _TRANSPOSE_OF else image


def without_extreme_aspect(image: Pillow.Image, limit: int = 16) -> Pillow.Image:
    """Crop the middle of a strip whose sides differ by more than `limit` times; return other images unchanged.

    CLIP's transform scales the short side to the model's size and then crops the middle square. A 1 x 60,000 strip
    would become 224 x 13,440,000 pixels in between. What is cropped here would be cropped there.
    """
    width, height = image.size
    most = limit * min(width, height)
    if max(width, height) <= most:
        return image
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return image.crop((left, top, left + min(width, most), top + min(height, most)))


def black() -> Pillow.Image:
    """Return the black 224x224 image that text-only samples show, as in the training of the published models."""
    return Pillow.new("RGB", (224, 224))


def _bare(data: bytes, bad: BadSample) -> bytes:
    """Return the image without metadata, for a second attempt. Raises `bad` if that changes nothing."""
    bare = without_metadata(data) if bad.reason in ("corrupt_image", "unsupported") else data
    if bare == data:
        raise bad
    return bare


def _loaded(data: bytes) -> ImageFile:
    """Open an image and load its pixels."""
    opened = _open(data)
    try:
        opened.load()
    except MemoryError:
        raise
    except Exception as error:  # decoders may raise anything on hostile bytes; the detail names the type
        raise _refusal(f"{opened.format} does not decode", error) from error
    return opened


def _open(data: bytes) -> ImageFile:
    if not data:
        raise BadSample("empty_image", "the image has no bytes")
    try:
        opened = _open_heif(data) if _is_heif(data) else Pillow.open(io.BytesIO(data), formats=FORMATS)
    except BadSample:
        raise
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise BadSample("image_too_large", f"{error}; the limit is {MAX_PIXELS:,} pixels") from error
    except MemoryError:
        raise
    except Exception as error:
        raise _not_opened(data, error) from error
    if opened.width * opened.height > MAX_PIXELS:
        size = f"{opened.width}x{opened.height}"
        raise BadSample("image_too_large", f"{size} pixels; the limit is {MAX_PIXELS:,}")
    if opened.format == "TIFF" and _is_raw(opened, data):
        raise BadSample("unsupported_image", "camera raw files (TIFF) are not supported: convert it to PNG or JPEG")
    return opened


def _is_heif(data: bytes) -> bool:
    return any(brand in HEIF_BRANDS for brand in brands(data))


def _open_heif(data: bytes) -> ImageFile:
    """Open with the plug-in's class, without registering it in Pillow."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        why = "HEIC needs a plug-in: pip install pillow-heif, or convert it to PNG or JPEG"
        raise BadSample("unsupported_image", why) from None
    return HeifImageFile(io.BytesIO(data))


def _is_raw(opened: ImageFile, data: bytes) -> bool:
    """Whether a TIFF is a camera raw file, in which Pillow would open only the thumbnail."""
    tags: Mapping[int, Any] = getattr(opened, "tag_v2", {})
    reduced = tags.get(_SUBFILE_TYPE)
    return data[8:10] == b"CR" or _DNG_VERSION in tags or (reduced == 1 and _SUB_DIRECTORIES in tags)


def _not_opened(data: bytes, error: Exception) -> BadSample:
    """Explain why bytes did not open: the message of the format's reader, or what the bytes are instead."""
    if _is_heif(data):
        return _refusal("HEIC does not open", error)
    for name in FORMATS:
        reader, accepts = Pillow.OPEN[name]
        accepted = accepts(data[:16]) if accepts else False
        if isinstance(accepted, str):
            return BadSample("unsupported_image", f"this Pillow was built without {name}; install another build")
        if accepted:
            try:
                reader(io.BytesIO(data), "")
            except MemoryError:
                raise
            except Exception as own:
                return _refusal(f"{name} does not open", own)
    if what := describe(data):
        return BadSample("unsupported_image", what)
    if not data.strip(b"\0"):
        return BadSample("corrupt_image", f"all {len(data)} bytes are zero: the file was never written")
    formats = ", ".join(FORMATS)
    detail = f"{len(data)} bytes are not a {formats} or HEIC image ({type(error).__name__})"
    if (start := as_text(data)) is not None:
        detail = f"text of {len(data)} bytes, not an image; it starts with {start!r}"
    return BadSample("corrupt_image", detail)


def _refusal(what: str, error: Exception) -> BadSample:
    """Tell an unsupported variant from a broken file by the reader's message."""
    detail = " ".join(f"{what} ({type(error).__name__}: {error})".split())
    if isinstance(error, KeyError) or _VARIANT.search(str(error)):
        return BadSample("unsupported", f"{detail}: if the file is not damaged, convert it to PNG or JPEG")
    return BadSample("corrupt_image", detail)


def _orientation(image: Pillow.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if EXIF is unreadable, as image viewers do."""
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
        raise BadSample("unsupported", f"{image.format} image of mode {image.mode} has no obvious 8-bit equivalent")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
