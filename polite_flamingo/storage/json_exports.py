"""Export kept samples as the JSON files that trainers read: records of PF-1M and of LLaVA, and their images.

    OUT/images/NAME/0f3a….jpg   images of shard NAME, unchanged, named by content
    OUT/pf1m.json               records as in the published dataset; its converters ask for the root of the paths: OUT
    OUT/llava.json              records for LLaVA, and with OUT/dataset_info.json for LLaMA-Factory ("sharegpt")

The selection of a shard writes its lines (`export_shard`); at the end they are joined in order (`join_exports`). Both
hold at most one shard in memory. Running them again gives the same files and removes those of an earlier selection.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from polite_flamingo.images.digest import file_name
from polite_flamingo.sample import IMAGE_MARK, Sample, unmarked
from polite_flamingo.storage.disk import is_temporary
from polite_flamingo.storage.location import replacing, write_atomically
from polite_flamingo.text_files import is_writable

MARKER = "<img_path>"
"""Stands before and after an image's path in a published record; there is no closing form with a slash."""

KINDS = ("pf1m", "llava")

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
    """Return a kept sample as a record of the published dataset.

    Args:
        sample: a selected sample, whose scores are finite and whose removed paragraphs are noted.
        images: path of each image, relative to the folder of the file.
    """
    scores = sample.scores
    record: dict[str, Any] = {
        "input": _with_paths(sample.instruction, images),
        "output": _without_marker(sample.rewritten or ""),
        "original": sample.response,
        "rouge_score": scores["rouge_l"],
    }
    if "nli" in scores:
        record["nli_similarity"] = list(scores["nli"])
    if "sts" in scores:
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
    question = re.sub(rf"^((?:{IMAGE_MARK})+)\s*", lambda match: match[1] + "\n", sample.instruction)
    record: dict[str, Any] = {"id": sample.key}
    if len(images) == 1:
        record["image"] = images[0]
    record["images"] = list(images)
    record["conversations"] = [
        {"from": "human", "value": question},
        {"from": "gpt", "value": unmarked(sample.rewritten or "")},
    ]
    return record


def export_shard(samples: Sequence[Sample], *, out: Path, name: str, images: bool = True) -> None:
    """Write the images and the records of one shard's kept samples.

    Args:
        samples: kept samples, in order.
        out: the output folder.
        name: the shard's name.
        images: whether to write image files; records name them either way.
    """
    folder = out / "images" / name
    wanted: set[str] = set()
    records: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for sample in samples:
        paths = []
        for image in sample.images:
            file = file_name(image)
            if images and file not in wanted:
                _write_image(folder / file, image.data)
            wanted.add(file)
            paths.append(f"images/{name}/{file}")
        records["pf1m"].append(_line(pf1m_record(sample, paths)))
        records["llava"].append(_line(llava_record(sample, paths)))
    if folder.exists():
        for path in folder.iterdir():
            if path.name not in wanted or not images:
                path.unlink()
    for kind, lines in records.items():
        write_atomically(_part(out, name, kind), "".join(lines))


def join_exports(*, out: Path, names: Sequence[str]) -> int:
    """Join the shards' lines to `pf1m.json` and `llava.json`, in the order of `names`; return the number of records.

    Lines are streamed. Their files, and images of shards that are not in `names`, are removed at the end.
    """
    counts = {kind: _join(out / f"{kind}.json", (_part(out, name, kind) for name in names)) for kind in KINDS}
    assert counts["pf1m"] == counts["llava"], counts
    write_atomically(out / "dataset_info.json", json.dumps(DATASET_INFO, indent=2) + "\n")
    shutil.rmtree(out / "exports", ignore_errors=True)
    if (out / "images").exists():
        for folder in {*os.listdir(out / "images")} - {*names}:  # noqa: PTH208
            shutil.rmtree(out / "images" / folder)
    return counts["pf1m"]


def _write_image(path: Path, data: bytes) -> None:
    """Write an image unless it exists. It is not synced: that would take hours for a million images."""
    if path.exists() and path.stat().st_size == len(data):
        return
    with replacing(path, sync=False) as file:
        file.write(data)


def _part(out: Path, name: str, kind: str) -> Path:
    return out / "exports" / f"{name}.{kind}.jsonl"


def _join(path: Path, parts: Iterable[Path]) -> int:
    """Write a JSON array with one record per line; return the number of records."""
    for stale in path.parent.glob(f"{path.name}.tmp-*"):
        if is_temporary(stale.name):  # left by a selection that was killed here
            stale.unlink(missing_ok=True)
    count = 0
    with replacing(path) as file:
        file.write(b"[")
        for part in parts:
            with part.open("rb") as lines:
                for line in lines:
                    file.write((b",\n" if count else b"\n") + line.rstrip(b"\n"))
                    count += 1
        file.write(b"\n]\n")
    return count


def _line(record: dict[str, Any]) -> str:
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
