"""Files that nobody vouches for: clear errors for a file, typed reasons for a record, no way out of the images."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading import field_checks, image_folder
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.image_folder import ImageFolder
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import Raw

QUESTION = {"questions": [{"question_index": 0, "question": "Où est-il?", "answer": "yes", "image_filename": "a.png"}]}


def test_a_byte_order_mark_is_not_content(raw: Raw) -> None:
    raw.image("a.png")
    path = raw.root / "q.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(QUESTION, ensure_ascii=False).encode())
    samples, _ = raw.read("clevr", path)
    assert samples[0].question == "Où est-il?"


def test_bytes_of_another_encoding_cost_only_their_record(raw: Raw) -> None:
    raw.image("a.png")
    latin = json.dumps(QUESTION, ensure_ascii=False).encode("latin-1")
    other = b'{"question_index": 9, "question": "Is it?", "answer": "yes", "image_filename": "a.png"}'
    (raw.root / "q.json").write_bytes(latin.replace(b"}]", b"}, " + other + b"]"))
    samples, quarantined = raw.read("clevr", raw.root / "q.json")
    assert [sample.question for sample in samples] == ["Is it?"]
    assert [(row.payload, row.reason) for row in quarantined] == [("q.json#questions[0]", "bad_field")]
    assert "not UTF-8" in quarantined[0].detail


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps(QUESTION).encode("utf-16"), "UTF-16, not UTF-8"),
        (b'{"questions": [\n  {"question"', r"q\.json, line 2, column 14: not JSON .* downloaded whole"),
        (b"", "line 1, column 1: not JSON"),
        (b'{"questions": ' + b"[" * 100_000, "nested too deeply"),
        (b"[1]", "expected an object, found a list"),
        (b"17", "found 17"),
        (b'{"images": []}', "found no 'questions'"),
        (b'{"questions": {}}', "'questions' must be a list, found dict"),
        (b'{"questions": ' + b"9" * 5000 + b"}", "not usable JSON"),
    ],
)
def test_an_unusable_file_is_one_line_that_says_where_and_what_to_do(raw: Raw, content: bytes, says: str) -> None:
    path = raw.root / "q.json"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=says) as caught:
        raw.read("clevr", path)
    said = str(caught.value)
    assert "\n" not in said and str(path) in said and len(said.replace(str(path), path.name)) < 200


def test_a_missing_file_or_folder_is_named(raw: Raw, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.json cannot be read \(No such file"):
        raw.read("clevr", tmp_path / "nowhere.json")
    for images in (None, tmp_path / "nowhere"):
        with pytest.raises(SourceError, match="--images"):
            list(SOURCES["clevr"].read(SourceOptions(annotations=(), images=images)))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a/../../secret.png", "..", "a\0.png"])
def test_image_names_do_not_lead_out_of_the_folder(raw: Raw, name: str) -> None:
    raw.image("../secret.png")
    with pytest.raises(BadSample) as caught:
        ImageFolder(raw.images).read(name)
    assert caught.value.reason == "unsafe_name"


def test_links_are_followed_only_inside_the_folder(raw: Raw) -> None:
    raw.image("../secret.png")
    inside = raw.image("real/a.png")
    (raw.images / "link.png").symlink_to(raw.root / "secret.png")
    (raw.images / "out").symlink_to(raw.root)
    (raw.images / "inside.png").symlink_to("real/a.png")
    for name in ("link.png", "out/secret.png"):
        with pytest.raises(BadSample) as caught:
            ImageFolder(raw.images).read(name)
        assert caught.value.reason == "unsafe_name"
    assert ImageFolder(raw.images).read("inside.png")[0].data == inside


@pytest.mark.parametrize("name", ["", ".", "real", "x" * 5000, "a.png/b", "missing.png", "dangling.png"])
def test_a_name_without_a_file_is_a_missing_image(raw: Raw, name: str) -> None:
    raw.image("real/b.png")
    raw.image("a.png")
    (raw.images / "dangling.png").symlink_to("nothing")
    with pytest.raises(BadSample) as caught:
        ImageFolder(raw.images).read(name)
    assert caught.value.reason == "missing_image" and len(caught.value.detail) < 300


def test_bytes_pass_unchanged_and_the_header_names_the_format(raw: Raw) -> None:
    data = raw.image("a.jpg", width=7, height=5)
    (raw.images / "b.png").write_bytes(data)
    for name in ("a.jpg", "b.png"):
        image, header = ImageFolder(raw.images).read(name)
        assert (image.data, image.extension, header.width, header.height) == (data, "jpg", 7, 5)


def test_a_file_too_large_to_be_an_image_is_not_read(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    data = raw.image("a.png")
    monkeypatch.setattr(image_folder, "MAX_IMAGE_BYTES", len(data) - 1)
    with pytest.raises(BadSample) as caught:
        ImageFolder(raw.images).read("a.png")
    assert caught.value.reason == "image_too_large"


def zipped(raw: Raw, *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = raw.image("../a.png")
    with zipfile.ZipFile(raw.images / "train.zip", "w", compression) as archive:
        archive.writestr("a.png", data)
        archive.writestr("empty.png", b"")
    return data


def test_images_in_a_zip(raw: Raw) -> None:
    data = zipped(raw)
    folder = ImageFolder(raw.images)
    assert folder.read_from_zip("train.zip", "a.png")[0].data == data
    for archive, member, reason in (
        ("train.zip", "b.png", "missing_image"),
        ("train.zip", "empty.png", "empty_image"),
        ("other.zip", "a.png", "missing_image"),
        ("../train.zip", "a.png", "unsafe_name"),
    ):
        with pytest.raises(BadSample) as caught:
            folder.read_from_zip(archive, member)
        assert caught.value.reason == reason


def test_a_damaged_or_bombing_zip_is_a_reason_not_an_error(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(raw, compression=zipfile.ZIP_LZMA)
    with pytest.raises(BadSample) as caught:
        ImageFolder(raw.images).read_from_zip("train.zip", "a.png")
    assert caught.value.reason == "unsupported"
    zipped(raw)
    spoiled = bytearray((raw.images / "train.zip").read_bytes())
    spoiled[45:60] = b"\xff" * 15
    (raw.images / "spoiled.zip").write_bytes(bytes(spoiled))
    (raw.images / "no.zip").write_bytes(b"PK")
    for name in ("spoiled.zip", "no.zip"):
        with pytest.raises(BadSample) as caught:
            ImageFolder(raw.images).read_from_zip(name, "a.png")
        assert caught.value.reason == "corrupt_image"
    monkeypatch.setattr(image_folder, "MAX_IMAGE_BYTES", 10)
    with pytest.raises(BadSample) as caught:
        ImageFolder(raw.images).read_from_zip("train.zip", "a.png")
    assert caught.value.reason == "image_too_large"


@pytest.mark.parametrize("value", [None, True, "5", float("nan"), float("inf"), 10**400, [1]])
def test_a_value_that_is_not_a_number_is_refused(value: Any) -> None:
    with pytest.raises(BadSample):
        field_checks.finite_number(value, "x")


@pytest.mark.parametrize("value", [None, True, 1.5, "", "x" * 201, 1 << 70, ["a"], "\ud800"])
def test_an_unusable_id_is_refused(value: Any) -> None:
    with pytest.raises(BadSample):
        field_checks.id_field({"id": value}, "id")
    assert field_checks.usable_id({"id": value}, "id") is None
