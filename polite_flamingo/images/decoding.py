"""Encoded bytes -> an RGB picture, or a typed reason why not.

Every model reads images through `decode`, so that a rotated, transparent or 16-bit file looks the same to all of them.
Nothing here encodes, resizes or normalises; colour profiles (ICC) are ignored, and no metadata costs a picture
(`metadata.py`). HEIC is read where its plug-in is installed. What is not read is named (`file_types.py`).
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
"""More than any camera of the source datasets made; a decoded picture then takes at most 256 MB on its way to RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What the datasets use. The rest of Pillow's decoders (some start other programs) never see untrusted bytes."""

EXTENSION_OF = {
    "JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "PPM": "ppm",
    "JPEG2000": "jp2", "AVIF": "avif", "HEIF": "heic",
}  # fmt: skip
"""What a file is called, by the format that its bytes have (`Header.format`)."""

EXTENSIONS = (
    "jpg", "jpeg", "jfif", "png", "apng", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "jp2",
    "avif", "heic", "heif",
)  # fmt: skip
"""By which a file among others is taken for a picture."""

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
_SUBFILE_TYPE, _SUB_DIRECTORIES, _DNG_VERSION = 254, 330, 50706
_VARIANT = re.compile(r"unsupported|not supported|unknown (?:pixel mode|data organization)|cannot handle", re.I)
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
        BadSample: `empty_image`, `corrupt_image` (no header of a picture), `unsupported_image` (of another format, or
            no picture: the detail names it) or `image_too_large`.
    """
    try:
        opened = _open(data)
    except BadSample as bad:
        opened = _open(_bare(data, bad))
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
    try:
        opened = _loaded(data)
    except BadSample as bad:
        opened = _loaded(_bare(data, bad))
    return _to_rgb(opened), _orientation(opened)


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


def _bare(data: bytes, bad: BadSample) -> bytes:
    """The image without its metadata, for a second try. Raises `bad` where there is nothing to try."""
    bare = without_metadata(data) if bad.reason in ("corrupt_image", "unsupported") else data
    if bare == data:
        raise bad
    return bare


def _loaded(data: bytes) -> ImageFile:
    """With its pixels."""
    opened = _open(data)
    try:
        opened.load()
    except MemoryError:
        raise
    except Exception as error:  # whatever a decoder makes of hostile bytes: the type is kept in the reason
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
        raise BadSample("image_too_large", f"{error}; at most {MAX_PIXELS:,} are decoded") from error
    except MemoryError:
        raise
    except Exception as error:
        raise _not_opened(data, error) from error
    if opened.width * opened.height > MAX_PIXELS:
        size = f"{opened.width}x{opened.height}"
        raise BadSample("image_too_large", f"{size} pixels; at most {MAX_PIXELS:,} are decoded")
    if opened.format == "TIFF" and _is_raw(opened, data):
        raise BadSample("unsupported_image", "a camera's raw file (TIFF) is not read: convert it to PNG or JPEG")
    return opened


def _is_heif(data: bytes) -> bool:
    return any(brand in HEIF_BRANDS for brand in brands(data))


def _open_heif(data: bytes) -> ImageFile:
    """By the plug-in's class: nothing is registered with Pillow."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        why = "HEIC is read where its plug-in is installed: pip install pillow-heif, or convert it to PNG or JPEG"
        raise BadSample("unsupported_image", why) from None
    return HeifImageFile(io.BytesIO(data))


def _is_raw(opened: ImageFile, data: bytes) -> bool:
    """Whether a TIFF is the negative of a camera: what opens as its picture is a thumbnail."""
    tags: Mapping[int, Any] = getattr(opened, "tag_v2", {})
    reduced = tags.get(_SUBFILE_TYPE)
    return data[8:10] == b"CR" or _DNG_VERSION in tags or (reduced == 1 and _SUB_DIRECTORIES in tags)


def _not_opened(data: bytes, error: Exception) -> BadSample:
    """Why: what the format's own reader says of the bytes; or what they are, if not a picture of ours."""
    if _is_heif(data):
        return _refusal("HEIC does not open", error)
    for name in FORMATS:
        reader, accepts = Pillow.OPEN[name]
        accepted = accepts(data[:16]) if accepts else False
        if isinstance(accepted, str):
            return BadSample("unsupported_image", f"{name}: this Pillow was built without it; install another Pillow")
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
        return BadSample("corrupt_image", f"{len(data)} bytes, all of them zero: the file was never filled")
    formats = ", ".join(FORMATS)
    detail = f"{len(data)} bytes are not a {formats} or HEIC image ({type(error).__name__})"
    if (start := as_text(data)) is not None:
        detail = f"a text of {len(data)} bytes, not an image; it begins {start!r}"
    return BadSample("corrupt_image", detail)


def _refusal(what: str, error: Exception) -> BadSample:
    """A variant that is not read is told from a broken file by what the format's reader says."""
    detail = " ".join(f"{what} ({type(error).__name__}: {error})".split())
    if isinstance(error, KeyError) or _VARIANT.search(str(error)):
        return BadSample("unsupported", f"{detail}: if the file is whole, convert it to PNG or JPEG")
    return BadSample("corrupt_image", detail)


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
