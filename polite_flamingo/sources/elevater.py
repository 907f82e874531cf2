"""ELEVATER image classification: a class name in one of CLIP's prompt templates, then external knowledge of the class.

Images come in either of two ways:

- an index file (`train.txt`): `train.zip@1.jpg 3` or `folder/1.jpg 3,7` a line, classes counted from 0, several for
  multi-label sets; the zip or folder lies in the image folder;
- without one, the files of the image folder named `DATASET-clsINDEX-idxNUMBER-CLASS.png`, as the authors of PF-1M
  dumped them.

Class names, templates and knowledge are told apart by their content, and belong to a data set by their name
(`X_knowledge.tsv`, `GPT3_X.tsv`). The knowledge files are JSON arrays whatever their `.tsv` says. It is quoted as it
stands, and can be of another sense of the word (the aircraft "Tornado" is explained as a storm).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polite_flamingo.images import EXTENSIONS
from polite_flamingo.sample import BadSample, Sample, Turn
from polite_flamingo.sources.base import Context, Place, Source, SourceOptions
from polite_flamingo.sources.instructions import instruction
from polite_flamingo.sources.reading import (
    ImageFolder,
    SourceError,
    as_text,
    entry,
    file_name,
    identity,
    load_json,
    read_text,
    text,
    texts,
)
from polite_flamingo.sources.responses import class_response, distinct
from polite_flamingo.sources.shelf import Shelf

NAME = "elevater_ic"
TEMPLATE = "a photo of a {}."
"""CLIP's own, where template_map.json has none for the data set."""

_INDEX_LINE = re.compile(r"(?P<image>.+?)\s+(?P<labels>\d{1,6}(,\d{1,6})*)")
_DUMPED = re.compile(r"(?P<dataset>.+)-cls(?P<label>\d{1,6})-idx\d+-.*\.(png|jpg|jpeg)", re.IGNORECASE)


@dataclass(kw_only=True)
class _Files:
    """What the annotation files hold, by data set."""

    classes: dict[str, list[Any]] = field(default_factory=dict)
    templates: dict[str, list[Any]] = field(default_factory=dict)
    external: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    gpt3: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    labelmap: list[str] = field(default_factory=list)
    indices: list[tuple[str, list[str]]] = field(default_factory=list)


def records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
    """The lines of the index files, or the images of the folder, as {set, line, classes, template, facts}.

    Also malformed entries of knowledge files.
    """
    files = _Files()
    for path in options.annotations:
        yield from _load(path, files)
    if files.indices:
        dataset = options.extra.get("dataset") or _only_dataset(files)
        for name, lines in files.indices:
            place = Place(file=name, part="lines")
            for number, line in enumerate(lines):
                if line.strip():
                    yield place, number, _record(files, dataset, line, dumped=False)
        return
    root = ImageFolder.of(options.images).root
    assert root is not None
    items = (item for item in root.iterdir() if item.suffix.lower().lstrip(".") in EXTENSIONS)
    names = sorted(file_name(item) for item in items)
    if not names:
        raise SourceError(f"{root} holds no images and no index file is given: pass train.txt, or dumped images")
    for number, name in enumerate(names):
        yield Place(file=root.name, part="images"), number, _record(files, "", name, dumped=True)


def _record(files: _Files, dataset: str, line: str, *, dumped: bool) -> dict[str, Any] | BadSample:
    """What the files say of an image; of the templates and of GPT-3's sentences one is chosen by the image."""
    try:
        dataset, image_name, labels = _parse(None if dumped else dataset, line)
        name = image_name.rsplit(".", 1)[0]
        original_id = identity({"image": name if dumped else f"{dataset}-{name}"}, "image")
        classes = [_class_name(files, dataset, label) for label in labels]
        templates = [one for one in files.templates.get(dataset, []) if isinstance(one, str) and "{}" in one]
        template = as_text(_choose(templates or [TEMPLATE], original_id), "a template")
        facts = [fact for name in classes for fact in _knowledge(files, dataset, name, original_id)]
    except BadSample as bad:
        return bad
    return {"id": original_id, "set": dataset, "image": image_name, "classes": classes, "template": template,
            "facts": facts}  # fmt: skip


def build(key: str, record: dict[str, Any], context: Context) -> Sample:
    """One image, one sample."""
    archive, at, member = record["image"].partition("@")
    image, _ = context.images.read_from_zip(archive, member) if at else context.images.read(record["image"])
    response = class_response(" and ".join(record["classes"]), record["template"], record["facts"])
    return Sample(
        key=key,
        dataset=NAME,
        task="classification",
        turns=(Turn(instruction=instruction("classification", key), response=response),),
        images=(image,),
        meta={"set": record["set"], "classes": record["classes"], "image_id": record["image"]},
    )


