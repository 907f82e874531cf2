"""ELEVATER image classification: a class name in one of CLIP's prompt templates, then external knowledge of the class.

Images come in any of three ways:

- index files (`train.txt`): lines such as `train.zip@1.jpg 3` or `folder/1.jpg 3,7`, classes counted from 0, several
  for multi-label sets; or (`train.json`) COCO's `images`, `annotations` and `categories`, as three of the sets have;
- `vision_datasets.json` (or a set's .yaml), which names the index files: those that are in the image folder are read;
- without either, the files of the image folder named `DATASET-clsINDEX-idxNUMBER-CLASS.png`, as the authors of PF-1M
  dumped them.

Zips and folders of images lie beside their index in the image folder, or directly in it. Several sets may be read at
once: an index belongs to the set that its folder is named after. The toolkit spells its sets in several ways
(`resisc45_clip`, `resisc45-clip`, `resisc45_clip_20210924`), which `set_name` brings to one.

Class names, templates and knowledge are told apart by their content, and belong to a set by their name
(`X_knowledge.tsv`, `GPT3_X.tsv`). The knowledge files are JSON arrays whatever their `.tsv` says. They are quoted
unchanged, and may explain another sense of the word (the aircraft "Tornado" is explained as a storm). If a class has
several names (fer-2013), the first is used: the knowledge is filed under it.

Rows in: the lines, images or dumped files, and malformed entries of the knowledge and COCO files. With `per_class`, the
lines that are not chosen do not count as rows; a multi-label image is chosen by any of its classes.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polite_flamingo.images.decoding import EXTENSIONS
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.sources.datasets.elevater_files import (
    COCO_LISTS,
    TEMPLATE,
    ElevaterFiles,
    choose_by_key,
    class_name,
    facts_about,
    load_file,
    set_name,
)
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import (
    as_object,
    as_text,
    id_field,
    required,
    text_field,
    text_list,
    usable_id,
    verbatim,
)
from polite_flamingo.sources.reading.image_folder import ImageFolder
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.small_files import files_in, printable_name
from polite_flamingo.sources.reading.streaming import lines, lists_in
from polite_flamingo.sources.records.instructions import instruction
from polite_flamingo.sources.records.responses import class_response
from polite_flamingo.sources.records.source import Context, Place, Records, Source, SourceOptions, one_turn

LABELS = re.compile(r"\d{1,6}(,\d{1,6})*")
_DUMPED = re.compile(r"(?P<dataset>.+)-cls(?P<label>\d{1,6})-idx\d+-.*\.(png|jpg|jpeg)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class _Line:
    """An image of a set, before its classes have names; `digest` decides whether `per_class` chooses it."""

    set: str
    image: str
    labels: list[int]
    id: str

    @property
    def digest(self) -> int:
        return int.from_bytes(hashlib.sha256(f"elevater per_class {self.id}".encode()).digest()[:8], "big")


@dataclass(frozen=True, kw_only=True)
class _Index:
    """A file of lines, or whatever else lists images; `lines` reads it again each time it is called."""

    place: Place
    lines: Callable[[], Iterator[tuple[int, _Line | BadSample]]]
    folders: list[str] = field(default_factory=list)


def records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the images as {id, set, image, folders, classes, template, facts}, and malformed entries of other files."""
    files = ElevaterFiles()
    paths = [
        one for path in options.annotations for one in (files_in(path, ".tsv", scratch) if path.is_dir() else [path])
    ]
    for path in sorted(paths, key=lambda path: path.suffix == ".txt"):  # last: others name their sets
        yield from load_file(path, files)
    images = ImageFolder.of(options.images)
    paths = files.indices or _registered(files, images, options)
    if paths:
        indices = []
        for number, path in enumerate(paths):
            repeated = sum(path.name == other.name for other in paths) > 1
            name = f"{printable_name(path.parent)}/{printable_name(path)}" if repeated else printable_name(path)
            dataset = set_name(options.extra.get("dataset", "")) or files.set_of(path) or _only_dataset(files)
            folders = _folders(path.resolve().parent, dataset, files, images)
            if path.suffix == ".txt":
                read = functools.partial(_lines, path, dataset)
                indices.append(_Index(place=Place(file=name, part="lines"), lines=read, folders=folders))
            else:
                yield from _put_coco(path, Place(file=name, part="annotations"), str(number), dataset, files, scratch)
                listed = functools.partial(_coco_lines, str(number), dataset, scratch)
                indices.append(_Index(place=Place(file=name, part="images"), lines=listed, folders=folders))
    else:
        indices = [_dumped(images)]
    chosen = _chooser(indices, options.extra.get("per_class"))
    for index in indices:
        for number, line in index.lines():
            if isinstance(line, BadSample):
                yield index.place, number, line
            elif chosen(line):
                yield index.place, number, _record(files, line, index.folders)


