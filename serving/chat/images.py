"""Load an image by its URL: its encoded bytes, or an error that says why not.

A data URL is measured before it is decoded, and the image's header is checked before anybody decodes pixels, so an
image that is too large is refused early. An http(s) URL is fetched only from hosts that the server's operator listed,
by `sources/reading/download.py`, which keeps requests out of internal networks. The client is not told the host's
answer or address: that would make the server a probe.

All of it runs on threads, base64 in blocks, to keep the event loop free. Nothing here decodes pixels.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from polite_flamingo.images.decoding import inspect
from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading import download
from serving.config import LimitsConfig, RemoteImagesConfig
from serving.errors import ApiError, invalid, overloaded

_BLOCK = 1 << 18
"""Characters of base64 decoded at a time, a multiple of 4: it takes 1.5 ms, in which no other thread runs."""

_DECODERS = 2
"""Threads for data URLs. Their work is short and mostly holds the GIL."""

_WAITING = 8
"""Downloads that may wait per running one."""

_MAX_PREFIX = 200
_MAX_URL = 8192


@dataclass(frozen=True, kw_only=True)
class ImageReference:
    """An image in a request: its URL, and the path of the field that holds it."""

    url: str
    param: str


class ImageLoader:
    """Loads the images of requests. A server has one."""

    def __init__(self, limits: LimitsConfig, remote: RemoteImagesConfig):
        """Raises SourceError for a listed host that no URL can name."""
        download.check_hosts(remote.hosts)
        self._limits, self._remote = limits, remote
        self._decoders = ThreadPoolExecutor(_DECODERS, "image-decoder")
        self._downloads = ThreadPoolExecutor(remote.at_once, "image-download")
        self._open = 0

    async def load(self, images: Sequence[ImageReference]) -> list[bytes]:
        """Return the encoded bytes of images, in order; each URL is read once.

        Raises:
            ApiError: 400 for the first at fault; 503 where too many downloads wait.
        """
        distinct = {image.url: image for image in images}
        tasks = {url: asyncio.ensure_future(self._load(image)) for url, image in distinct.items()}
        try:
            await asyncio.gather(*tasks.values())
        finally:
            for task in tasks.values():
                task.cancel()
        return [tasks[image.url].result() for image in images]

    async def _load(self, image: ImageReference) -> bytes:
        scheme = image.url[:8].lower()
        if scheme.startswith("data:"):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._decoders, partial(self._decode, image))
        if scheme.startswith(("http:", "https:")):
            return await self._fetch(image)
        raise _at_fault(image, "the URL must be data:image/…;base64,…, or http(s) where the server allows it")

    def _decode(self, image: ImageReference) -> bytes:
        """Return the bytes of a data URL."""
        prefix, comma, text = image.url.partition(",")
        kind = prefix[:_MAX_PREFIX].lower()
        if not (comma and kind.startswith("data:image/") and kind.endswith(";base64") and len(prefix) <= _MAX_PREFIX):
            raise _at_fault(image, "a data URL must begin with data:image/…;base64,")
        if len(text) // 4 * 3 - text.count("=", -2) > self._limits.image_bytes:
            raise self._too_large(image)
        data = bytearray()
        try:
            for start in range(0, len(text), _BLOCK):
                block = text[start : start + _BLOCK]
                if block.endswith("=") and start + _BLOCK < len(text):
                    raise binascii.Error("padding before the end")
                data += binascii.a2b_base64(block, strict_mode=True)
        except ValueError as error:  # also raised for non-ASCII text
            raise _at_fault(image, f"invalid base64 ({error})") from None
        return self._checked(image, bytes(data))

    async def _fetch(self, image: ImageReference) -> bytes:
        """Return the bytes at an http(s) URL."""
        remote = self._remote
        if not remote.hosts:
            why = "this server does not fetch images; send the image itself, as data:image/…;base64,…"
            raise _at_fault(image, why, "remote_images_disabled")
        if len(image.url) > _MAX_URL:
            raise _at_fault(image, f"a URL may have {_MAX_URL} characters")
        try:
            download.check_url(image.url, remote.hosts)
        except BadSample as bad:
            raise _at_fault(image, f"this server does not fetch it: {bad.detail}", "remote_image_refused") from None
        if self._open >= remote.at_once * (1 + _WAITING):
            raise overloaded("too many images are being fetched; try again later")
        seconds, size = remote.seconds, self._limits.image_bytes
        limits = download.Limits(connect=seconds, read=seconds, total=seconds, attempts=2, pause=0.2, size=size)
        self._open += 1
        try:
            async with asyncio.timeout(seconds):
                fetch = partial(download.fetch, image.url, remote.hosts, limits)
                found = await asyncio.get_running_loop().run_in_executor(self._downloads, fetch)
        except (BadSample, TimeoutError) as error:
            reason = getattr(error, "reason", "timeout")
            if reason == "image_too_large":
                raise self._too_large(image) from None
            if reason in ("corrupt_image", "empty_image", "unsupported_image"):
                raise _at_fault(image, "the URL did not return a readable image") from None
            why = f"it could not be fetched: its host must be public, and send an image within {seconds:g} s"
            raise _at_fault(image, why, "remote_image_failed") from None
        finally:
            self._open -= 1
        return self._checked(image, found.data)

    def _too_large(self, image: ImageReference) -> ApiError:
        return _at_fault(image, f"an image may have {self._limits.image_bytes} bytes", "image_too_large")

    def _checked(self, image: ImageReference, data: bytes) -> bytes:
        """Return the data. Raises ApiError unless its header is that of an image small enough to decode."""
        if len(data) > self._limits.image_bytes:
            raise self._too_large(image)
        try:
            header = inspect(data)
        except BadSample as bad:
            too_large = bad.reason == "image_too_large"
            raise _at_fault(image, bad.detail, "image_too_large" if too_large else "invalid_image") from None
        if header.width * header.height > self._limits.image_pixels:
            why = f"{header.width}x{header.height} pixels; an image may have {self._limits.image_pixels}"
            raise _at_fault(image, why, "image_too_large")
        return data


def _at_fault(image: ImageReference, why: str, code: str = "invalid_image") -> ApiError:
    return invalid(image.param, why, code)