def _load(path: Path, files: _Files) -> Iterator[tuple[Place, int, BadSample]]:
    """Put one annotation file where it belongs; yield its malformed entries."""
    if path.suffix == ".txt":
        lines = read_text(path).splitlines()
        if "label" in path.stem:
            files.labelmap = [line.strip() for line in lines if line.strip()]
        else:
            files.indices.append((path.name, lines))
    elif path.suffix == ".tsv":
        dataset = path.stem.removesuffix("_knowledge").removeprefix("GPT3_")
        for number, knowledge in enumerate(load_json(path, list)):
            try:
                name = text(entry(knowledge), "classname")
                if "gpt3" in knowledge:
                    files.gpt3[dataset, name] = texts(knowledge, "gpt3")
                elif "def_wiki" in knowledge or "def_wn" in knowledge:  # either may be null or ""
                    given = [text(knowledge, part) for part in ("def_wiki", "def_wn") if knowledge.get(part)]
                    files.external[dataset, name] = given
                else:
                    raise BadSample("bad_field", f"class {name[:60]!r} has none of 'def_wiki', 'def_wn', 'gpt3'")
            except BadSample as bad:
                yield Place(file=path.name, part="classes"), number, bad
    else:
        for dataset, values in load_json(path, dict).items():
            if not isinstance(values, list):
                raise SourceError(f"{path}: {dataset[:60]!r} must be a list of class names or of templates")
            is_template = any(isinstance(value, str) and "{}" in value for value in values)
            (files.templates if is_template else files.classes)[dataset] = values


def _only_dataset(files: _Files) -> str:
    names = {name for name, _ in files.external} | {name for name, _ in files.gpt3}
    names = names or set(files.classes) or {""}
    if len(names) > 1:
        raise SourceError(f"which data set is it: {', '.join(sorted(names))[:200]}? Pass --extra dataset=NAME")
    return names.pop()


def _parse(dataset: str | None, line: str) -> tuple[str, str, list[int]]:
    """Data set, image name and class indices of an index line, or (`dataset` is None) of a dumped image's name."""
    if dataset is None:
        if not (dumped := _DUMPED.fullmatch(line)):
            raise BadSample("bad_field", f"{line[:80]!r} is not named DATASET-clsINDEX-idxNUMBER-CLASS.png")
        return dumped["dataset"], line, [int(dumped["label"])]
    match = _INDEX_LINE.fullmatch(line.strip())
    if match is None:
        raise BadSample("bad_field", f"expected '<image> <class>[,<class>]', found {line[:80]!r}")
    return dataset, match["image"], [int(label) for label in match["labels"].split(",")]


def _class_name(files: _Files, dataset: str, label: int) -> str:
    names = files.classes.get(dataset) or files.labelmap
    if not names:
        raise BadSample("missing_annotation", f"no class names of {dataset!r}: pass class_map.json or labels.txt")
    if label >= len(names):
        raise BadSample("bad_field", f"class {label} of {dataset!r}, which has {len(names)} (counted from 0)")
    name = as_text(names[label], f"class {label} of {dataset!r}")
    if not name:
        raise BadSample("empty_response", f"class {label} of {dataset!r} has an empty name")
    return name


def _knowledge(files: _Files, dataset: str, name: str, key: str) -> list[str]:
    """Wikipedia's and WordNet's definitions, and one of GPT-3's sentences (chosen by the key), as far as there are."""
    found = list(files.external.get((dataset, name), []))
    sentences = distinct(files.gpt3.get((dataset, name), []))
    return found + ([_choose(sentences, key)] if sentences else [])


def _choose(options: list[str], key: str) -> str:
    digest = hashlib.sha256(f"elevater {key}".encode()).digest()
    return options[int.from_bytes(digest[:8], "big") % len(options)]


SOURCE = Source(
    name=NAME,
    title="ELEVATER image classification",
    use="PF-1M",
    task="classification",
    category="classification",
    files="class_map.json (or labels.txt), template_map.json, X_knowledge.tsv, GPT3_X.tsv, an index such as train.txt",
    published="computer-vision-in-the-wild.github.io/ELEVATER",
    licence="MIT (the toolkit); each set its own",
    evidence="real file",
    adopted=21_772,
    records=records,
    identify=lambda record: record["id"],
    build=build,
    extra={"dataset": "the data set that the index files belong to, where the knowledge files do not tell"},
)
