"""What ELEVATER's files say about its sets: class names, prompt templates, knowledge, and the index files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import as_object, as_text, text_field, text_list
from polite_flamingo.sources.reading.small_files import read_text
from polite_flamingo.sources.reading.streaming import elements, is_list, members
from polite_flamingo.sources.records.responses import distinct
from polite_flamingo.sources.records.source import Place

TEMPLATE = "a photo of a {}."
"""CLIP's own template, used if template_map.json has none for the set."""

SETS = (
    "caltech-101", "cifar-10", "cifar-100", "country211", "dtd", "eurosat_clip", "fer-2013",
    "fgvc-aircraft-2013b-variants102", "food-101", "gtsrb", "hateful-memes", "kitti-distance", "mnist",
    "oxford-flower-102", "oxford-iiit-pets", "patch-camelyon", "rendered-sst2", "resisc45_clip", "stanford-cars",
    "voc-2007-classification", "imagenet-1k",
)  # fmt: skip
"""The sets, as vision_datasets.json and class_map.json spell them."""

_ALIASES = {
    "fgvcaircraft2013b": "fgvc-aircraft-2013b-variants102",
    "flower102": "oxford-flower-102",
    "stanfordcar": "stanford-cars",
    "voc2007": "voc-2007-classification",
}
COCO_LISTS = ("images", "annotations", "categories")


def set_name(spelt: str) -> str:
    """Return the usual spelling of a set, folder, .yaml or knowledge file; an unknown one only loses its date."""
    bare = re.sub(r"[-_](20\d{6}|v\d)$", "", spelt)
    return _SPELT.get(_letters(bare), bare)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_SPELT = {_letters(name): name for name in SETS} | _ALIASES


@dataclass(kw_only=True)
class ElevaterFiles:
    """What the annotation files hold, by data set."""

    classes: dict[str, list[Any]] = field(default_factory=dict)
    templates: dict[str, list[Any]] = field(default_factory=dict)
    external: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    gpt3: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    labelmaps: dict[str, list[str]] = field(default_factory=dict)
    registered: dict[str, dict[str, Any]] = field(default_factory=dict)
    configured: list[str] = field(default_factory=list)
    folders: dict[str, str] = field(default_factory=dict)
    indices: list[Path] = field(default_factory=list)

    def known(self) -> set[str]:
        """The sets for which there are any data."""
        return {*self.classes, *self.registered, *self.configured, *(name for name, _ in [*self.external, *self.gpt3])}

    def set_of(self, path: Path) -> str:
        """Return the set that a file's folder is named after, or ""."""
        known = {*SETS, *self.known()}
        for folder in path.resolve().parents[:2]:
            name = self.folders.get(folder.name) or set_name(folder.name)
            if name in known:
                return name
        return ""


def load_file(path: Path, files: ElevaterFiles) -> Iterator[tuple[Place, int, BadSample]]:
    """Load one annotation file into `files`; yield its malformed entries."""
    if path.suffix == ".txt":
        if "label" in path.stem:
            files.labelmaps[files.set_of(path)] = [
                line.strip() for line in read_text(path).splitlines() if line.strip()
            ]
        else:
            files.indices.append(path)
    elif path.suffix == ".tsv":
        dataset = set_name(path.stem.removesuffix("_knowledge").removeprefix("GPT3_"))
        for number, knowledge in enumerate(elements(path)):
            try:
                name = text_field(as_object(knowledge), "classname")
                if "gpt3" in knowledge:
                    files.gpt3[dataset, name] = text_list(knowledge, "gpt3")
                elif "def_wiki" in knowledge or "def_wn" in knowledge:  # either may be null or ""
                    given = [text_field(knowledge, part) for part in ("def_wiki", "def_wn") if knowledge.get(part)]
                    files.external[dataset, name] = given
                else:
                    raise BadSample("bad_field", f"class {name[:60]!r} has none of 'def_wiki', 'def_wn', 'gpt3'")
            except BadSample as bad:
                yield Place(file=path.name, part="classes"), number, bad
    elif path.suffix in (".yaml", ".yml"):
        _load_yaml(path, files)
    elif is_list(path):
        for given in elements(path):
            _register(path, given, files)
    else:
        named: dict[str, list[Any]] = {}
        odd = ""
        for name, values in members(path):
            if name in COCO_LISTS and isinstance(values, Iterator):
                files.indices.append(path)
                return
            if isinstance(values, Iterator):
                named[set_name(name)] = list(values)
            else:
                odd = name
        if odd:
            raise SourceError(f"{path}: {odd[:60]!r} must be a list of class names or of templates")
        for name, values in named.items():
            is_template = any(isinstance(value, str) and "{}" in value for value in values)
            (files.templates if is_template else files.classes)[name] = values


def _load_yaml(path: Path, files: ElevaterFiles) -> None:
    """Load the toolkit's configuration of a set: `DATASET: {DATASET: name, ROOT: folder}`."""
    try:
        given = as_object(as_object(yaml.safe_load(read_text(path))).get("DATASET"))
        name, root = text_field(given, "DATASET"), text_field(given, "ROOT") if "ROOT" in given else ""
    except (yaml.YAMLError, BadSample, RecursionError):
        raise SourceError(
            f"{path}: expected an object with DATASET: DATASET and ROOT, as the toolkit's .yaml"
        ) from None
    files.configured.append(set_name(name))
    files.folders[PurePosixPath(root).name] = set_name(name)


def _register(path: Path, given: Any, files: ElevaterFiles) -> None:
    """Load an entry of vision_datasets.json: name, root_folder, and for each split its index_path."""
    try:
        name, root = text_field(as_object(given), "name"), text_field(given, "root_folder")
    except BadSample as bad:
        raise SourceError(f"{path}: expected a list of objects with 'name' and 'root_folder' ({bad.detail})") from None
    files.registered[set_name(name)] = given
    files.folders[PurePosixPath(root).name] = set_name(name)


def class_name(files: ElevaterFiles, dataset: str, label: int) -> str:
    """Return the first name of a class. Raises `BadSample` if no file names it."""
    names = files.classes.get(dataset) or files.labelmaps.get(dataset) or files.labelmaps.get("")
    if not names:
        raise BadSample("missing_annotation", f"no class names of {dataset!r}: pass class_map.json or labels.txt")
    if label >= len(names):
        raise BadSample("bad_field", f"class {label} of {dataset!r}, which has {len(names)} (counted from 0)")
    value = names[label]
    name = as_text(value[0] if isinstance(value, list) and value else value, f"class {label} of {dataset!r}")
    if not name:
        raise BadSample("empty_response", f"class {label} of {dataset!r} has an empty name")
    return name


def facts_about(files: ElevaterFiles, dataset: str, name: str, key: str) -> list[str]:
    """List Wikipedia's and WordNet's definitions, and one of GPT-3's sentences (chosen by the key), if there are."""
    found = list(files.external.get((dataset, name), []))
    sentences = distinct(files.gpt3.get((dataset, name), []))
    return found + ([choose_by_key(sentences, key)] if sentences else [])


def choose_by_key(options: list[str], key: str) -> str:
    """Choose one of the options; the choice depends only on the key."""
    digest = hashlib.sha256(f"elevater {key}".encode()).digest()
    return options[int.from_bytes(digest[:8], "big") % len(options)]
