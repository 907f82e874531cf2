"""Names images by their content, wherever they lie."""

from __future__ import annotations

import hashlib

from polite_flamingo.sample import Image


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal: equal bytes are the same image."""
    return hashlib.sha256(data).hexdigest()


def file_name(image: Image) -> str:
    """Return a file name for an image, made from its content."""
    return f"{digest(image.data)[:24]}.{image.extension}"
