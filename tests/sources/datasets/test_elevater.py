"""Classification: a template, the class, and what is known about it; images by an index or by their names."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.datasets.elevater_files import SETS
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.source import SourceOptions, keyed_records
from polite_flamingo.sources.registry import SOURCES
from tests.support.elevater_files import coco_index, files, set_folder
from tests.support.raw_dataset import SHARED, Raw
from tests.support.record_strategies import JUNK, spoiled


def test_an_index_file_into_a_zip_and_a_folder(raw: Raw) -> None:
    data = raw.image("more/2.png")
    with zipfile.ZipFile(raw.images / "train.zip", "w") as archive:
        archive.writestr("in/1.png", data)
    index = raw.text("train.txt", "train.zip@in/1.png 0\n\nmore/2.png 1,0,1\n")
    samples, quarantined = raw.read("elevater_ic", *files(raw), index, split="train")
    assert quarantined == []
    assert samples[0].key == "elevater_ic/train/shapes-train~2Ezip~40in~2F1"
    lines = samples[0].response.splitlines()
    assert lines[:3] == ["a drawing of a circle.", "A round line.", "ellipse of one axis"]
    assert len(lines) == 4 and lines[3] in ("Round.", "round.")
    assert samples[1].response.startswith("a drawing of a square and circle.\nA round line.")
    assert samples[0].images[0].data == samples[1].images[0].data == data
    assert samples[0].task == "classification" and samples[1].meta["classes"] == ["square", "circle"]


def test_dumped_images_name_their_set_and_class(raw: Raw) -> None:
    raw.image("pets-cls1-idx7-dog.png")
    raw.image("shapes-cls1-idx3202-square.jpg")
    raw.text("images/README.md", "no image, no row")
    samples, quarantined = raw.read("elevater_ic", *files(raw))
    assert quarantined == []
    assert [(s.key, s.response) for s in samples] == [
        ("elevater_ic/val/pets-cls1-idx7-dog", "a photo of a dog, a type of pet."),
        ("elevater_ic/val/shapes-cls1-idx3202-square", "a drawing of a square."),
    ]


def test_with_several_sets_an_index_must_say_which(raw: Raw) -> None:
    raw.image("1.png")
    class_map, index = files(raw)[0], raw.text("train.txt", "1.png 1\n")
    with pytest.raises(SourceError, match="which data set is it: pets, shapes"):
        raw.read("elevater_ic", class_map, index)
    samples, _ = raw.read("elevater_ic", class_map, index, dataset="pets")
    assert samples[0].response == "a photo of a dog."


def test_each_bad_line_image_and_entry_is_quarantined(raw: Raw) -> None:
    raw.image("1.png")
    index = raw.root / "train.txt"
    index.write_bytes(
        b"1.png 7\n1.png\n../1.png 0\n2.png 0\nno.zip@1.png 0\n1.png 0\n1.png 1\n1.png 99999999\n"
        b"\xe9.png 0\na b.png 0\n\xe9"
    )
    wrong = raw.json("wrong_knowledge.tsv", ["oops", {"classname": 5}, {"classname": "circle", "def_wiki": 5}])
    samples, quarantined = raw.read("elevater_ic", files(raw)[0], wrong, index, dataset="shapes")
    assert [sample.meta["source"] for sample in samples] == ["train.txt#lines[5]"]
    assert [(row.payload, row.reason) for row in quarantined] == [
        ("wrong_knowledge.tsv#classes[0]", "bad_field"),
        ("wrong_knowledge.tsv#classes[1]", "bad_field"),
        ("wrong_knowledge.tsv#classes[2]", "bad_field"),
        ("train.txt#lines[0]", "bad_field"),
        ("train.txt#lines[1]", "bad_field"),
        ("train.txt#lines[2]", "unsafe_name"),
        ("train.txt#lines[3]", "missing_image"),
        ("train.txt#lines[4]", "missing_image"),
        ("train.txt#lines[6]", "duplicate_key"),
        ("train.txt#lines[7]", "bad_field"),
        ("train.txt#lines[8]", "bad_field"),
        ("train.txt#lines[9]", "missing_image"),
        ("train.txt#lines[10]", "bad_field"),
    ]


def test_of_several_sets_each_index_belongs_to_the_set_of_its_folder(raw: Raw) -> None:
    index = {}
    for folder in ("pets", "shapes_20211007"):
        home = set_folder(raw, folder, "train.zip", "1.png")
        (home / "train.txt").write_text("train.zip@1.png 1\n\nmade/0.png 0\n1.png\n")
        index[folder] = home / "train.txt"
    samples, quarantined = raw.read("elevater_ic", *files(raw), *index.values(), split="train")
    assert [(s.key.split("/")[-1], s.response.splitlines()[0], s.meta["source"]) for s in samples] == [
        ("pets-train~2Ezip~401", "a photo of a dog, a type of pet.", "pets/train.txt#lines[0]"),
        ("pets-made~2F0", "a photo of a cat, a type of pet.", "pets/train.txt#lines[2]"),
        ("shapes-train~2Ezip~401", "a drawing of a square.", "shapes_20211007/train.txt#lines[0]"),
        ("shapes-made~2F0", "a drawing of a circle.", "shapes_20211007/train.txt#lines[2]"),
    ]
    assert samples[0].images == samples[1].images != samples[2].images == samples[3].images
    assert [row.payload for row in quarantined] == ["pets/train.txt#lines[3]", "shapes_20211007/train.txt#lines[3]"]
    samples, _ = raw.read("elevater_ic", files(raw)[0], index["pets"], split="train", dataset="shapes")
    assert samples[0].meta["set"] == "shapes"


CATEGORIES = [{"id": 7, "name": "square thing"}, {"id": 1, "name": "round thing"}]


def test_an_index_in_the_format_of_coco(raw: Raw) -> None:
    home = set_folder(raw, "shapes", "images.zip", "1.png", "2.png")
    raw.image("shapes/3.png")
    images = [
        {"id": 1, "file_name": "1.png", "zip_file": "images.zip"},
        {"id": 2, "file_name": "images.zip@2.png"},
        {"id": 3, "file_name": "3.png"},
        {"id": 4, "file_name": "3b.png"},
        {"id": 5},
        "oops",
        {"file_name": "3.png"},
    ]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 1}, {"id": 2, "image_id": 2, "category_id": 7},
        {"id": 3, "image_id": 3, "category_id": 7}, {"id": 4, "image_id": 3, "category_id": 1},
        {"id": 5, "image_id": 3, "category_id": 2}, {"id": 6, "image_id": 99, "category_id": 1}, "oops",
        {"id": 7, "image_id": 3, "category_id": "1"}, {"id": 8, "image_id": 5, "category_id": 1},
    ]  # fmt: skip
    content = coco_index(images=images, annotations=annotations, categories=[*CATEGORIES, {"id": None}])
    index = home / "train.json"
    index.write_text(json.dumps(content))
    samples, quarantined = raw.read("elevater_ic", *files(raw), index, split="train")
    assert [(s.key.split("/")[-1], s.meta["classes"]) for s in samples] == [
        ("shapes-images~2Ezip~401", ["circle"]),  # of class_map.json, in the order of the categories' ids
        ("shapes-images~2Ezip~402", ["square"]),
        ("shapes-3", ["square", "circle"]),
    ]
    assert samples[0].images != samples[1].images
    assert [(row.payload, row.reason) for row in quarantined] == [
        ("train.json#annotations[6]", "bad_field"),
        ("train.json#annotations[7]", "bad_field"),
        ("train.json#categories[2]", "bad_field"),
        ("train.json#annotations[4]", "bad_field"),
        ("train.json#annotations[5]", "missing_annotation"),
        ("train.json#images[3]", "missing_annotation"),
        ("train.json#images[4]", "bad_field"),
        ("train.json#images[5]", "bad_field"),
        ("train.json#images[6]", "bad_field"),
    ]
    samples, _ = raw.read("elevater_ic", index, split="train", dataset="own")
    assert samples[0].response == "a photo of a round thing."


def test_per_class_chooses_by_the_hash_of_the_name(raw: Raw) -> None:
    raw.image("1.png")
    lines = [f"{number}.png {number % 2}\n" for number in range(60)] + ["60.png 0,1\n", "bad\n"]
    index = raw.text("train.txt", "".join(lines) + lines[0])

    def chosen(wanted: str, index: Path = index) -> list[Any]:
        options = SourceOptions(
            annotations=(*files(raw), index), images=raw.images, extra={"per_class": wanted, "dataset": "shapes"}
        )
        return list(keyed_records(SOURCES["elevater_ic"], options))

    few, more = chosen("4"), chosen("10")
    counts = Counter(label for row in few if hasattr(row, "data") for label in row.data["classes"])
    assert counts["circle"] in (4, 5) and counts["square"] in (4, 5)  # 5 where the other class has chosen 60.png
    assert {row.key for row in few} < {row.key for row in more}
    assert [row.detail for row in few if not hasattr(row, "data")][-1].startswith("expected '<image> <class>")
    shuffled = raw.text("other/train.txt", "".join(reversed(lines)))
    assert {row.key for row in chosen("4", shuffled)} == {row.key for row in few}
    repeated = raw.text("repeated/train.txt", "".join(line * 2 for line in lines) + "".join(lines))
    assert {row.key for row in chosen("4", repeated)} == {row.key for row in few}
    assert len(chosen("100")) == len(lines) + 1
    for wrong in ("0", "-1", "many", "3.5", ""):
        with pytest.raises(SourceError, match="per_class="):
            chosen(wrong)


def test_a_long_index_takes_little_memory(raw: Raw) -> None:
    index = raw.root / "train.txt"
    with index.open("w") as file:
        file.writelines(f"train.zip@images/of/a/class/{number:08d}.jpg {number % 2}\n" for number in range(20_000))
    options = SourceOptions(
        annotations=(*files(raw), index), images=raw.images, extra={"per_class": "3", "dataset": "shapes"}
    )
    tracemalloc.start()
    assert sum(1 for _ in keyed_records(SOURCES["elevater_ic"], options)) == 6
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 19, f"{peak} bytes: the lines are kept"


IMAGES = [{"id": number, "file_name": f"{number}.png"} for number in range(1, 5)]


LABELS = [{"id": number, "image_id": number, "category_id": number % 2 + 1} for number in range(1, 5)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(images=spoiled(IMAGES), labels=spoiled(LABELS), categories=st.lists(JUNK, max_size=2))
def test_spoiled_coco_records_cost_only_themselves(raw: Raw, images: Any, labels: Any, categories: list[Any]) -> None:
    for number in range(1, 5):
        raw.image(f"{number}.png")
    given = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, *categories]
    index = raw.json("train.json", coco_index(images=images[0], annotations=labels[0], categories=given))
    samples, quarantined = raw.read("elevater_ic", index, dataset="own")
    places = [sample.meta["source"] for sample in samples] + [row.payload for row in quarantined]
    assert len(places) == len(set(places))
    assert {f"train.json#images[{number}]" for number in range(4)} <= set(places)
    said = {sample.meta["image_id"]: sample.response for sample in samples}
    for number in {0, 1, 2, 3} - images[1] - labels[1]:
        letter = "ab"[(number + 1) % 2]
        assert letter in said[f"{number + 1}.png"].removeprefix("a photo of a ")


@given(record=st.dictionaries(st.sampled_from(["image", "folders", "classes", "template", "facts", "set"]), JUNK))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_build_takes_whatever_was_spooled(raw: Raw, record: dict[str, Any]) -> None:
    raw.image("a.png")
    source = SOURCES["elevater_ic"]
    good = {"image": "a.png", "folders": [], "classes": ["a"], "template": "{}", "facts": [], "set": "s"}
    try:
        source.build("elevater_ic/a/b", good | record, source.context(SourceOptions(annotations=(), images=raw.images)))
    except BadSample as bad:
        assert bad.detail


@pytest.mark.parametrize("per_class", [None, "1"])
def test_real_every_set_by_one_command(raw: Raw, per_class: str | None) -> None:
    """The registry, class names and templates are the toolkit's own; indices and zips are made as it describes them."""
    folder = SHARED / "samples/elevater_ic"
    if not folder.is_dir():
        pytest.skip(f"the excerpts of real datasets are not at {folder} (POLITE_FLAMINGO_SHARED)")
    registry = json.loads((folder / "vision_datasets.json").read_text())
    for entry in registry:
        part = entry["train"]
        home = set_folder(raw, entry["root_folder"], part["files_for_local_usage"][0], "1.png", "2.png", "3.png")
        archive, last = part["files_for_local_usage"][0], entry["num_classes"] - 1 if "num_classes" in entry else 0
        labels = [0, last, 0]
        if entry.get("format") == "coco":
            content = coco_index(
                images=[{"id": n + 1, "file_name": f"{n + 1}.png", "zip_file": archive} for n in range(3)],
                annotations=[{"id": n + 1, "image_id": n + 1, "category_id": labels[n] + 1} for n in range(3)],
                categories=[{"id": n + 1, "name": f"class {n}"} for n in range(last + 1)],
            )
            (home / part["index_path"]).write_text(json.dumps(content))
        else:
            lines = [f"{archive}@{n + 1}.png {labels[n]}\n" for n in range(3)]
            (home / part["index_path"]).write_text("".join(lines))
    given = [folder / name for name in ("class_map.json", "template_map.json", "vision_datasets.json")]
    given += sorted(folder.glob("knowledge/*/*.tsv"))
    extra = {"per_class": per_class} if per_class else {}
    samples, quarantined = raw.read("elevater_ic", *given, split="train", **extra)
    assert quarantined == []
    counts = Counter(sample.meta["set"] for sample in samples)
    assert counts == dict.fromkeys(SETS, 2 if per_class else 3) | {"imagenet-1k": counts["imagenet-1k"]}
    if not per_class:
        said = {sample.key: sample.response for sample in samples}
        ids = ("fer-2013-train~2Ezip~402", "kitti-distance-train_images~2Ezip~402", "eurosat_clip-2750~2Ezip~402")
        assert [said[f"elevater_ic/train/{one}"].splitlines() for one in ids] == [
            [
                "a photo of a face looking surprised.",
                "Caused to feel surprise, amazement or wonder, or showing an emotion due to an unexpected event.",
                "cause to be surprised",
                "Surprised.",
            ],
            ["a photo i took with no car."],
            ["a centered satellite photo of lake or sea.", "A large body of salt water."],
        ]


def test_real_aircraft(real: Any) -> None:
    folder = "elevater_ic/knowledge"
    name = "fgvc-aircraft-2013b-variants102"
    samples, quarantined = real(
        "elevater_ic", "elevater_ic/images", "elevater_ic/class_map.json", "elevater_ic/template_map.json",
        f"{folder}/external/{name}_knowledge.tsv", f"{folder}/gpt3/GPT3_{name}.tsv",
    )  # fmt: skip
    assert quarantined == []
    whole_folders = real(
        "elevater_ic", "elevater_ic/images", "elevater_ic/class_map.json", "elevater_ic/template_map.json",
        f"{folder}/external", f"{folder}/gpt3",
    )  # fmt: skip
    assert whole_folders == (samples, quarantined)
    assert samples[0].key == f"elevater_ic/train/{name}-cls96-idx3202-Tornado"
    assert samples[0].response.splitlines()[:3] == [
        "a photo of the Tornado, a type of aircraft.",
        "A violent windstorm characterized by a mobile, twisting, funnel-shaped cloud.",  # the dataset's own mistake
        "a localized and violently destructive windstorm occurring over land characterized by a funnel-shaped cloud "
        "extending toward the ground",
    ]
    assert len(samples[0].images[0].data) == 48244
