"""Somebody else's tars are refused before a job starts anything, with the command that reads them."""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
import sys
import tarfile
from pathlib import Path

import pytest

from polite_flamingo.sample import Image, Sample, Turn
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.foreign_shards import refuse_foreign
from polite_flamingo.storage.location import location
from polite_flamingo.storage.shards import encode_record, read_shard, write_shard
from ray_jobs import build_pf1m, console, distort, evaluate, ingest, train

REPO = Path(__file__).parents[2]
TINY = str(REPO / "profiles" / "tiny.yaml")


def sample(number: int) -> Sample:
    turn = Turn(instruction="<image>What?", response="red")
    image = Image(extension="jpg", data=b"x" * 100)
    return Sample(key=f"d/train/{number}", dataset="d", task="vqa", turns=(turn,), images=(image,))


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def img2dataset(number: int) -> dict[str, bytes]:
    stem = f"{number:09d}"
    said = {"caption": "a dog", "url": "http://a/", "key": stem, "status": "success", "exif": "{}"}
    return {f"{stem}.jpg": b"x", f"{stem}.json": json.dumps(said).encode(), f"{stem}.txt": b"a dog"}


def refusal(*paths: Path) -> str:
    with pytest.raises(ValueError) as caught:
        refuse_foreign(map(location, paths))
    return str(caught.value)


@pytest.mark.parametrize(
    "members",
    [
        img2dataset(0) | img2dataset(1),
        {"./._0.jpg": b"", "./0.jpg": b"x", "./0.txt": b"a dog"},
        {"0.json": b'{"conversations": []}', "0.0.jpg": b"x", "0.1.jpg": b"x"},
        {"images/0.jpg": b"x", "captions/0.txt": b"x"},
        {"code.py": b"pass"},
    ],
    ids=["img2dataset", "tar -C", "several pictures", "folders", "code"],
)
def test_a_tar_without_a_sample_is_refused_with_the_command(tmp_path: Path, members: dict[str, bytes]) -> None:
    write_shard(tmp_path / "a.tar", [sample(0)])
    path = tar(tmp_path / "my data" / "00000.tar", members)
    said = refusal(tmp_path / "a.tar", path)
    assert said.startswith(f"{path} is not a shard of this project") and "\n" not in said
    command = shlex.split(said[said.index("polite-flamingo ingest") :])
    args = console.parse("ingest", "", ingest.IngestOptions, [*command[2:]])
    assert (args.source, args.annotations) == ("webdataset", (str(path.parent),))


def test_packed_shards_are_refused_with_what_unpacks_them(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"\x1f\x8b\x08" + bytes(600))
    assert refusal(path).endswith("a.tar is packed with gzip; only plain tars are read: unpack it first (gunzip)")
    (row,) = read_shard(path)
    assert "unpack it first (gunzip)" in row.detail  # type: ignore[union-attr]


def test_what_may_be_ours_is_left_to_its_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "good.tar", [sample(0), sample(1)])
    whole = (tmp_path / "good.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:700])
    (tmp_path / "text.tar").write_bytes(b"no tar " * 200)
    (tmp_path / "zero.tar").touch()
    (tmp_path / "folder.tar").mkdir()
    tar(tmp_path / "empty.tar", {})
    tar(tmp_path / "broken.tar", {"d/train/0.json": b"{", "d/train/0.0.jpg": b"x"})
    tar(tmp_path / "wrong.tar", {"d/train/0.json": json.dumps({"key": "d/train/0", "turns": 5}).encode()})
    tar(tmp_path / "column.tar", {"0.cls": b"1", "d/train/0.json": encode_record(sample(0))})
    refuse_foreign(map(location, [*tmp_path.iterdir(), tmp_path / "absent.tar"]))
    assert capsys.readouterr().out == ""
    tar(tmp_path / "mac.tar", {"._a": b"", "d/train/0.json": encode_record(sample(0))})
    refuse_foreign(map(location, tmp_path.glob("*.tar")))
    assert capsys.readouterr().out.startswith(f"passed over: members of {tmp_path / 'mac.tar'} that are not data")


@pytest.mark.parametrize("job", ["build_pf1m", "distort", "evaluate", "train"])
def test_each_job_refuses_before_it_loads_anything(tmp_path: Path, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tar(tmp_path / "in" / "00000.tar", img2dataset(0))
    given, out = str(tmp_path / "in"), str(tmp_path / "out")
    module = {"build_pf1m": build_pf1m, "distort": distort, "evaluate": evaluate, "train": train}[job]
    for loader in ("model_fingerprints", "identify", "speaker_of", "contestants_of", "base_fingerprints"):
        if hasattr(module, loader):
            monkeypatch.setattr(module, loader, lambda *given: pytest.fail("a model was looked at"))
    monkeypatch.setitem(sys.modules, "ray", None)  # whoever imports it fails
    asked = {
        "build_pf1m": (build_pf1m.BuildConfig, ["--profile", TINY, "--input", given]),
        "distort": (distort.DistortConfig, ["--distortion.speaker", "rules", "--input", given]),
        "evaluate": (evaluate.EvaluateConfig, ["--profile", TINY, "--input", given]),
        "train": (train.TrainConfig, ["--profile", TINY, "--stage", "clever-1", "--data", f"{{a: {given}}}"]),
    }
    config_class, arguments = asked[job]
    config = console.parse(job, "", config_class, [*arguments, "--out", out])
    with pytest.raises(ValueError, match="is not a shard of this project"):
        getattr(module, job.removesuffix("_pf1m"))(config)
    assert not Path(out).exists()


def test_what_is_refused_can_be_ingested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command of the refusal, run as it stands but for its DIR, gives shards that are not refused."""
    folder = tmp_path / "data"
    picture = (REPO / "docs" / "report.png").read_bytes()
    members = {name: picture if name.endswith("jpg") else data for name, data in img2dataset(0).items()}
    tar(folder / "00000.tar", members)
    (folder / "00000_stats.json").write_text("{}")
    (folder / "00000.parquet").touch()
    said = refusal(folder / "00000.tar")
    command = shlex.split(said[said.index("polite-flamingo ingest") :])[2:-1]
    assert ingest.main([*command, str(tmp_path / "out"), "--local"]) == 0
    printed = capsys.readouterr().out
    assert "passed over, files ending in .parquet: 00000.parquet" in printed
    shards = shard_names(str(tmp_path / "out"))
    refuse_foreign(shards.values())
    (row,) = [row for path in shards.values() for row in read_shard(path)]
    assert isinstance(row, Sample) and dataclasses.replace(row, meta={}).images[0].data == picture
