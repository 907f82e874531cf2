"""An ingest reads its annotations and images from a bucket and writes its shards to one, with the same result."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image as Pillow
from pyarrow import parquet

from polite_flamingo.ingest.ingest import IngestConfig, ingest
from polite_flamingo.sample import Sample
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.provenance import ingests_of
from polite_flamingo.storage.remote_path import source_path
from polite_flamingo.storage.shards import read_shard
from ray_jobs.ingest import main

ROWS = 24


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures, every third of which is missing, and questions on them in several formats."""
    folder = tmp_path / "data"
    (folder / "images" / "sub").mkdir(parents=True)
    for number in range(ROWS):
        if number % 3:
            Pillow.new("RGB", (9, 9), (number, 0, 0)).save(folder / f"images/sub/{number}.png")
    rows = [{"image": f"sub/{n}.png", "question": f"Is it {n}?", "answer": "yes"} for n in range(ROWS)]
    (folder / "t.json").write_text(json.dumps(rows))
    (folder / "t.csv").write_text(
        "image,question,answer\n" + "".join(f"{r['image']},{r['question']},{r['answer']}\n" for r in rows)
    )
    pictures = [(folder / f"images/{r['image']}").read_bytes() if n % 3 else b"" for n, r in enumerate(rows)]
    (folder / "many").mkdir()
    for half in (0, 1):
        some = slice(half * ROWS // 2, (half + 1) * ROWS // 2)
        table = pa.table(
            {
                "image": pa.array(pictures[some], pa.binary()),
                "question": [row["question"] for row in rows[some]],
                "answer": ["yes"] * (ROWS // 2),
            }
        )
        parquet.write_table(table, folder / "many" / f"train-0000{half}-of-00002.parquet", row_group_size=5)
    return folder


def upload(folder: Path, place: Location) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            (place / path.relative_to(folder).as_posix()).put(path.read_bytes())


def options(where: str | Path, annotations: str, images: str | None = "images") -> SourceOptions:
    return SourceOptions(
        annotations=(source_path(f"{where}/{annotations}"),),
        images=source_path(f"{where}/{images}") if images else None,
    )


def outcome(source: str, given: SourceOptions, out: Path | Location) -> Any:
    result = ingest(IngestConfig(source=source, options=given, out=out, samples_per_shard=5))
    rows = [row for shard in result.shards for row in read_shard(shard)]
    assert all(isinstance(row, Sample) for row in rows)
    return result.rows_in, result.written, result.reasons, [place.name for place in result.shards], rows


@pytest.mark.parametrize("annotations", ["t.json", "t.csv", "many"])
def test_it_is_the_same_as_on_a_disk(data: Path, bucket: str, tmp_path: Path, annotations: str) -> None:
    upload(data, location(bucket) / "data")
    images = None if annotations == "many" else "images"
    on_disk = outcome("table", options(data, annotations, images), tmp_path / "out")
    assert on_disk[1:3] == (16, {"missing_image": 8} if images else {"corrupt_image": 8}) or on_disk[1] == 16
    assert outcome("table", options(f"{bucket}/data", annotations, images), location(bucket) / "out") == on_disk
    assert outcome("table", options(f"{bucket}/data", annotations, images), tmp_path / "other") == on_disk
    left = {name for name in location(bucket).names() if name.startswith("out/ingest/table/")}
    assert left <= {"out/ingest/table/lock.json"}, "work in progress is gone"
    [found] = ingests_of(shard_names(f"{bucket}/out").values())
    assert (found.rows_in, found.written) == on_disk[:2]


def test_tars_in_a_bucket_are_read_by_ranges(data: Path, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/0.tar", "w") as tar:
        for number in (1, 2, 4):
            tar.add(data / f"images/sub/{number}.png", f"{number}.png")
            (tmp_path / f"{number}.txt").write_text(f"A picture of number {number}.")
            tar.add(tmp_path / f"{number}.txt", f"{number}.txt")
    upload(tmp_path / "tars", location(bucket) / "tars")
    on_disk = outcome("webdataset", SourceOptions(annotations=(tmp_path / "tars",)), tmp_path / "out")
    remote = SourceOptions(annotations=(source_path(f"{bucket}/tars"),))
    assert outcome("webdataset", remote, location(bucket) / "out") == on_disk
    assert on_disk[1] == 3


def test_a_second_run_finds_nothing_to_do_and_a_change_is_noticed(
    data: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(data, location(bucket) / "data")
    command = ["--source", "table", "--annotations", f"{bucket}/data/t.csv", "--images", f"{bucket}/data/images"]
    command += ["--out", f"{bucket}/data/out", "--local"]
    assert main(command) == 0
    assert "16 samples in 1 shard" in capsys.readouterr().out
    assert main(command) == 0 and "its shards are here already" in capsys.readouterr().out
    (location(bucket) / "data/t.csv").put("image,question,answer\nsub/1.png,Is it?,yes\n")
    assert main(command) == 2 and "made from another input: pass --fresh" in capsys.readouterr().err
    assert main([*command, "--fresh"]) == 0 and "1 sample in 1 shard" in capsys.readouterr().out
    assert main([*command, "--preview", "3"]) == 0
    assert b"<html" in (location(bucket) / "data/out/preview-table.html").read_bytes()[:2000]
    assert main(["--source", "table", "--annotations", f"{bucket}/data/*.csv", *command[4:], "--name", "again"]) == 0


def test_what_is_missing_or_forbidden_is_one_line(
    data: Path, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(data, location(bucket) / "data")
    for given, images, out, says in (
        (f"{bucket}/data/no.csv", f"{bucket}/data/images", bucket, "data/no.csv"),
        (f"{bucket}/data/t.csv", f"{bucket}/no", bucket, "is not a folder: pass the folder of the images"),
        ("s3://no-such-bucket/t.csv", f"{bucket}/data/images", bucket, "there is no such bucket"),
        (f"{bucket}/data/t.csv", f"{bucket}/data/images", "s3://no-such-bucket/out", "there is no such bucket"),
    ):
        command = ["--source", "table", "--annotations", given, "--images", images, "--out", f"{out}/out"]
        assert main([*command, "--local"]) == 2
        said = capsys.readouterr().err
        assert says in said and len([line for line in said.splitlines() if "error" in line]) == 1, said
    assert not shard_names_or_none(f"{bucket}/out")


def shard_names_or_none(source: str) -> list[str]:
    try:
        return list(shard_names(source))
    except ValueError:
        return []


def test_a_killed_ingest_is_resumed_and_never_half_read(data: Path, bucket: str, tmp_path: Path) -> None:
    upload(data, location(bucket) / "data")
    on_disk = outcome("table", options(data, "t.json"), tmp_path / "out")
    code = (
        "import os, signal\n"
        "from polite_flamingo.ingest import ingest as module\n"
        "from ray_jobs.ingest import main\n"
        "build = module.build_part\n"
        "def dying(config, number, offsets):\n"
        "    build(config, number, offsets)\n"
        "    if number == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "module.build_part = dying\n"
        f"main(['--local', '--source', 'table', '--samples_per_shard', '5', '--annotations', '{bucket}/data/t.json',\n"
        f"      '--images', '{bucket}/data/images', '--out', '{bucket}/out'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    built = set((location(bucket) / "out/ingest/table").names(".built"))
    assert {"00000", "00001"} <= built and len(built) < 5
    for source in (f"{bucket}/out", f"{bucket}/out/*.tar"):
        with pytest.raises(ValueError, match="has not finished"):
            shard_names(source)
    (location(bucket) / "out/ingest/table/lock.json").delete()  # else the next waits for a whole lease
    assert outcome("table", options(f"{bucket}/data", "t.json"), location(bucket) / "out") == on_disk
    assert list(shard_names(f"{bucket}/out")) == [name.removesuffix(".tar") for name in on_disk[3]]
