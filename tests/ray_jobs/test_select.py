"""A selection is the same wherever it is made: on a disk, in a bucket, on Ray, and after it was killed."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.run_info import write_run
from polite_flamingo.storage.tar_export import count_images
from ray_jobs import select
from ray_jobs.resumable_job import begin_run
from tests.support.scored import scored

TASKS = ("captioning", "change_captioning", "vqa", "text")
"""With one image, two, one, none."""


def commit(layout: OutputLayout, name: str, rows: list[Sample]) -> None:
    bad = Quarantined(key="", shard=f"{name}.tar", index=0, reason="corrupt_image", detail="cut short")

    def manifest(good: int, lost: int) -> Manifest:
        return Manifest(
            shard=f"{name}.tar", rows_in=good + lost, scored=good, quarantined=lost, config_hash="hash",
            stats=count_images(rows) if name > "s1" else {},
        )  # fmt: skip

    commit_shard(layout, name, [*rows, bad], manifest)


@pytest.fixture(scope="module")
def scored_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of four shards before any selection; two keys occur twice, and two manifests are of older versions."""
    layout = OutputLayout(root=tmp_path_factory.mktemp("scored") / "out")
    write_run(layout, begin_run("hash", {}, ""))
    for shard in range(4):
        rows = [scored(f"mixed/train/{shard}-{n}", task, f"That is {n}, I think.") for n, task in enumerate(TASKS)]
        again = scored("mixed/train/again", rewritten="It is seen twice, I think.")
        commit(layout, f"s{shard}", [*rows, dataclasses.replace(again, dataset=f"of{shard}")])
    return layout.root.path


def copied(source: Path, root: Location) -> OutputLayout:
    for name in location(source).names():
        (root / name).put((location(source) / name).read_bytes())
    return OutputLayout(root=root)


def files(layout: OutputLayout) -> dict[str, bytes]:
    return {name: (layout.root / name).read_bytes() for name in layout.root.names()}


@pytest.fixture
def selected(scored_shards: Path, tmp_path: Path) -> dict[str, bytes]:
    """What a selection that nothing disturbs leaves on a disk."""
    layout = copied(scored_shards, location(tmp_path / "undisturbed"))
    select.select(layout, Thresholds())
    return files(layout)


def test_a_bucket_gets_what_a_disk_gets_file_by_file(
    scored_shards: Path, selected: dict[str, bytes], tmp_path: Path, bucket: str
) -> None:
    there, here = copied(scored_shards, location(bucket)), OutputLayout(root=tmp_path / "undisturbed")
    select.select(there, Thresholds())
    assert files(there) == selected
    tars = [name for name in selected if name.startswith("pf1m/")]
    assert {name.rpartition("-")[0] for name in tars} == {f"pf1m/{n}-pictures-{2 - n}" for n in range(3)}
    assert len(tars) == 12

    none_of_two = Thresholds(sts=0.9)  # rejects those with two images, so all tars get other names
    found = [select.select(layout, none_of_two) for layout in (here, there)]
    assert found[0] == found[1] and found[0] is not None and found[0].went_out.total() == 8
    assert files(there) == files(here)
    names = here.root.names()
    assert {name.rpartition("-")[0] for name in names if name.startswith("pf1m/")} == {
        "pf1m/0-pictures-1", "pf1m/1-pictures-0",
    }  # fmt: skip

    for layout in (here, there):
        layout.manifest("s3").delete()  # the shard is to be made again
        select.select(layout, Thresholds())
    assert files(there) == files(here)
    left = [name for name in files(here) if "s3" in name]
    assert left and all(name.startswith(("scored/", "quarantine/", "keys/")) for name in left)


KILLED = """
import os, signal, sys
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.storage.bucket import Bucket
from polite_flamingo.storage.disk import Disk
from polite_flamingo.storage.ledger import OutputLayout
from ray_jobs import select

select.SHARDS_AT_ONCE = 1  # each run writes in the same order
left = int(sys.argv[2])
def dying(writer):
    def write(self, key, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return writer(self, key, **options)
    return write
for store in (Bucket, Disk):
    store.writer = dying(store.writer)
select.select(OutputLayout(root=sys.argv[1]), Thresholds())
"""


@pytest.mark.parametrize("store", ["disk", "bucket"])
def test_a_killed_selection_is_made_again_whole(
    store: str, scored_shards: Path, selected: dict[str, bytes], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue("bucket") if store == "bucket" else tmp_path / "killed"
    layout = copied(scored_shards, location(root))
    select.select(layout, Thresholds(sts=0.9))
    for writes in (7, 23):  # among the shards, and at the card
        code = [sys.executable, "-c", KILLED, str(layout.root), str(writes)]
        assert subprocess.run(code, capture_output=True).returncode == -signal.SIGKILL
        assert not layout.stats.exists(), "whoever reads a selection waits for its figures"
    select.select(layout, Thresholds())
    assert files(layout) == selected
    if layout.root.local:
        assert not list(layout.root.local.rglob("*.tmp-*"))


def test_files_that_no_manifest_names_go_unless_their_shard_is_in_work(
    scored_shards: Path, selected: dict[str, bytes], tmp_path: Path
) -> None:
    layout = copied(scored_shards, location(tmp_path / "out"))
    lost = ["scored/s1.0a1b2c3d.tar", "quarantine/s1.0a1b2c3d.jsonl", "keys/s2.0a1b2c3d.keys"]
    in_work = ["scored/s9.0a1b2c3d.tar", "keys/s9.0a1b2c3d.keys"]
    for name in [*lost, *in_work]:
        (layout.root / name).put(b"of a writer that lost, or is not done")
    select.select(layout, Thresholds())
    found = files(layout)
    assert set(found) - set(selected) == {*in_work}


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_ray_s_tasks_select_what_threads_select(
    scored_shards: Path, selected: dict[str, bytes], tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "SHARDS_FOR_RAY", 4)
    monkeypatch.setattr(select, "SHARDS_AT_ONCE", None)  # threads would fail
    layout = copied(scored_shards, location(tmp_path / "out"))
    select.select(layout, Thresholds())
    assert files(layout) == selected
    tar = next(name for name in selected if name.startswith("scored/s2"))
    (layout.root / tar).put(selected[tar][:600])
    with pytest.raises(ValueError, match=rf"{tar} is damaged: .* run the build again") as error:
        select.select(layout, Thresholds())
    assert "\n" not in str(error.value)