def _record(files: ElevaterFiles, line: _Line, folders: list[str]) -> dict[str, Any] | BadSample:
    """Gather what the files say about an image, which also chooses one template and one of GPT-3's sentences."""
    try:
        classes = [class_name(files, line.set, label) for label in line.labels]
        templates = [one for one in files.templates.get(line.set, []) if isinstance(one, str) and "{}" in one]
        template = as_text(choose_by_key(templates or [TEMPLATE], line.id), "a template")
        facts = [fact for name in classes for fact in facts_about(files, line.set, name, line.id)]
    except BadSample as bad:
        return bad
    return {"id": line.id, "set": line.set, "image": line.image, "folders": folders, "classes": classes,
            "template": template, "facts": facts}  # fmt: skip


def build(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of an image."""
    name, classes = verbatim(required(record, "image"), "field 'image'"), text_list(record, "classes")
    archive, at, member = name.partition("@")
    places = [f"{folder}/{archive}" for folder in text_list(record, "folders")] + [archive]
    if at:
        path = context.images.locate(*places)
        assert context.images.root is not None  # else `locate` has raised
        image, _ = context.images.read_from_zip(path.relative_to(context.images.root).as_posix(), member)
    else:
        image, _ = context.images.read(*places)
    response = class_response(" and ".join(classes), text_field(record, "template"), text_list(record, "facts"))
    meta = {"set": text_field(record, "set"), "classes": classes, "image_id": name}
    return one_turn(key, "classification", instruction("classification", key), response, [image], meta)


def _registered(files: ElevaterFiles, images: ImageFolder, options: SourceOptions) -> list[Path]:
    """List the index files of the wanted sets that are in the image folder."""
    split = options.split or "train"
    wanted = files.configured or list(files.registered)
    if wanted and "dataset" in options.extra:
        wanted = [set_name(options.extra["dataset"])]
    found = []
    for dataset in wanted:
        part = files.registered.get(dataset, {split: {"index_path": f"{split}.txt"}}).get(split)
        index = part.get("index_path") if isinstance(part, dict) else None
        places = [*_folders(None, dataset, files, images), *([""] if len(wanted) == 1 else [])]
        if not isinstance(index, str) or not places:
            continue
        try:
            found.append(images.locate(*(f"{place}/{index}".lstrip("/") for place in places)))
        except BadSample as bad:
            if bad.reason != "missing_image":
                raise SourceError(f"the index of {dataset}: {bad.detail}") from None
    if wanted and not found:
        raise SourceError(f"{images.root} holds no {split} index of {', '.join(wanted)[:200]}: pass train.txt")
    return found


def _folders(home: Path | None, dataset: str, files: ElevaterFiles, images: ImageFolder) -> list[str]:
    """List where a set's images may lie: folders in the image folder, that of the index (`home`) first."""
    assert images.root is not None
    named = [name for name, belongs in files.folders.items() if belongs == dataset]
    places = [str(files.registered.get(dataset, {}).get("root_folder", "")), *named, dataset]
    if home is not None:
        root = images.root.resolve()
        places = [home.relative_to(root).as_posix() if home.is_relative_to(root) else home.name, *places]
    return [place for place in dict.fromkeys(places) if place not in ("", ".") and (images.root / place).is_dir()]


def _only_dataset(files: ElevaterFiles) -> str:
    names = {name for name, _ in files.external} | {name for name, _ in files.gpt3}
    names = names or set(files.classes) or {""}
    if len(names) > 1:
        raise SourceError(f"which data set is it: {', '.join(sorted(names))[:200]}? Pass --extra dataset=NAME")
    return names.pop()


def _lines(path: Path, dataset: str) -> Iterator[tuple[int, _Line | BadSample]]:
    """Yield the lines of an index file; blank ones are skipped."""
    for number, line in enumerate(lines(path)):
        parts = line.strip().rsplit(maxsplit=1)
        if len(parts) == 2 and LABELS.fullmatch(parts[1]):
            yield number, _line(dataset, parts[0], [int(label) for label in parts[1].split(",")])
        elif parts:
            shown = line[:80].encode("utf-8", "replace").decode()
            yield number, BadSample("bad_field", f"expected '<image> <class>[,<class>]', found {shown!r}")


def _line(dataset: str, image: str, labels: Iterable[int], original_id: str = "") -> _Line | BadSample:
    """Make a line with its id: the set's name, then the image's without its extension."""
    try:
        verbatim(image, "the image's name")
        original_id = id_field({"image": original_id or f"{dataset}-{image.rsplit('.', 1)[0]}"}, "image")
    except BadSample as bad:
        return bad
    return _Line(set=dataset, image=image, labels=list(dict.fromkeys(labels)), id=original_id)


def _dumped(images: ImageFolder) -> _Index:
    """Make an index of the dumped images in the folder, by name."""
    assert images.root is not None
    items = (item for item in images.root.iterdir() if item.suffix.lower().lstrip(".") in EXTENSIONS)
    names = sorted(printable_name(item) for item in items)
    if not names:
        raise SourceError(f"{images.root} holds no images and no index file is given: pass train.txt, or dumped images")

    def parsed() -> Iterator[tuple[int, _Line | BadSample]]:
        for number, name in enumerate(names):
            if match := _DUMPED.fullmatch(name):
                yield number, _line(set_name(match["dataset"]), name, [int(match["label"])], name.rsplit(".", 1)[0])
            else:
                yield number, BadSample("bad_field", f"{name[:80]!r} is not named DATASET-clsINDEX-idxNUMBER-CLASS.png")

    return _Index(place=Place(file=images.root.name, part="images"), lines=parsed)


def _put_coco(
    path: Path, place: Place, part: str, dataset: str, files: ElevaterFiles, scratch: Scratch
) -> Iterator[tuple[Place, int, BadSample]]:
    """Store an index in COCO's format; yield unusable annotations and categories."""
    categories: dict[int, str] = {}
    labelled: list[tuple[Place, int, BadSample]] = []
    for name, values in lists_in(path, *COCO_LISTS):
        for number, record in enumerate(values):
            try:
                if name == "images":
                    scratch.put(f"images {part}", usable_id(record, "id") or "", [number, record])
                elif name == "categories":
                    category = _whole(as_object(record), "id")
                    categories[category] = text_field(record, "name")
                else:
                    image_id = id_field(as_object(record), "image_id")
                    scratch.put(f"labels {part}", image_id, [number, _whole(record, "category_id")])
            except BadSample as bad:
                labelled.append((Place(file=place.file, part=name), number, bad))
    yield from labelled
    order = {category: label for label, category in enumerate(sorted(categories))}
    scratch.put(f"order {part}", "", list(order.items()))
    files.classes.setdefault(dataset, [categories[category] for category in order])
    for image_id, (number, category) in scratch.items(f"labels {part}"):
        if category not in order:
            yield place, number, BadSample("bad_field", f"category {category} is not one of the file's {len(order)}")
        elif not scratch.has(f"images {part}", image_id):
            yield place, number, BadSample("missing_annotation", f"image {image_id} of this label is not listed")


def _whole(record: dict[str, Any], name: str) -> int:
    value = required(record, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadSample("bad_field", f"field {name!r} must be a whole number, not {type(value).__name__}")
    return value


def _coco_lines(part: str, dataset: str, scratch: Scratch) -> Iterator[tuple[int, _Line | BadSample]]:
    """Yield the images with their labels: the places of their categories in the order of ids, which begin at 1."""
    (found,) = scratch.get(f"order {part}", "")
    order = dict(found)
    for image_id, (number, record) in scratch.items(f"images {part}"):
        try:
            name = verbatim(required(as_object(record), "file_name"), "field 'file_name'")
            id_field(record, "id")
            archive = text_field(record, "zip_file") if record.get("zip_file") else ""
            labels = [order[category] for _, category in scratch.get(f"labels {part}", image_id) if category in order]
            if not labels:
                raise BadSample("missing_annotation", "the image has no label")
            yield number, _line(dataset, f"{archive}@{name}" if archive else name, labels)
        except BadSample as bad:
            yield number, bad


def _chooser(indices: list[_Index], per_class: str | None) -> Callable[[_Line], bool]:
    """Make a test of lines: whether one is among the `per_class` of one of its classes with the lowest hashes."""
    if per_class is None:
        return lambda line: True
    if not re.fullmatch("[1-9][0-9]{0,8}", per_class):
        raise SourceError(f"--extra per_class={per_class[:20]!r} must be a number of images, such as 32")
    wanted = int(per_class)
    lowest: dict[tuple[str, int], list[int]] = {}
    for index in indices:
        for _, line in index.lines():
            if isinstance(line, BadSample):
                continue
            for label in line.labels:
                digests = lowest.setdefault((line.set, label), [])
                if line.digest not in digests:
                    bisect.insort(digests, line.digest)
                    del digests[wanted:]
    return lambda line: any(line.digest <= lowest[line.set, label][-1] for label in line.labels)


SOURCE = Source(
    name="elevater_ic",
    title="ELEVATER image classification",
    use="PF-1M",
    task="classification",
    files="class_map.json (or labels.txt), template_map.json, X_knowledge.tsv, GPT3_X.tsv (or their folders), "
    "train.txt (or vision_datasets.json)",
    published="computer-vision-in-the-wild.github.io/ELEVATER",
    licence="MIT (the toolkit); each set its own",
    evidence="real file",
    adopted=21_772,
    records=records,
    identify=lambda record: id_field(as_object(record), "id"),
    build=build,
    extra={
        "dataset": "the set that index files belong to, where their folder does not tell, or the only one to read",
        "per_class": "images of each class, chosen by the hash of their names; 32 in the paper (default: all)",
    },
)
