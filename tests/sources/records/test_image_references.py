"""Whatever annotations write for a picture is that picture, in every source alike; what leads elsewhere is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.image_folder import ImageFolder
from polite_flamingo.sources.records.image_references import needs_folder, read_images, reference_name, references
from polite_flamingo.sources.records.source import Context, SourceOptions
from tests.support.raw_dataset import Raw


def context(raw: Raw, root: Path | None = None) -> Context:
    folder = ImageFolder(root or raw.images)
    return Context(SourceOptions(annotations=(), images=folder.root), folder)


def test_every_way_to_write_a_picture(raw: Raw) -> None:
    data = raw.image("sub/a.jpg")
    text = base64.b64encode(data).decode()
    broken = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    path = raw.images / "sub" / "a.jpg"
    ways: list[Any] = [
        "sub/a.jpg", "./sub/a.jpg", " sub/a.jpg\n", "sub\\a.jpg", "images/sub/a.jpg", "images\\sub\\a.jpg",
        str(path), f"file://{path}", f"file://localhost{path}", "file://sub/a.jpg",
        f"data:image/jpeg;base64,{text}", f"data:;base64,{broken}", text, broken, text.rstrip("="),
        base64.urlsafe_b64encode(data).decode(), data, b"sub/a.jpg", text.encode(),
        {"bytes": data, "path": "else.jpg"}, {"bytes": None, "path": "sub/a.jpg"}, {"bytes": text},
        {"bytes": list(data)},
        {"url": "sub/a.jpg"}, {"image": "sub/a.jpg"}, {"file_name": "sub/a.jpg", "width": 9},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{text}"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": text}},
        ["sub/a.jpg"], [{"path": "sub/a.jpg"}], json.dumps(["sub/a.jpg"]), json.dumps({"path": "sub/a.jpg"}),
        "['sub/a.jpg']", repr(data), repr({"bytes": data, "path": None}),
    ]  # fmt: skip
    for way in ways:
        assert [image.data for image in read_images(way, context(raw))] == [data], way
    for nothing in (None, "", [], [None, ""]):
        assert read_images(nothing, context(raw)) == []


def test_letters_with_accents_in_either_form(raw: Raw) -> None:
    data = raw.image("caf\u00e9.jpg")
    assert read_images("cafe\u0301.jpg", context(raw))[0].data == data


def test_a_folder_that_is_a_link_takes_paths_by_both_its_names(raw: Raw) -> None:
    data = raw.image("a.jpg")
    link = raw.root / "link"
    link.symlink_to(raw.images)
    for folder in (link, raw.images):
        for name in (link / "a.jpg", raw.images / "a.jpg"):
            found = read_images(str(raw.images / "a.jpg" if folder == raw.images else name), context(raw, folder))
            assert found[0].data == data


@pytest.mark.parametrize(
    ("value", "reason", "says"),
    [
        ("../a.jpg", "unsafe_name", "leads out"),
        ("sub\\..\\..\\a.jpg", "unsafe_name", "leads out"),
        ("/etc/hosts", "unsafe_name", "an absolute path, and not one below --images"),
        ("file:///etc/hosts", "unsafe_name", "an absolute path"),
        ("file:///etc%2Fhosts", "unsafe_name", "an absolute path"),
        ("C:\\data\\a.jpg", "unsafe_name", "an absolute path"),
        ("file:///C:/data/a.jpg", "unsafe_name", "an absolute path"),
        ("link.jpg", "unsafe_name", "a link that leads out"),
        ("images/link.jpg", "unsafe_name", "a link that leads out"),
        ("none.jpg", "missing_image", "none of none.jpg"),
        ("what " * 400, "missing_image", "none of what"),
        ("https://example.org/a.jpg", "missing_image", "no host is named to download it from"),
        ("s3://bucket/a.jpg", "missing_image", "only http and https"),
        ("data:image/png;base64,@@", "corrupt_image", "not base64"),
        ("data:image/png", "bad_field", "no comma"),
        ({"bytes": b"", "path": None}, "empty_image", ""),
        ({"bytes": None, "path": None}, "bad_field", "an object that is empty"),
        ({"type": "image"}, "bad_field", "an object without bytes, path, url"),
        (5, "bad_field", "not 5"),
        (True, "bad_field", "not True"),
        ([[[[[[["a.jpg"]]]]]]], "bad_field", "nested too deeply"),
        ("a\0.jpg", "bad_field", "NUL"),
        ("\ud800.jpg", "bad_field", "not UTF-8"),
    ],
)
def test_a_file_that_is_not_a_picture_has_its_reason(raw: Raw, value: Any, reason: str, says: str) -> None:
    raw.image("a.jpg")
    (raw.images / "link.jpg").symlink_to("/etc/hosts")
    with pytest.raises(BadSample) as caught:
        read_images(value, context(raw))
    assert caught.value.reason == reason and says in caught.value.detail and len(caught.value.detail) < 300


def test_a_long_base64_cell_is_not_a_path_even_if_truncated(raw: Raw) -> None:
    text = base64.b64encode(raw.image("a.png", width=3000, height=2000)).decode()
    assert read_images(text, context(raw))[0].extension == "png"
    with pytest.raises(BadSample) as caught:
        read_images("A" * 3000, context(raw))
    assert caught.value.reason == "corrupt_image"


def test_a_reference_is_named_without_its_content(raw: Raw) -> None:
    data = raw.image("a.jpg")
    text = base64.b64encode(data).decode()
    given = ["a.jpg", "https://example.org/a.jpg", f"data:image/jpeg;base64,{text}", text, {"bytes": data}]
    found = references(given, context(raw))
    assert [reference_name(one) for one in found] == [*given[:2], "(data URL)", "(base64)", "(bytes)"]
    assert [needs_folder(one) for one in given] == [True, False, False, False, False]


def test_absolute_paths_below_the_folder_are_read_in_sources_of_one_form_too(raw: Raw) -> None:
    data = raw.image("train/a.png")
    path = str(raw.images / "train" / "a.png")
    question = {"question_index": 0, "question": "Is it?", "answer": "yes", "image_filename": path, "split": "val"}
    samples, quarantined = raw.read("clevr", raw.json("q.json", {"questions": [question]}))
    assert quarantined == [] and samples[0].images[0].data == data
    record = {"input": f"What?<img_path>{path}<img_path>", "output": "Green."}
    samples, quarantined = raw.read("pf1m", raw.json("pf1m.json", [record]))
    assert quarantined == [] and samples[0].images[0].data == data
