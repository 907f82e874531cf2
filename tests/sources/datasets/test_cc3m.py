"""CC3M: a caption and a URL per line; the image from a folder, from img2dataset's tars, or from where the URL says."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from polite_flamingo.sample import BadSample, Quarantined, Sample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.image_folder import ImageFolder
from polite_flamingo.sources.reading.tars import MAX_TEXT_BYTES
from polite_flamingo.sources.records.source import Context, SourceOptions
from polite_flamingo.sources.registry import SOURCES
from tests.sources.reading.test_download import HERE, Site, picture, plain
from tests.support.raw_dataset import Raw, both
from tests.support.record_strategies import JUNK, spoiled


def read(raw: Raw, *files: Path, images: Path | None = None, **more: Any) -> tuple[list[Sample], list[Quarantined]]:
    options = SourceOptions(annotations=files, images=images or raw.images, **more)
    return both(SOURCES["cc3m"].read(options))


def tar(raw: Raw, name: str, *members: tuple[str, bytes], folder: str = "images") -> Path:
    path = raw.root / folder / name
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as file:
        for member, data in members:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def sample(stem: str, caption: Any, url: Any, data: bytes) -> list[tuple[str, bytes]]:
    """Return the members of a sample as img2dataset writes them."""
    said = {"caption": caption, "url": url, "key": stem, "status": "success", "exif": "{}", "width": 100}
    return [
        (f"{stem}.jpg", data),
        (f"{stem}.json", json.dumps(said).encode()),
        (f"{stem}.txt", str(caption).encode("utf-8", "surrogateescape")),
    ]


def test_an_image_is_found_by_the_number_of_its_line(raw: Raw) -> None:
    data = [
        raw.image(name, width) for name, width in (("0.jpg", 10), ("000000001.png", 20), ("00000/000000002.jpg", 30))
    ]
    lines = [
        "a dog 's bone .\thttp://a/x.jpg",
        "a cat\thttp://a/0.jpg",
        "a cow\thttp://a/3.jpg",
        "lost\thttp://a/0.jpg",
    ]
    for header in ("", "caption\turl\n"):  # which img2dataset wants there
        samples, quarantined = read(raw, raw.text("cc3m.tsv", header + "\n".join(lines) + "\n"), split="val")
        assert [(row.key, row.response) for row in samples] == [
            ("cc3m/val/0", "a dog's bone."), ("cc3m/val/1", "a cat"), ("cc3m/val/2", "a cow"),
        ]  # fmt: skip
        assert [row.images[0].data for row in samples] == data
        assert samples[0].meta["url"] == "http://a/x.jpg"
        assert [(row.key, row.reason) for row in quarantined] == [("cc3m/val/3", "missing_image")]


def test_an_image_is_found_by_its_url_only_if_asked_for(raw: Raw) -> None:
    digest = zlib.crc32(b"http://a/c.jpg?size=1")
    for name in ("0.jpg", "b b.jpg", f"{digest}.jpg", "p%C3.jpg"):
        raw.image(name)
    urls = ["http://a/x/0.jpg?w=1", "http://a/b%20b.jpg#top", "http://a/c.jpg?size=1", "http://a/p%C3.jpg", "http://a/",
            "http://a/..", "http://["]  # fmt: skip
    file = raw.text("cc3m.tsv", "".join(f"caption {number}\t{url}\n" for number, url in enumerate(urls)))
    samples, quarantined = read(raw, file, extra={"names": "url"})
    assert [row.response for row in samples] == [f"caption {number}" for number in range(4)]
    assert [(row.index, row.reason) for row in quarantined] == [
        (4, "missing_image"), (5, "unsafe_name"), (6, "missing_image"),
    ]  # fmt: skip
    assert [row.response for row in read(raw, file)[0]] == ["caption 0"]  # 0.jpg: by the line
    with pytest.raises(SourceError, match="'names' must be 'line' or 'url', not 'hash'"):
        read(raw, file, extra={"names": "hash"})


def test_lines_of_several_files_are_counted_on(raw: Raw) -> None:
    for number in range(3):
        raw.image(f"{number}.jpg")
    files = raw.text("a.tsv", "a\thttp://a/a\n\nb\thttp://a/b\n"), raw.text("b.tsv", "c\thttp://a/c\n")
    samples, _ = read(raw, *files)
    assert [(row.key, row.response, row.meta["source"]) for row in samples] == [
        ("cc3m/train/0", "a", "a.tsv#lines[0]"),
        ("cc3m/train/1", "b", "a.tsv#lines[2]"),
        ("cc3m/train/2", "c", "b.tsv#lines[0]"),
    ]


def test_each_bad_line_is_quarantined_once(raw: Raw) -> None:
    for number in range(7):
        raw.image(f"{number}.jpg")
    (raw.images / "5.jpg").write_bytes(b"<html>")
    lines = [b"good\thttp://a/", b"no url", b"a\tb\tc", b" . \thttp://a/", b"\thttp://a/", b"broken\thttp://a/",
             b"caf\xe9\thttp://a/", b"no image\thttp://a/\xe9"]  # fmt: skip
    file = raw.root / "cc3m.tsv"
    file.write_bytes(b"\n".join(lines))
    samples, quarantined = read(raw, file)
    assert [row.response for row in samples] == ["good", "."]
    assert [(row.payload, row.reason) for row in quarantined] == [
        ("cc3m.tsv#lines[1]", "bad_field"), ("cc3m.tsv#lines[2]", "bad_field"),
        ("cc3m.tsv#lines[4]", "missing_annotation"), ("cc3m.tsv#lines[5]", "unsupported_image"),
        ("cc3m.tsv#lines[6]", "bad_field"), ("cc3m.tsv#lines[7]", "bad_field"),
    ]  # fmt: skip


@pytest.mark.parametrize("where", ["images", "annotations"])
def test_lines_find_their_images_in_tars_by_url(raw: Raw, where: str) -> None:
    first, second = raw.image("../a.jpg", 10), raw.image("../b.jpg", 20)
    tars = [
        tar(raw, "00000.tar", *sample("000000000", "b cat", "http://a/b", second)),
        tar(
            raw,
            "00001.tar",
            *sample("000010000", "a dog", "http://a/a?x=1", first),
            *sample("1", "odd", ["http://a/b"], first),
            ("2.jpg", first),
            ("2.json", b'{"url": "' + bytes(MAX_TEXT_BYTES) + b'"}'),
            *sample("3", "", None, first),
        ),
    ]
    file = raw.text("cc3m.tsv", "a dog .\thttp://a/a?x=1\nlost\thttp://a/a\na cat .\thttp://a/b\nagain\thttp://a/b\n")
    samples, quarantined = read(raw, file, *(tars if where == "annotations" else []))
    assert [(row.key, row.response, row.images[0].data) for row in samples] == [
        ("cc3m/train/0", "a dog.", first), ("cc3m/train/2", "a cat.", second), ("cc3m/train/3", "again", second),
    ]  # fmt: skip
    assert [(row.key, row.reason) for row in quarantined] == [("cc3m/train/1", "missing_image")]


def test_tars_may_be_the_annotations(raw: Raw) -> None:
    data = raw.image("../a.jpg", 10)
    loose = [("x/000000002.png", picture()), ("x/000000002.txt", b"no json , only text\n"), ("readme", b"hello")]
    tar(raw, "00000.tar", *sample("000000000", "a dog .", "http://a/a", data), *loose)
    tar(raw, "00001.tar", *sample("000010000", "a cat", None, data))
    (raw.images / "00000.parquet").touch()
    for given_as in ([raw.images], sorted(raw.images.glob("*.tar"))):
        samples, quarantined = read(raw, *given_as)
        assert quarantined == []
        assert [(row.key, row.response, row.images[0].data, row.meta["source"]) for row in samples] == [
            ("cc3m/train/000000000", "a dog.", data, "00000.tar#samples[0]"),
            ("cc3m/train/000000002", "no json, only text", picture(), "00000.tar#samples[1]"),
            ("cc3m/train/000010000", "a cat", data, "00001.tar#samples[0]"),
        ]
    with pytest.raises(SourceError, match="must lie in the folder that --images names"):
        read(raw, tar(raw, "a.tar", folder="elsewhere"))
    with pytest.raises(SourceError, match="pass its folder with --images too"):
        list(SOURCES["cc3m"].read(SourceOptions(annotations=(raw.images,), download_from=(HERE,))))


def test_each_bad_sample_of_a_tar_is_quarantined_once(raw: Raw) -> None:
    data = raw.image("../a.jpg")
    good = sample("good", "a dog", "http://a/", data)
    link = tarfile.TarInfo("link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = tar(
        raw, "00000.tar", *good, ("bad.json", b"{"), ("bad.jpg", data), ("list.json", b"[]"),
        ("deep.json", b"[" * 200_000),
        *sample("number", 5, "http://a/", data), *sample("odd", "\udce9", "http://a/", data), ("mute.jpg", data),
        ("lone.txt", b"no image"), *sample("lost", "no image", "http://a/", data)[1:], *sample("none", "x", 5, data),
        *sample("empty", "x", None, b""), *sample("html", "x", None, b"<html>"), *good,
    )  # fmt: skip
    with tarfile.open(path, "a") as file:
        file.addfile(link)
    samples, quarantined = read(raw, path)
    assert [row.key for row in samples] == ["cc3m/train/good"]
    assert [(row.payload, row.reason) for row in quarantined] == [
        (f"00000.tar#samples[{number}]", reason)
        for number, reason in enumerate(
            ["bad_json", "bad_field", "bad_json", "bad_field", "bad_field", "missing_annotation", "missing_image",
             "missing_image", "bad_field", "empty_image", "unsupported_image", "duplicate_key", "unsafe_name"], start=1
        )
    ]  # fmt: skip


def test_a_damaged_tar_costs_a_row_and_what_it_lost(raw: Raw) -> None:
    data = raw.image("../a.jpg")
    whole = tar(raw, "00000.tar", *sample("0", "one", "http://a/0", data), *sample("1", "two", "http://a/1", data))
    content = whole.read_bytes()
    (raw.images / "00001.tar").write_bytes(content[:512] + data)  # cut in the first image
    (raw.images / "00002.tar").write_bytes(content[: 2048 + 1024 + 1024])
    (raw.images / "00003.tar").write_bytes(b"no tar at all" * 100)
    (raw.images / "00005.tar").write_bytes(content[: 512 + 512 * -(-len(data) // 512)])  # cut between two members
    (raw.images / "00004.tar").touch()
    file = raw.text("cc3m.tsv", "one\thttp://a/0\ntwo\thttp://a/1\nsix\thttp://a/6\n")
    samples, quarantined = read(raw, file)
    assert [row.response for row in samples] == ["one", "two"]
    assert sorted((row.payload, row.reason) for row in quarantined) == [
        ("00001.tar", "truncated_tar"), ("00002.tar", "truncated_tar"), ("00003.tar", "unreadable_shard"),
        ("00004.tar", "unreadable_shard"), ("00005.tar", "truncated_tar"), ("cc3m.tsv#lines[2]", "missing_image"),
    ]  # fmt: skip
    samples, quarantined = read(raw, raw.images / "00002.tar")
    assert [row.key for row in samples] == ["cc3m/train/0"] and quarantined[-1].reason == "truncated_tar"


def test_a_header_that_points_backwards_ends_the_tar(raw: Raw) -> None:
    path = tar(raw, "00000.tar", *sample("0", "one", "http://a/0", picture()))
    info = tarfile.TarInfo("1.jpg")
    info.size = -path.stat().st_size
    whole = path.read_bytes().rstrip(b"\0")
    path.write_bytes(whole + bytes(-len(whole) % 512) + info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    samples, quarantined = read(raw, path)
    assert [row.key for row in samples] == ["cc3m/train/0"]
    assert [(row.payload, row.reason) for row in quarantined] == [("00000.tar", "truncated_tar")]


def test_an_image_is_fetched_only_where_its_host_is_named(raw: Raw) -> None:
    site = Site()
    site.pages["/a.png"] = plain(200, picture())
    raw.image("1.jpg")
    lines = f"fetched\t{site.url}/a.png\nlocal\t{site.url}/a.png\nelsewhere\thttp://localhost:{site.port}/a.png\n"
    file = raw.text("cc3m.tsv", lines)
    samples, quarantined = read(raw, file, download_from=(HERE,))
    assert [(row.response, row.images[0].extension) for row in samples] == [("fetched", "png"), ("local", "jpg")]
    assert [row.reason for row in quarantined] == ["missing_image"] and "'localhost' is not one" in quarantined[
        0
    ].detail
    assert len(site.asked) == 1
    samples, quarantined = both(SOURCES["cc3m"].read(SourceOptions(annotations=(file,), download_from=(HERE,))))
    assert len(samples) == 2 and len(site.asked) == 3
    samples, quarantined = read(raw, file)
    assert [row.response for row in samples] == ["local"] and len(site.asked) == 3
    site.close()


GOOD = {"id": 0, "line": 0, "caption": "a field", "url": "http://a/", "part": ["a.jpg", 0, 800]}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=spoiled([GOOD]) | spoiled([GOOD | {"part": None}]), part=JUNK)
def test_no_record_makes_a_build_raise_anything_else(raw: Raw, record: Any, part: Any) -> None:
    raw.image("a.jpg")
    context = Context(SourceOptions(annotations=()), ImageFolder(raw.images))
    for value in (record[0][0], GOOD | {"part": part}, GOOD | {"part": ["a.jpg", part, part]}):
        try:
            SOURCES["cc3m"].identify(value)
            SOURCES["cc3m"].build("cc3m/train/0", value, context)
        except BadSample:
            pass


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (["a.jpg", 0, 10], "corrupt_image"),
        (["a.jpg", 0, 1 << 20], "corrupt_image"),
        (["a.jpg", -1, 10], "missing_image"),
        (["a.jpg", 1 << 80, 10], "missing_image"),
        (["a.jpg", 0, 0], "empty_image"),
        (["a.jpg", 0, -1], "image_too_large"),
        (["a.jpg", 0, 1 << 40], "image_too_large"),
        (["../a.jpg", 0, 10], "unsafe_name"),
        (["b.tar", 0, 10], "missing_image"),
        (["a.jpg", 0.0, 10], "bad_field"),
        (["a.jpg", True, 10], "bad_field"),
        ("a.jpg", "bad_field"),
    ],
)
def test_a_malformed_part_has_its_reason(raw: Raw, part: Any, reason: str) -> None:
    raw.image("a.jpg")
    context = Context(SourceOptions(annotations=()), ImageFolder(raw.images))
    with pytest.raises(BadSample) as caught:
        SOURCES["cc3m"].build("cc3m/train/0", GOOD | {"part": part}, context)
    assert caught.value.reason == reason


def test_real_cc3m(real: Any) -> None:
    file = "conceptual_captions_3m/Validation_GCC-1.1.0-Validation.head50.tsv"
    samples, quarantined = real("cc3m", "", file, split="val", pictures=["9.jpg", "00000/000000011.jpg"])
    assert [(row.key, row.instruction, row.response, row.meta["url"]) for row in samples] == [
        (
            "cc3m/val/9",
            "<image>What does the picture show?",
            "classical music's rising stars join conducted ensemble for a season",
            "http://piquemagazine.uk/wp-content/uploads/2017/10/"
            "LPO-24-Feb-Albrecht-Menzel-%C2%AE-Anne-Hornemann-300dpi.jpg",
        ),
        (
            "cc3m/val/11",
            "<image>Please describe this picture.",
            "where's the best place to show off your nails? right in front of the castle, of course!",
            "https://i.pinimg.com/736x/27/d5/94/"
            "27d59424cd786be35f0fa2a4ee11d088--minnie-mouse-nail-art-mickey-mouse-manicure.jpg",
        ),
    ]
    assert [row.reason for row in quarantined] == ["missing_image"] * 48


def test_real_cc3m_by_the_last_part_of_the_url(real: Any) -> None:
    file = "conceptual_captions_3m/Validation_GCC-1.1.0-Validation.head50.tsv"
    samples, _ = real("cc3m", "", file, extra={"names": "url"}, pictures=["3.jpg"])
    assert [(row.key, row.response) for row in samples] == [("cc3m/train/22", "sandcastle beach on bright sky.")]
    samples, _ = real("cc3m", "", file, pictures=["3.jpg"])
    assert [(row.key, row.response) for row in samples] == [
        ("cc3m/train/3", "the player staring intently at a computer screen.")
    ]
