"""Images in a chat message: every server shows its model what our own models see.

An image travels as a data URL. Its bytes are unchanged where any server decodes them as `images/decoding.py` does.
What servers treat differently is encoded again, upright: EXIF rotation, transparency, 16 bits, CMYK, several frames,
and formats that few servers read (TIFF, AVIF, HEIC …). The same image always gives the same URL, so a server's prefix
cache and an answer cache recognise it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image as Pillow

from polite_flamingo.images import decoding
from polite_flamingo.sample import IMAGE_MARK, Image

SENT_UNCHANGED = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}
"""MIME type by format. An MPO file is a JPEG with further pictures behind it, which readers ignore."""

_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "HEIF", "JPEG2000")
"""Formats of photographs, encoded again as JPEG; others, such as drawings and scans, as PNG."""

_QUALITY = 95


def content(text: str, images: Sequence[Image], max_side: int | None = None) -> str | list[dict[str, Any]]:
    """Return a chat message's content: images in place of their `<image>` marks, or a plain string without images.

    Args:
        text: what the user says, with one mark per image.
        images: as many as the text has marks.
        max_side: as in `data_url`.

    Raises:
        BadSample: an image cannot be read.
    """
    if not images:
        return text
    parts: list[dict[str, Any]] = []
    pictures = iter(images)
    for number, piece in enumerate(text.split(IMAGE_MARK)):
        if number:
            parts.append({"type": "image_url", "image_url": {"url": data_url(next(pictures), max_side)}})
        if piece.strip():
            parts.append({"type": "text", "text": piece.strip()})
    return parts


def data_url(image: Image, max_side: int | None = None) -> str:
    """Return an image as a data URL.

    Args:
        image: its encoded bytes, in any format that `decoding` reads.
        max_side: longest side in pixels; a larger image is scaled down. None keeps its size.

    Raises:
        BadSample: the image cannot be read.
    """
    header = decoding.inspect(image.data)
    kind, data = SENT_UNCHANGED.get(header.format), image.data
    fits = max_side is None or max(header.width, header.height) <= max_side
    if kind is None or not fits or not decoding.is_plain(image.data):
        kind, data = _encoded(decoding.decode(image.data), header.format in _LOSSY, max_side)
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def trial_image() -> Image:
    """Return a small blue picture, to ask a server whether it takes any."""
    buffer = io.BytesIO()
    Pillow.new("RGB", (56, 56), "skyblue").save(buffer, "PNG")
    return Image(extension="png", data=buffer.getvalue())


def _encoded(picture: Pillow.Image, lossy: bool, max_side: int | None) -> tuple[str, bytes]:
    """Return an upright image's MIME type and bytes, scaled down to `max_side`."""
    if max_side is not None:
        picture.thumbnail((max_side, max_side), Pillow.Resampling.BICUBIC)
    buffer = io.BytesIO()
    if lossy:
        picture.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
        return "image/jpeg", buffer.getvalue()
    picture.save(buffer, "PNG")
    return "image/png", buffer.getvalue()
