"""Metadata never costs a picture; a file that is not a supported picture is named, and not called damaged."""

from __future__ import annotations

import ast
import base64
import gzip
import io
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from polite_flamingo.images import decoding
from polite_flamingo.report import gallery
from polite_flamingo.sample import BadSample

ROOT = Path(__file__).parents[2]

RED = (220, 30, 40)
MARKED = Pillow.new("RGB", (48, 32), RED)
MARKED.paste((0, 0, 0), (0, 0, 16, 16))  # the top left corner is black
BESIDE = b"a" * (3 << 20)


def encode(image: Pillow.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def heic(image: Pillow.Image, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=90, **options)
    return buffer.getvalue()


def oriented(value: int) -> bytes:
    exif = Pillow.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def described() -> bytes:
    exif = Pillow.Exif()
    exif[0x010E] = "hello"
    return exif.tobytes()


def spoiled(data: bytes, text: bytes) -> bytes:
    """Replace the EXIF directory before a text by zeros."""
    at = max(data.rindex(mark, 0, data.index(text)) for mark in (b"MM\0*", b"II*\0") if mark in data)
    return data[:at] + bytes(8) + data[at + 8 :]


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(*chunks: bytes, last: bool = False) -> bytes:
    """Make a PNG with more chunks, behind its header or before its end."""
    plain = encode(MARKED, "PNG")
    at = len(plain) - 12 if last else 33
    return plain[:at] + b"".join(chunks) + plain[at:]


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    plain = encode(MARKED, "JPEG", quality=95, subsampling=0)
    written = b"".join(bytes([0xFF, kind]) + struct.pack(">H", len(body) + 2) + body for kind, body in segments)
    return plain[:2] + written + plain[2:]


def gif(block: bytes) -> bytes:
    """Make a GIF with one more block before its picture."""
    plain = encode(MARKED.quantize(), "GIF")
    at = plain.index(b"\x2c")
    return plain[:at] + block + plain[at:]


def jpeg2000(box: bytes) -> bytes:
    """Make a JPEG 2000 file with one more box in its header."""
    plain = encode(MARKED, "JPEG2000")
    at = plain.index(b"jp2h") - 4
    size = int.from_bytes(plain[at : at + 4], "big")
    return plain[:at] + struct.pack(">I", size + len(box)) + plain[at + 4 : at + size] + box + plain[at + size :]


def tiff(*entries: tuple[int, int, int, int], order: str = "<") -> bytes:
    """An uncompressed TIFF of one strip, its directory with these entries (tag, type, count, value) as well."""
    pixels = MARKED.tobytes()
    given = [
        (256, 4, 1, MARKED.width), (257, 4, 1, MARKED.height), (258, 3, 3, 8), (259, 4, 1, 1), (262, 4, 1, 2),
        (273, 4, 1, 14), (277, 4, 1, 3), (278, 4, 1, MARKED.height), (279, 4, 1, len(pixels)), *entries,
    ]  # fmt: skip
    start = 14 + len(pixels)
    directory = struct.pack(f"{order}H", len(given)) + b"".join(
        struct.pack(f"{order}HHII", *entry) for entry in sorted(given)
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + struct.pack(f"{order}3H", 8, 8, 8) + pixels + directory + bytes(4)


def is_marked(image: Pillow.Image, *, turned: bool = False) -> bool:
    """Whether it shows `MARKED`; turned: as EXIF's orientation 6 wants it, with the black corner at the top right."""
    corner = image.getpixel((image.width - 4, 4) if turned else (4, 4))
    middle = image.getpixel((image.width // 2, image.height - 4))
    assert isinstance(corner, tuple) and isinstance(middle, tuple)
    size = (32, 48) if turned else (48, 32)
    return image.size == size and max(corner) < 40 and abs(middle[0] - RED[0]) < 20 and max(middle[1:]) < 70


def refused(data: bytes) -> BadSample:
    with pytest.raises(BadSample) as caught:
        decoding.decode(data)
    with pytest.raises(BadSample) as seen:
        decoding.inspect(data)
    assert (seen.value.reason, seen.value.detail) == (caught.value.reason, caught.value.detail)
    assert "\n" not in caught.value.detail
    return caught.value


BESIDE_THE_PIXELS = {
    "a PNG's packed text": png(chunk(b"zTXt", b"k\0\0" + zlib.compress(BESIDE))),
    "a PNG's international text": png(chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(BESIDE))),
    "many texts": png(*(chunk(b"tEXt", b"%d\0" % n + BESIDE) for n in range(23))),
    "a PNG's profile": png(chunk(b"iCCP", b"p\0\0" + zlib.compress(BESIDE))),
    "a profile packed in no known way": png(chunk(b"iCCP", b"p\0\x09x")),
    "no profile": png(chunk(b"iCCP", b"")),
    "text behind the pixels": png(chunk(b"zTXt", b"k\0\0" + zlib.compress(BESIDE)), last=True),
    "a text of a wrong checksum": png(chunk(b"tEXt", b"k\0v", crc=0)),
    "a resolution cut short": png(chunk(b"pHYs", b"\0")),
    "a gamma cut short": png(chunk(b"gAMA", b"\0")),
    "transparency cut short": png(chunk(b"tRNS", b"\0")),
    "an animation without frames": png(chunk(b"acTL", b"")),
    "frames out of order": png(chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fcTL", bytes([9]) * 26)),
    "a JPEG's profile cut short": jpeg((0xE2, b"ICC_PROFILE\0")),
    "Photoshop's segment cut short": jpeg((0xED, b"Photoshop 3.0\x008BIM\x03\xed")),
    "Adobe's segment cut short": jpeg((0xEE, b"Adobe")),
    "an index of pictures that is none": jpeg((0xE2, b"MPF\0garbage")),
    "six megabytes of comment": jpeg(*[(0xFE, b"c" * 60_000)] * 100),
    "EXIF that is none": jpeg((0xE1, b"Exif\0\0garbage")),
    "a WebP's profile": encode(MARKED, "WEBP", lossless=True, icc_profile=BESIDE),
    "a GIF's comment": encode(MARKED.quantize(), "GIF", comment=b"c" * 70_000),
    "a TIFF's text beyond its end": tiff((270, 2, 1000, 99_999_999)),
    "a TIFF's metadata beyond its end": tiff((700, 1, 1000, 99_999_999), (34675, 7, 100, 99_999_999), order=">"),
    "a tag of four billion values": tiff((270, 2, 0xFFFFFFFF, 8), (274, 3, 500, 99_999_999)),
    "a GIF's extension without content": gif(b"\x21\xff\x0bNETSCAPE2.0\0"),
    "a GIF's control block cut short": gif(b"\x21\xf9\x02\0\0\0"),
    "a resolution of JPEG 2000 cut short": jpeg2000(b"\0\0\0\x0ares \0\0"),
    "a colour space of JPEG 2000 that is empty": jpeg2000(b"\0\0\0\x08colr"),
    "an AVIF's EXIF": spoiled(encode(MARKED, "AVIF", quality=95, exif=described()), b"hello"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", BESIDE_THE_PIXELS)
def test_nothing_beside_the_pixels_costs_the_picture(name: str) -> None:
    data = BESIDE_THE_PIXELS[name]
    header = decoding.inspect(data)
    assert (header.width, header.height) == (48, 32)
    assert is_marked(decoding.decode(data))


def test_the_orientation_outlives_the_metadata_that_is_left_out() -> None:
    exif = oriented(6)
    for data in (
        jpeg((0xE1, exif), (0xED, b"Photoshop 3.0\x008BIM\x03\xed")),
        png(chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")), chunk(b"gAMA", b"\0")),
        tiff((274, 3, 1, 6), (270, 2, 1000, 99_999_999)),
    ):
        assert is_marked(decoding.decode(data), turned=True)


def test_transparency_outlives_it_too() -> None:
    image = Pillow.new("RGBA", (8, 8), (0, 0, 0, 0))
    data = encode(image.quantize(), "PNG")
    assert decoding.decode(data[:33] + chunk(b"gAMA", b"") + data[33:]).getpixel((4, 4)) == (255, 255, 255)


def test_metadata_that_is_left_out_excuses_no_damage() -> None:
    for whole in (png(chunk(b"gAMA", b"\0")), jpeg((0xE2, b"ICC_PROFILE\0")), tiff((270, 2, 1000, 99_999_999))):
        assert refused_at_all(whole[: len(whole) * 2 // 3]) == "corrupt_image"
    head = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"gAMA", b"") + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert refused_at_all(bomb) == "image_too_large"


def refused_at_all(data: bytes) -> str:
    with pytest.raises(BadSample) as caught:
        decoding.decode(data)
    return caught.value.reason


def test_avif_is_read() -> None:
    data = encode(MARKED, "AVIF", quality=95)
    assert decoding.inspect(data) == decoding.Header(format="AVIF", width=48, height=32)
    assert decoding.EXTENSION_OF["AVIF"] == "avif" and is_marked(decoding.decode(data))
    assert is_marked(decoding.decode(encode(MARKED, "AVIF", quality=95, exif=oriented(6))), turned=True)
    see_through = encode(Pillow.new("RGBA", (32, 32), (0, 0, 0, 0)), "AVIF")
    assert decoding.decode(see_through).getpixel((9, 9)) == (255, 255, 255)
    assert refused_at_all(data[:-30]) == "corrupt_image"


def test_heic_is_read_where_its_plug_in_is(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(MARKED)
    assert decoding.inspect(data) == decoding.Header(format="HEIF", width=48, height=32)
    assert decoding.EXTENSION_OF["HEIF"] == "heic" and is_marked(decoding.decode(data))
    assert is_marked(decoding.decode(heic(MARKED, exif=oriented(6))), turned=True)
    assert is_marked(decoding.decode(heic(MARKED, exif=b"Exif\0\0garbage")))
    assert refused_at_all(data[:-30]) == refused_at_all(data[:150]) == "corrupt_image"
    assert "HEIF" not in Pillow.OPEN, "nothing is registered with Pillow, which others use as well"
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    bad = refused(data)
    assert bad.reason == "unsupported_image" and "HEIC" in bad.detail and "pip install pillow-heif" in bad.detail


def test_ten_bits_of_heic_become_eight() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    levels = np.full((8, 8, 3), (65535, 0, 0), np.uint16)
    buffer = io.BytesIO()
    pillow_heif.from_bytes(mode="RGB;16", size=(8, 8), data=levels.tobytes()).save(buffer)
    red, green, blue = decoding.decode(buffer.getvalue()).getpixel((4, 4))  # type: ignore[misc]
    assert red > 250 and max(green, blue) < 5


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_the_camera_s_orientation_is_undone_in_every_format_that_has_it(kind: str) -> None:
    """Pillow's AVIF and libheif keep it as a transform of the file, the others in EXIF."""
    more: dict[str, Any] = {"save_all": True, "append_images": [MARKED.rotate(180)]} if kind == "MPO" else {}
    for orientation, way in decoding._TRANSPOSE_OF.items():
        undoes = {Pillow.Transpose.ROTATE_90: Pillow.Transpose.ROTATE_270}
        undoes |= {there: back for back, there in undoes.items()}
        stored = MARKED.transpose(undoes.get(way, way))
        exif = oriented(orientation)
        data = heic(stored, exif=exif) if kind == "HEIF" else encode(stored, kind, exif=exif, **more)
        assert decoding.inspect(data).format == kind
        assert is_marked(decoding.decode(data)), orientation


def test_every_reader_of_pictures_goes_through_the_one_decoder() -> None:
    """So whatever opens here opens everywhere, upright: rewriter, CLIPScore, training, endpoints, reports."""
    readers = []
    for package in ("polite_flamingo", "actors", "ray_jobs", "serving", "training"):
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            if not re.search(r"\b(PIL|cv2|imageio)\b", text):
                continue
            tree = ast.parse(text)
            names = {
                alias.asname or alias.name
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and node.module == "PIL"
                for alias in node.names
            } | {"cv2", "imageio"}
            opened = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in names
                and node.attr in ("open", "imread", "imdecode", "frombuffer")
            ]
            readers += [path.relative_to(ROOT).as_posix()] * bool(opened)
    assert readers == ["polite_flamingo/images/decoding.py"]


def test_a_report_and_a_rewriter_see_a_turned_photograph_upright() -> None:
    pytest.importorskip("torch")
    from polite_flamingo.flamingo.engine import image_cache

    class Plain:
        @staticmethod
        def preprocess(image: Pillow.Image) -> Pillow.Image:
            return image

    for data in (encode(MARKED, "JPEG", quality=95, subsampling=0, exif=oriented(6)), heic(MARKED, exif=oriented(6))):
        before = bytes(data)
        shown = base64.b64decode(gallery.thumbnail(data).uri.partition(",")[2])
        assert is_marked(Pillow.open(io.BytesIO(shown)).convert("RGB"), turned=True)
        assert is_marked(image_cache._pixels(Plain(), data), turned=True)  # type: ignore[arg-type]
        assert data == before


def ftyp(brand: bytes) -> bytes:
    return struct.pack(">I", 20) + b"ftyp" + brand + bytes(4) + b"isom" + bytes(40)


NAMED = {
    "SVG": b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg" width="9"/>',
    "JPEG XL": b"\xff\x0a" + bytes(40),
    "PDF": b"%PDF-1.7\n%\xe2\xe3",
    "PSD": b"8BPS\0\1" + bytes(40),
    "ICO": encode(MARKED, "ICO"),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "DDS": encode(MARKED, "DDS"),
    "TGA": encode(MARKED, "TGA"),
    "CR3": ftyp(b"crx "),
    "MP4": ftyp(b"isom"),
    "QuickTime": ftyp(b"qt  "),
    "WebM": b"\x1aE\xdf\xa3" + bytes(40),
    "AVI": b"RIFF\0\0\0\0AVI LIST",
    "HTML": b"\n<!-- x --><!DOCTYPE html>\n<html><title>Sign in</title>",
    "HTML page": b"<html>gone</html>",
    "HTML page, not": b"<h1>403 Forbidden</h1>",
    "XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "JSON": b'{"message": "rate limit exceeded"}',
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "git annex get": b"/annex/objects/MD5E-s12--0f3a.jpg\n",
    "macOS": b"\0\5\x16\7\0\2\0\0Mac OS X",
    "gzip": gzip.compress(b"picture"),
    "zip": b"PK\3\4" + bytes(40),
    "tar": bytes(257) + b"ustar\x0000" + bytes(248),
    "base64": base64.b64encode(encode(MARKED, "PNG")),
    "data: URL": b"data:image/png;base64,iVBORw0KGgo",
    "a URL": b"https://example.org/a.jpg\n",
    "raw file": tiff((50706, 1, 4, 0x401)),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_read_is_named(name: str) -> None:
    bad = refused(NAMED[name])
    assert bad.reason == "unsupported_image" and name in bad.detail


def test_a_page_in_utf_16_is_a_page() -> None:
    assert "an HTML page" in refused("<!doctype html><p>é".encode("utf-16")).detail


@pytest.mark.parametrize("data", [b"{not json", b"\xff\xfe", b"<", b"RIFF", b"\0\0\0\x14ftyp", bytes(8) + b"\xff\x0a"])
def test_what_nobody_knows_stays_corrupt(data: bytes) -> None:
    assert refused_at_all(data) == "corrupt_image"


def test_a_text_is_quoted() -> None:
    bad = refused(b"Not Found\nnginx")
    assert bad.reason == "corrupt_image" and "it starts with 'Not Found'" in bad.detail


def test_zero_bytes_are_called_that() -> None:
    assert "bytes are zero" in refused(bytes(500)).detail


def test_an_unsupported_variant_is_not_called_damaged() -> None:
    strange = bytearray(tiff())
    at = strange.index(struct.pack("<HHII", 262, 4, 1, 2))
    strange[at : at + 12] = struct.pack("<HHII", 262, 4, 1, 32803)  # the mosaic of a camera's sensor
    bad = refused(bytes(strange))
    assert bad.reason == "unsupported" and bad.detail.startswith("TIFF does not open")
