"""Classification: a template, the class, and what is known of it; images by an index or by their names."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from raw_dataset import Raw

from polite_flamingo.sources import SourceError


def files(raw: Raw) -> list[Path]:
    return [
        raw.json("class_map.json", {"shapes": ["circle", "square"], "pets": ["cat", "dog"]}),
        raw.json("template_map.json", {"shapes": ["a drawing of a {}."], "pets": ["a photo of a {}, a type of pet."]}),
        raw.json(
            "shapes_knowledge.tsv",
            [
                {
                    "classname": "circle",
                    "def_wiki": "A round line.",
                    "path_wn": ["a", "b"],
                    "def_wn": "ellipse of one axis",
                },
                {"classname": "square", "def_wiki": None, "path_wn": "", "def_wn": ""},
            ],
        ),
        raw.json(
            "GPT3_shapes.tsv",
            [{"classname": "circle", "gpt3": [" Round.", " round.", " Round."]}, {"classname": "square", "gpt3": []}],
        ),
    ]


def test_an_index_file_into_a_zip_and_a_folder(raw: Raw) -> None:
    data = raw.image("more/2.png")
    with zipfile.ZipFile(raw.images / "train.zip", "w") as archive:
        archive.writestr("in/1.png", data)
    index = raw.text("train.txt", "train.zip@in/1.png 0\n\nmore/2.png 1,0\n")
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


def test_class_names_may_come_from_a_label_map_and_the_template_from_clip(raw: Raw) -> None:
    raw.image("1.png")
    labels, index = raw.text("labels.txt", "cat\ndog\n"), raw.text("train.txt", "1.png 1\n")
    samples, _ = raw.read("elevater_ic", labels, index)
    assert samples[0].response == "a photo of a dog."


def test_with_several_sets_an_index_must_say_which(raw: Raw) -> None:
    raw.image("1.png")
    class_map, index = files(raw)[0], raw.text("train.txt", "1.png 1\n")
    with pytest.raises(SourceError, match="which data set is it: pets, shapes"):
        raw.read("elevater_ic", class_map, index)
    samples, _ = raw.read("elevater_ic", class_map, index, dataset="pets")
    assert samples[0].response == "a photo of a dog."


def test_each_bad_line_image_and_entry_is_quarantined(raw: Raw) -> None:
    raw.image("1.png")
    index = raw.text(
        "train.txt", "1.png 7\n1.png\n../1.png 0\n2.png 0\nno.zip@1.png 0\n1.png 0\n1.png 1\n1.png 99999999\n"
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
    ]


def test_files_of_another_shape_are_a_clear_error(raw: Raw) -> None:
    for name, content in (("a.json", {"shapes": "circle"}), ("a.json", [1]), ("a.tsv", {"shapes": []})):
        with pytest.raises(SourceError, match=r"a list|an object"):
            raw.read("elevater_ic", raw.json(name, content))
    with pytest.raises(SourceError, match="no index file"):
        raw.read("elevater_ic", files(raw)[0])


def test_real_aircraft(real: Any) -> None:
    folder = "elevater_ic/knowledge"
    name = "fgvc-aircraft-2013b-variants102"
    samples, quarantined = real(
        "elevater_ic", "elevater_ic/images", "elevater_ic/class_map.json", "elevater_ic/template_map.json",
        f"{folder}/external/{name}_knowledge.tsv", f"{folder}/gpt3/GPT3_{name}.tsv",
    )  # fmt: skip
    assert quarantined == []
    assert samples[0].key == f"elevater_ic/train/{name}-cls96-idx3202-Tornado"
    assert samples[0].response.splitlines()[:3] == [
        "a photo of the Tornado, a type of aircraft.",
        "A violent windstorm characterized by a mobile, twisting, funnel-shaped cloud.",  # the dataset's own mistake
        "a localized and violently destructive windstorm occurring over land characterized by a funnel-shaped cloud "
        "extending toward the ground",
    ]
    assert len(samples[0].images[0].data) == 48244


def test_every_real_knowledge_file_is_read(real: Any) -> None:
    kinds = {"external": "{}_knowledge.tsv", "gpt3": "GPT3_{}.tsv"}
    names = ("cifar-10", "fer-2013", "mnist", "fgvc-aircraft-2013b-variants102")
    paths = [
        f"elevater_ic/knowledge/{kind}/{pattern.format(name)}" for kind, pattern in kinds.items() for name in names
    ]
    _, quarantined = real("elevater_ic", "elevater_ic/images", "elevater_ic/class_map.json", *paths)
    assert quarantined == []
