"""A server that decodes an image in the simplest way sees what our own models see."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from polite_flamingo.endpoints.pictures import content, data_url
from polite_flamingo.images import decoding
from polite_flamingo.sample import BadSample, Image

MARKED = Pillow.new("RGB", (48, 32), (220, 30, 40))
MARKED.paste((0, 0, 0), (0, 0, 16, 16))  # the top left corner is black


def encoded(image: Pillow.Image, kind: str, **options: object) -> Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image(extension="x", data=buffer.getvalue())


def heic(image: Pillow.Image, **options: object) -> Image:
    from_pillow = pytest.importorskip("pillow_heif").from_pillow
    buffer = io.BytesIO()
    from_pillow(image).save(buffer, quality=90, **options)
    return Image(extension="heic", data=buffer.getvalue())


def turned(orientation: int = 6) -> Pillow.Exif:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return exif


def turned_by_xmp() -> Image:
    """A PNG whose orientation stands only in its XMP."""
    more = PngInfo()
    more.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>')
    return encoded(MARKED, "PNG", pnginfo=more)


def sent(image: Image, max_side: int | None = None) -> tuple[str, bytes]:
    kind, _, data = data_url(image, max_side).partition(";base64,")
    return kind.removeprefix("data:image/"), base64.b64decode(data)


def seen(data: bytes) -> np.ndarray:
    """What a careless server shows its model: no rotation, no regard for transparency or for 16 bits."""
    return np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB"), np.int16)


UNCHANGED = {
    "jpeg": lambda: encoded(MARKED, "JPEG"), "png": lambda: encoded(MARKED, "PNG"),
    "webp": lambda: encoded(MARKED, "WEBP"), "gif": lambda: encoded(MARKED, "GIF"),
    "grey jpeg": lambda: encoded(MARKED.convert("L"), "JPEG"), "palette": lambda: encoded(MARKED.quantize(), "PNG"),
    "upright jpeg with exif": lambda: encoded(MARKED, "JPEG", exif=turned(1)),
    "mpo of two pictures": lambda: encoded(MARKED, "MPO", save_all=True, append_images=[Pillow.new("RGB", (48, 32))]),
}  # fmt: skip
ENCODED_AGAIN = {
    "turned jpeg": ("jpeg", lambda: encoded(MARKED, "JPEG", exif=turned())),
    "turned png": ("png", lambda: encoded(MARKED, "PNG", exif=turned())),
    "png turned by XMP": ("png", turned_by_xmp),
    "turned webp": ("jpeg", lambda: encoded(MARKED, "WEBP", exif=turned())),
    "turned mpo": ("jpeg", lambda: encoded(MARKED, "MPO", save_all=True, append_images=[MARKED], exif=turned())),
    "cmyk jpeg": ("jpeg", lambda: encoded(MARKED.convert("CMYK"), "JPEG")),
    "16-bit png": ("png", lambda: encoded(Pillow.fromarray(np.linspace(0, 65535, 64, dtype=np.uint16)[None]), "PNG")),
    "transparent png": ("png", lambda: encoded(Pillow.new("RGBA", (8, 8), (9, 9, 9, 0)), "PNG")),
    "transparent palette": ("png", lambda: encoded(MARKED.quantize(), "PNG", transparency=0)),
    "animated gif": ("png", lambda: encoded(MARKED, "GIF", save_all=True, append_images=[Pillow.new("RGB", (48, 32))])),
    "animated webp": ("jpeg", lambda: encoded(MARKED, "WEBP", save_all=True, append_images=[MARKED.rotate(180)])),
    "tiff": ("png", lambda: encoded(MARKED, "TIFF")), "bmp": ("png", lambda: encoded(MARKED, "BMP")),
    "avif": ("jpeg", lambda: encoded(MARKED, "AVIF", quality=90)), "heic": ("jpeg", lambda: heic(MARKED)),
    "turned heic": ("jpeg", lambda: heic(MARKED, exif=turned().tobytes())),
}  # fmt: skip


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_every_server_reads_alike_is_sent_unchanged(name: str) -> None:
    image = UNCHANGED[name]()
    kind, data = sent(image)
    assert data == image.data and np.array_equal(seen(data), decoding.decode(image.data))
    assert kind == {"png": "png", "palette": "png", "webp": "webp", "gif": "gif"}.get(name, "jpeg")


@pytest.mark.parametrize("name", ENCODED_AGAIN)
def test_what_servers_read_in_different_ways_is_sent_as_our_models_see_it(name: str) -> None:
    expected, make = ENCODED_AGAIN[name]
    image = make()
    before = image.data
    kind, data = sent(image)
    ours = np.asarray(decoding.decode(image.data), np.int16)
    assert kind == expected and data != image.data and image.data == before
    assert seen(data).shape == ours.shape and abs(seen(data) - ours).max() <= (10 if kind == "jpeg" else 0)
    assert sent(image) == (kind, data), "the same URL each time"


@pytest.mark.parametrize(("size", "becomes"), [((200, 100), (50, 25)), ((100, 200), (25, 50)), ((5000, 2), (50, 1))])
def test_a_large_image_is_scaled_down_where_asked(size: tuple[int, int], becomes: tuple[int, int]) -> None:
    image = encoded(Pillow.new("RGB", size, "red"), "JPEG")
    assert Pillow.open(io.BytesIO(sent(image, 50)[1])).size == becomes
    assert sent(image, max(size))[1] == sent(image)[1] == image.data
    on_its_side = encoded(Pillow.new("RGB", size, "red"), "JPEG", exif=turned())
    assert Pillow.open(io.BytesIO(sent(on_its_side, 50)[1])).size == becomes[::-1]


def test_images_stand_where_their_marks_stand() -> None:
    found = content("Compare <image> with <image>.", (encoded(MARKED, "PNG"), encoded(MARKED, "JPEG")))
    assert isinstance(found, list)
    assert [part["type"] for part in found] == ["text", "image_url", "text", "image_url", "text"]
    assert [part["text"] for part in found if part["type"] == "text"] == ["Compare", "with", "."]
    assert [part["image_url"]["url"][:15] for part in found if part["type"] == "image_url"] == [
        "data:image/png;", "data:image/jpeg",
    ]  # fmt: skip
    assert content("No picture.", ()) == "No picture."


def test_a_broken_picture_says_why() -> None:
    with pytest.raises(BadSample) as caught:
        data_url(Image(extension="png", data=b"no picture"))
    assert caught.value.reason == "corrupt_image"
