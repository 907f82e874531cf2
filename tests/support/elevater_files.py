"""ELEVATER's files in tests: annotation files, a set's folder with a zip, an index in COCO's format."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from tests.support.raw_dataset import Raw


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


def set_folder(raw: Raw, folder: str, archive: str, *members: str) -> Path:
    """Make a folder in the image folder with a zip of pictures, each of another size."""
    home = raw.images / folder
    home.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(home / archive, "w") as packed:
        for number, member in enumerate(members):
            packed.writestr(member, raw.image(f"{folder}/made/{number}.png", width=10 + number + len(folder)))
    return home


def coco_index(*, images: list[Any], annotations: list[Any], categories: list[Any]) -> dict[str, Any]:
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}
