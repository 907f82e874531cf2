"""Export kept samples as the JSON files that trainers read: records of PF-1M and of LLaVA, and their images.

    OUT/images/NAME/0f3a….jpg   images of shard NAME, unchanged, named by content
    OUT/pf1m.json               records as in the published dataset, one per turn; its converters ask for the root of
                                the paths: OUT
    OUT/llava.json              records for LLaVA, and with OUT/dataset_info.json for LLaMA-Factory ("sharegpt")

Images are written shard by shard (`export_images`). Records go straight into the two files, which are there when the
last shard's are in (`exporting_records`): nothing is written twice, or renamed in a bucket. Running them again gives
the same files; images of an earlier selection go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

from polite_flamingo.conversations import parts_of, polite_text, polite_turns
from polite_flamingo.images.digest import file_name
from polite_flamingo.sample import IMAGE_MARK, Image, Sample, unmarked
from polite_flamingo.storage.disk import sweep_temporary
from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.location import Location
from polite_flamingo.text_files import is_writable

MARKER = "<img_path>"
"""Stands before and after an image's path in a published record; there is no closing form with a slash."""

Records = Mapping[str, str]
"""Records of one shard: "pf1m" and "llava" -> JSON lines."""

IMAGE_WRITERS = 8
"""Images of a shard that are written at once."""

DATASET_INFO: dict[str, Any] = {
    "pf1m": {
        "file_name": "llava.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "images": "images"},
        "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"},
    }
}
"""The description of `llava.json` for LLaMA-Factory."""


def pf1m_record(sample: Sample, images: Sequence[str]) -> dict[str, Any]:
    """Return a kept sample of one turn as a record of the published dataset.

    Args:
        sample: a selected sample, or a part of a selected conversation (`parts_of`), whose scores are finite and whose
            removed paragraphs are noted.
        images: path of each image, relative to the folder of the file.
    """
    scores = sample.scores
    record: dict[str, Any] = {
        "input": _with_paths(sample.instruction, images),
        "output": _without_marker(sample.rewritten or ""),
        "original": sample.response,
        "rouge_score": scores["rouge_l"],
    }
    if scores.get("nli") is not None:  # None: its model does not know the language
        record["nli_similarity"] = list(scores["nli"])
    if scores.get("sts") is not None:
        record["sts_similarity"] = scores["sts"]
    if "paragraph_clip_scores" in scores:
        record["filtered_paragraphs"] = [[score, text] for score, text in scores["filtered_paragraphs"]]
        record["paragraph_clip_scores"] = list(scores["paragraph_clip_scores"])
    record["reward"] = scores["reward"]
    return record


def llava_record(sample: Sample, images: Sequence[str]) -> dict[str, Any]:
    """Return a kept sample as a record for LLaVA and LLaMA-Factory.

    `images` lists all paths, for LLaMA-Factory. LLaVA reads the one path in `image`, which is there only if there is
    exactly one image; a trainer for one image per conversation should skip records with several `images`.
    """
    record: dict[str, Any] = {"id": sample.key}
    if len(images) == 1:
        record["image"] = images[0]
    record["images"] = list(images)
    record["conversations"] = [
        {"from": role, "value": text}
        for turn in polite_turns(sample)
        for role, text in (("human", _marks_in_a_line(turn.instruction)), ("gpt", unmarked(polite_text(turn))))
    ]
    return record


def _marks_in_a_line(instruction: str) -> str:
    """Put the image marks at the beginning of an instruction into a line of their own, as LLaVA has them."""
    return re.sub(rf"^((?:{IMAGE_MARK})+)\s*", lambda match: match[1] + "\n", instruction)


def export_images(samples: Sequence[Sample], *, out: Location, name: str) -> None:
    """Write the images of one shard's kept samples that are not there yet; remove others.

    Args:
        samples: kept samples.
        out: the output folder.
        name: the shard's name.
    """
    folder = out / "images" / name
    wanted = {(folder / file_name(image)).key: image for sample in samples for image in sample.images}
    if folder.local is not None:
        sweep_temporary(folder.local)  # of killed selections; to look through all images would take minutes
    there = {entry.key: entry.size for entry in folder.entries()}
    missing = [(key, image) for key, image in wanted.items() if there.get(key) != len(image.data)]

    def write(file: tuple[str, Image]) -> None:
        key, image = file
        with Location(folder.store, key).writer(sync=False) as opened:  # syncing a million images would take hours
            opened.write(image.data)

    for _ in in_order(write, missing, IMAGE_WRITERS):
        pass
    folder.store.delete(there.keys() - wanted.keys())


def forget_images(out: Location, name: str) -> None:
    """Remove the images of one shard."""
    (out / "images" / name).delete_tree()


def records_of(samples: Sequence[Sample], name: str) -> Records:
    """Return the records of one shard's kept samples, in order, with the paths of their images."""
    lines: dict[str, list[str]] = {"pf1m": [], "llava": []}
    for sample in samples:
        paths = [f"images/{name}/{file_name(image)}" for image in sample.images]
        parts = [part for part in parts_of(sample).values() if part.rewritten is not None]
        lines["pf1m"] += [json_line(pf1m_record(part, paths[: len(part.images)])) for part in parts]
        lines["llava"].append(json_line(llava_record(sample, paths)))
    return {kind: "".join(found) for kind, found in lines.items()}


@contextmanager
def exporting_records(out: Location) -> Iterator[Callable[[Records], None]]:
    """Yield a function that adds a shard's records; when the block ends without an error, both files are replaced."""
    with (out / "pf1m.json").writer() as pf1m, (out / "llava.json").writer() as llava:
        arrays = {"pf1m": JsonArray(pf1m), "llava": JsonArray(llava)}

        def add(records: Records) -> None:
            for kind, array in arrays.items():
                array.add(records[kind])

        yield add
        for array in arrays.values():
            array.end()
        (out / "dataset_info.json").put(json.dumps(DATASET_INFO, indent=2) + "\n")


class JsonArray:
    """A JSON array with one record per line, written as the records come."""

    def __init__(self, file: BinaryIO):
        self._file, self._between = file, b"\n"
        file.write(b"[")

    def add(self, lines: str) -> None:
        """Add records, one JSON line each."""
        for line in lines.encode().splitlines():
            self._file.write(self._between + line)
            self._between = b",\n"

    def end(self) -> None:
        """Write the end."""
        self._file.write(b"\n]\n")


def json_line(record: Mapping[str, Any]) -> str:
    """Return a record as a line of JSON."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    if not is_writable(line):  # half of a surrogate pair, as in some annotation files, can only be escaped
        line = json.dumps(record, allow_nan=False)
    return line + "\n"


def _with_paths(instruction: str, images: Sequence[str]) -> str:
    """Replace each image mark of an instruction by the image's path between markers."""
    texts = [_without_marker(text) for text in instruction.split(IMAGE_MARK)]
    assert len(texts) == len(images) + 1, "Sample.validate counts the marks"
    paths = [f"{MARKER}{path}{MARKER}" for path in images]
    return "".join(text + path for text, path in zip(texts, [*paths, ""], strict=True))


def _without_marker(text: str) -> str:
    """Replace markers in a dataset's own text, which would make readers look for a file."""
    return text.replace(MARKER, "(img_path)")
