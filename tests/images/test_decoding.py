"""Bad and odd images: each decodes to what a viewer would show, or ends in a readable reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow

from polite_flamingo.images import decoding
from polite_flamingo.sample import BadSample
from tests.support.reference import SHARED

RED = (220, 30, 40)


def encode(image: Pillow.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def near(pixel: tuple[int, ...], expected: tuple[int, ...], tolerance: int = 12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, expected, strict=True))


def photo(width: int = 64, height: int = 48) -> bytes:
    ramp = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encode(Pillow.fromarray(ramp), "JPEG", quality=90)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing: a decompression bomb in 60 bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_every_format_of_the_datasets_decodes(kind: str) -> None:
    image = decoding.decode(encode(Pillow.new("RGB", (5, 3), RED), kind))
    assert (image.mode, image.size) == ("RGB", (5, 3))
    assert near(image.getpixel((2, 1)), RED)


def test_one_pixel_is_an_image() -> None:
    assert decoding.decode(encode(Pillow.new("RGB", (1, 1), RED), "PNG")).getpixel((0, 0)) == RED


def test_no_bytes_have_their_own_reason() -> None:
    with pytest.raises(BadSample) as caught:
        decoding.decode(b"")
    assert caught.value.reason == "empty_image"


@pytest.mark.parametrize("data", [b"\xff\xd8\xff", b"a picture, I say", b"\x00" * 100, b"GIF89a"])
def test_bytes_that_are_not_an_image_are_corrupt(data: bytes) -> None:
    with pytest.raises(BadSample) as caught:
        decoding.decode(data)
    assert caught.value.reason == "corrupt_image"


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_file_is_corrupt_not_half_grey(kind: str, share: float) -> None:
    whole = encode(Pillow.open(io.BytesIO(photo())), kind)
    with pytest.raises(BadSample) as caught:
        decoding.decode(whole[: int(len(whole) * share)])
    assert caught.value.reason == "corrupt_image"


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (8_001, 8_000), (60_000, 60_000), (64_000_001, 1)])
def test_a_decompression_bomb_is_refused_from_its_header(width: int, height: int) -> None:
    for read in (decoding.inspect, decoding.decode):
        with pytest.raises(BadSample) as caught:
            read(png_header(width, height))
        assert caught.value.reason == "image_too_large"
        assert "64,000,000" in caught.value.detail


def test_the_header_is_read_without_the_pixels() -> None:
    assert decoding.inspect(png_header(8_000, 8_000)) == decoding.Header(format="PNG", width=8_000, height=8_000)


def test_cmyk_keeps_its_colours() -> None:
    image = decoding.decode(encode(Pillow.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert image.mode == "RGB" and near(image.getpixel((4, 4)), (255, 0, 0))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    levels = np.array([[0, 257, 0x8080, 65535]], dtype=np.uint16)
    image = decoding.decode(encode(Pillow.fromarray(levels), kind))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 128, 255)]


def test_floating_point_is_unsupported_not_guessed() -> None:
    with pytest.raises(BadSample) as caught:
        decoding.decode(encode(Pillow.fromarray(np.ones((2, 2), np.float32)), "TIFF"))
    assert caught.value.reason == "unsupported"


def test_a_palette_is_looked_up_and_its_transparency_turns_white() -> None:
    image = Pillow.new("P", (2, 1))
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert decoding.decode(encode(image, "PNG")).getpixel((1, 0)) == (0, 0, 255)
    see_through = decoding.decode(encode(image, "PNG", transparency=1))
    assert [see_through.getpixel((x, 0)) for x in (0, 1)] == [RED, (255, 255, 255)]


def test_grey_with_alpha_and_rgba_lie_on_white() -> None:
    assert decoding.decode(encode(Pillow.new("LA", (2, 2), (0, 0)), "PNG")).getpixel((0, 0)) == (255, 255, 255)
    half = decoding.decode(encode(Pillow.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG")).getpixel((0, 0))
    assert near(half, (127, 127, 127), 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    """An L-shaped mark is stored as a camera held in each of eight ways would store it; it always comes out upright."""
    upright = Pillow.new("L", (48, 32), 255)
    upright.paste(0, (0, 0, 16, 16))  # the top left corner is black
    stored = {
        1: upright, 2: upright.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Pillow.Transpose.ROTATE_180), 4: upright.transpose(Pillow.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Pillow.Transpose.TRANSPOSE), 6: upright.transpose(Pillow.Transpose.ROTATE_90),
        7: upright.transpose(Pillow.Transpose.TRANSVERSE), 8: upright.transpose(Pillow.Transpose.ROTATE_270),
    }[orientation]  # fmt: skip
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    image = decoding.decode(encode(stored, "JPEG", exif=exif))
    assert image.size == (48, 32)
    corners = [image.getpixel(at)[0] > 128 for at in ((4, 4), (43, 4), (4, 27), (43, 27))]
    assert corners == [False, True, True, True]


def test_a_broken_exif_block_does_not_cost_the_photo() -> None:
    whole = encode(Pillow.new("RGB", (8, 8), RED), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage")
    assert near(decoding.decode(whole).getpixel((4, 4)), RED)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_is_seen(kind: str) -> None:
    frames = [Pillow.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert near(decoding.decode(data).getpixel((4, 4)), RED)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_flipping_any_byte_gives_an_image_or_a_reason() -> None:
    rng = np.random.default_rng(1)
    image = Pillow.open(io.BytesIO(photo(16, 16)))
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        whole = encode(image, kind)
        for _ in range(150):
            spoiled = bytearray(whole)
            for at in rng.integers(0, min(len(whole), 400), 3):
                spoiled[at] = rng.integers(0, 256)
            try:
                assert decoding.decode(bytes(spoiled)).mode == "RGB"
            except BadSample as bad:
                assert bad.reason in ("corrupt_image", "image_too_large", "unsupported")


def test_the_image_of_text_is_black() -> None:
    assert decoding.black().size == (224, 224) and decoding.black().getextrema() == ((0, 0),) * 3


def test_every_real_photograph_decodes() -> None:
    files = [p for p in sorted((SHARED / "samples").rglob("*")) if p.suffix.lower().lstrip(".") in decoding.EXTENSIONS]
    if not files:
        pytest.skip(f"no excerpts of real datasets at {SHARED}; set POLITE_FLAMINGO_SHARED")
    assert len(files) >= 20
    for file in files:
        image, header = decoding.decode(file.read_bytes()), decoding.inspect(file.read_bytes())
        assert image.mode == "RGB" and image.size == (header.width, header.height)
        assert image.convert("L").getextrema()[0] < image.convert("L").getextrema()[1], f"{file} is of one colour"
