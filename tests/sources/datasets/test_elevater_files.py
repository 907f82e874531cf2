"""What ELEVATER's files say about its sets: names, class names, templates, knowledge, index files."""

from __future__ import annotations

from typing import Any

import pytest

from polite_flamingo.sources.datasets.elevater_files import SETS, set_name
from polite_flamingo.sources.reading.errors import SourceError
from tests.support.elevater_files import files, set_folder
from tests.support.raw_dataset import Raw

SPELT = """
caltech-101 caltech101 caltech_101_20211007; cifar-10 cifar10 cifar_10_20211007; cifar-100 cifar100 cifar100_20200721;
country211 country211_20210924; dtd dtd_20211007; eurosat_clip eurosat-clip eurosat_clip_20210930;
fer-2013 fer2013 fer2013-v1 fer_2013_20211008;
fgvc-aircraft-2013b-variants102 fgvc-aircraft-2013b fgvc_aircraft_2013b_variants102_20211007;
food-101 food101 food_101_20211007; gtsrb gtsrb_20210923; hateful-memes hatefulmemes hateful_memes_20211014;
kitti-distance kitti_distance_20210923; mnist mnist_20211008; oxford-flower-102 flower102 oxford_flower_102_20211007;
oxford-iiit-pets oxford_iiit_pets_20211007; patch-camelyon patchcamelyon patch_camelyon_20211007;
rendered-sst2 rendered_sst2_20210924; resisc45_clip resisc45-clip resisc45_clip_20210924;
stanford-cars stanfordcar stanford_cars_20211007; voc-2007-classification voc2007classification voc2007_20211007;
imagenet-1k imagenet_1k_20220105
"""


def test_every_spelling_of_every_set_is_known() -> None:
    spelt = [line.split() for line in SPELT.split(";")]
    assert tuple(names[0] for names in spelt) == SETS
    for names in spelt:
        assert {set_name(name) for name in names} == {names[0]}
    assert set_name("pets_20211007") == "pets" and set_name("Own-Set") == "Own-Set"


def test_class_names_may_come_from_a_label_map_and_the_template_from_clip(raw: Raw) -> None:
    raw.image("1.png")
    labels, index = raw.text("labels.txt", "cat\ndog\n"), raw.text("train.txt", "1.png 1\n")
    samples, _ = raw.read("elevater_ic", labels, index)
    assert samples[0].response == "a photo of a dog."


def test_labels_belong_to_the_set_of_their_folder_in_any_order(raw: Raw) -> None:
    given = []
    for folder, names in (("mnist", "zero\none\n"), ("dtd_20211007", "banded\nblotchy\n")):
        home = set_folder(raw, folder, "train.zip", "1.png")
        (home / "labels.txt").write_text(names)
        (home / "train.txt").write_text("train.zip@1.png 1\n")
        given += [home / "train.txt", home / "labels.txt"]
    assert [s.response for s in raw.read("elevater_ic", *given)[0]] == ["a photo of a one.", "a photo of a blotchy."]
    for place, folder in ((0, "mnist"), (2, "dtd_20211007")):  # which only the registry knows, and it comes last
        (raw.images / folder).rename(raw.images / f"own{place}")
        given[place : place + 2] = [raw.images / f"own{place}" / name for name in ("train.txt", "labels.txt")]
    registry = [{"name": f"set{place}", "root_folder": f"x/own{place}"} for place in (0, 2)]
    samples, _ = raw.read("elevater_ic", *given, raw.json("vision_datasets.json", registry))
    assert [(s.meta["set"], s.response) for s in samples] == [
        ("set0", "a photo of a one."),
        ("set2", "a photo of a blotchy."),
    ]


def test_a_registry_names_the_index_files(raw: Raw) -> None:
    registry = [
        {"name": name, "root_folder": f"classification/{name}_20211007", "train": {"index_path": "train_ic.txt"}}
        for name in ("pets", "shapes", "other")
    ]
    for name in ("pets", "shapes"):
        home = set_folder(raw, f"classification/{name}_20211007", "train.zip", "1.png")
        (home / "train_ic.txt").write_text("train.zip@1.png 1\n")
    given = [*files(raw), raw.json("vision_datasets.json", registry)]
    samples, quarantined = raw.read("elevater_ic", *given, split="train")
    assert quarantined == [] and [s.meta["set"] for s in samples] == ["pets", "shapes"]
    assert samples[0].images != samples[1].images
    assert [s.meta["set"] for s in raw.read("elevater_ic", *given, split="train", dataset="shapes")[0]] == ["shapes"]
    config = raw.text("pets.yaml", "DATASET:\n  DATASET: 'pets'\n  ROOT: '../DATASET/pets/'\n")
    assert [s.meta["set"] for s in raw.read("elevater_ic", *given, config, split="train")[0]] == ["pets"]
    with pytest.raises(SourceError, match="no val index of pets, shapes, other"):
        raw.read("elevater_ic", *given, split="val")
    with pytest.raises(SourceError, match="no train index of other"):
        raw.read("elevater_ic", *given, split="train", dataset="other")
    (raw.images / "train_ic.txt").write_text("classification/pets_20211007/made/0.png 1\n")
    assert len(raw.read("elevater_ic", *given, split="train")[0]) == 2  # the index in no folder is of no set,
    assert len(raw.read("elevater_ic", *given, split="train", dataset="pets")[0]) == 1
    class_map = raw.json("more.json", {"other": ["a", "b"]})  # except of the only one that is wanted
    assert len(raw.read("elevater_ic", *given, class_map, split="train", dataset="other")[0]) == 1
    registry[0]["train"]["index_path"] = "../../../out.txt"  # type: ignore[index]
    raw.json("vision_datasets.json", registry)
    with pytest.raises(SourceError, match="leads out of the image folder"):
        raw.read("elevater_ic", *given, split="train")


def test_a_configuration_alone_names_a_set_and_its_folder(raw: Raw) -> None:
    home = set_folder(raw, "pets-v1", "train.zip", "1.png")
    (home / "val.txt").write_text("train.zip@1.png 0\n")
    config = raw.text("p.yml", "DATASET:\n  DATASET: 'pets'\n  ROOT: '../DATASET/pets-v1/'\n")
    samples, _ = raw.read("elevater_ic", *files(raw), config)
    assert samples[0].response == "a photo of a cat, a type of pet."
    for content in ("DATASET: 5", "[", "x: &a [*a]", "DATASET: {DATASET: 5}"):
        with pytest.raises(SourceError, match="as the toolkit's"):
            raw.read("elevater_ic", *files(raw), raw.text("p.yml", content))
    for registry in ([5], [{"name": "x"}], [{"name": 5, "root_folder": "x"}]):
        with pytest.raises(SourceError, match="'name' and 'root_folder'"):
            raw.read("elevater_ic", *files(raw), raw.json("vision_datasets.json", registry))


def test_files_of_another_shape_are_a_clear_error(raw: Raw) -> None:
    for name, content in (("a.json", {"shapes": "circle"}), ("a.json", [1]), ("a.tsv", {"shapes": []})):
        with pytest.raises(SourceError, match=r"a list|an object"):
            raw.read("elevater_ic", raw.json(name, content))
    with pytest.raises(SourceError, match="no index file"):
        raw.read("elevater_ic", files(raw)[0])


def test_every_real_knowledge_file_is_read(real: Any) -> None:
    kinds = {"external": "{}_knowledge.tsv", "gpt3": "GPT3_{}.tsv"}
    names = ("cifar-10", "fer-2013", "mnist", "fgvc-aircraft-2013b-variants102")
    paths = [
        f"elevater_ic/knowledge/{kind}/{pattern.format(name)}" for kind, pattern in kinds.items() for name in names
    ]
    _, quarantined = real("elevater_ic", "elevater_ic/images", "elevater_ic/class_map.json", *paths)
    assert quarantined == []
