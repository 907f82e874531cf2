"""The ledger says what is done, names shards stably, and lets one job at a time write."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.commit import commit_blocks
from actors.source import ShardDatasource
from polite_flamingo.sample import Quarantined
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.input_index import finished_tags
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import (
    Manifest,
    OutputLayout,
    read_manifest,
    read_quarantine_file,
    read_scored,
    write_quarantine_file,
)
from polite_flamingo.storage.location import location
from ray_jobs import build_pf1m
from ray_jobs.build_pf1m import build
from ray_jobs.resumable_job import ShardJob
from tests.support.build_world import config, write_world


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_manifest_round_trip_and_the_invariant(tmp_path: Path) -> None:
    layout = OutputLayout(root=tmp_path)
    manifest = Manifest(shard="in/a.tar", rows_in=3, scored=2, quarantined=1, config_hash="c", seconds={"rewrite": 1.5})
    assert layout.manifest("a").create(manifest.to_json())
    assert read_manifest(layout.manifest("a")) == manifest
    assert layout.finished() == ["a"]
    with pytest.raises(AssertionError):
        Manifest(shard="", rows_in=3, scored=1, quarantined=1, config_hash="")


def test_a_damaged_manifest_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"shard": 1}')
    with pytest.raises(ValueError, match=r"a\.json is damaged .* delete it"):
        read_manifest(location(path))


def test_quarantine_round_trip_whatever_the_text(tmp_path: Path) -> None:
    rows = [Quarantined(key="k", shard="s", index=0, reason="bad_json", detail="a\u2028b\nc\x85 é", payload="s#k")]
    path = tmp_path / "q" / "a.jsonl"
    write_quarantine_file(path, rows)
    assert read_quarantine_file(path) == rows
    write_quarantine_file(path, [])
    assert not path.exists()
    assert read_quarantine_file(path) == []


def test_shard_names_of_folder_file_and_glob(tmp_path: Path) -> None:
    touch(tmp_path / "b.tar", tmp_path / "coco" / "train-0.tar", tmp_path / "notes.txt")
    assert list(shard_names(str(tmp_path))) == ["b", "coco__train-0"]
    assert list(shard_names(str(tmp_path / "b.tar"))) == ["b"]
    assert list(shard_names(f"{tmp_path}/*/*.tar")) == ["coco__train-0"]
    assert list(shard_names(f"{tmp_path}/coco/train-?.tar")) == ["train-0"]


def test_the_working_directory_is_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "b.tar", tmp_path / "coco" / "a.b.tar")
    monkeypatch.chdir(tmp_path)
    assert shard_names(".") == {"b": location("b.tar"), "coco__a.b": location("coco/a.b.tar")}
    assert list(shard_names("coco/")) == ["a.b"]


def test_names_in_a_folder_that_may_not_be_there(tmp_path: Path) -> None:
    touch(tmp_path / "a.json", tmp_path / "b.c.json", tmp_path / "d.json.tmp-1", tmp_path / "e.tar")
    assert sorted(location(tmp_path).names(".json")) == ["a", "b.c"]
    assert location(tmp_path / "absent").names(".json") == []


def test_sweeping_takes_what_killed_writers_left_and_nothing_else(tmp_path: Path) -> None:
    layout = OutputLayout(root=tmp_path)
    stale = [tmp_path / name for name in ("run.json.tmp-1", "scored/a.tar.tmp-7", "parts/a/0.tmp-3")]
    kept = [tmp_path / name for name in ("scored/a.tar", "manifests/a.json", "run.json", "raw/mine.tmp-1")]
    touch(*stale, *kept)
    layout.sweep()
    assert not any(path.exists() for path in stale)
    assert all(path.exists() for path in kept)


def test_what_is_left_to_do_is_asked_in_as_many_calls_for_any_number_of_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question for each shard is an hour on a network's file system with a million of them."""
    calls = dict.fromkeys(("stat", "lstat", "open", "listdir", "scandir"), 0)
    for name in calls:
        monkeypatch.setattr(os, name, counting(name, getattr(os, name), calls))
    monkeypatch.setattr(io, "open", counting("open", io.open, calls))
    counts = []
    for number in (3, 300):
        layout = OutputLayout(root=tmp_path / str(number))
        inputs = [tmp_path / f"in{number}" / f"s{n}.tar" for n in range(number)]
        touch(*inputs, *(layout.manifest(f"s{n}").path for n in range(1, number)))
        calls.update(dict.fromkeys(calls, 0))
        shards = shard_names(str(tmp_path / f"in{number}"))
        assert shards.keys() - finished_tags(layout).keys() == {"s0"} and len(layout.finished()) == number - 1
        layout.sweep()
        counts.append(dict(calls))
    assert counts[0] == counts[1]
    assert 0 < sum(counts[0].values()) < 50


def counting(name: str, function: Callable[..., Any], calls: dict[str, int]) -> Callable[..., Any]:
    def counted(*arguments: Any, **named: Any) -> Any:
        calls[name] += 1
        return function(*arguments, **named)

    return counted


def test_input_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; give"):
        shard_names(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"has no .tar shard; ingest"):
        shard_names(str(tmp_path))
    touch(tmp_path / "a__b.tar", tmp_path / "a" / "b.tar")
    with pytest.raises(ValueError, match="would both be called 'a__b'"):
        shard_names(str(tmp_path))


def test_one_job_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    hold = "import sys, time, pathlib; from polite_flamingo.storage.lease import exclusive\n"
    hold += "with exclusive(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another job is writing"), exclusive(tmp_path):
            pass
        other.kill()
        other.wait()
        with exclusive(tmp_path):
            pass


def told(source: Path | str, own: Path | None = None) -> tuple[list[str], set[str]]:
    """The names of the shards, and what is passed over."""
    lines: list[str] = []
    return list(shard_names(str(source), own, lines.append)), set(lines)


def test_what_lies_beside_shards_is_told_in_one_line_a_kind(tmp_path: Path) -> None:
    names = [
        "a.tar",
        "B.TAR",
        "c.tar.gz",
        "d.tgz",
        "e.tar.gz",
        "f.parquet",
        "._a.tar",
        ".cache/g.tar",
        "00000_stats.json",
    ]
    touch(*(tmp_path / name for name in [*names, *(f"{number}.jpg" for number in range(5))]))
    shards, lines = told(tmp_path)
    assert shards == ["B", "a"]
    assert {line for line in lines if ".jpg" not in line} == {
        "passed over, packed .tar.gz (unpack them first): c.tar.gz, e.tar.gz",
        "passed over, packed .tgz (unpack them first): d.tgz",
        "passed over, files ending in .parquet: f.parquet",
        "passed over, hidden files: ._a.tar",
        "passed over, hidden folders: .cache",
        "passed over, not data, by their names: 00000_stats.json",
    }
    (pictures,) = (line for line in lines if ".jpg" in line)
    assert pictures.startswith("passed over, files ending in .jpg: ") and pictures.endswith(" and 2 more")
    with pytest.raises(ValueError, match=r"has no .tar shard \(passed over, packed \.tgz .*: d\.tgz\)"):
        shard_names(str(tmp_path / "d.tgz"))


def test_links_are_followed_each_folder_once(tmp_path: Path) -> None:
    touch(tmp_path / "far" / "x.tar", tmp_path / "in" / "a.tar", tmp_path / "one.tar")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "in" / "l.tar").symlink_to(tmp_path / "one.tar")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "in")
    assert told(tmp_path / "in") == (
        ["a", "l", "linked__x"], {"passed over, links to folders that are already read: linked/back"},
    )  # fmt: skip


def finished(root: Path) -> OutputLayout:
    layout = OutputLayout(root=root)
    written = ("run.json", "scored/a.tar", "pf1m/a.tar", "manifests/a.json", "quarantine/a.jsonl", "report.html")
    touch(*(root / name for name in written))
    return layout


JOBS = "passed over, what a job wrote (to read it, name the folder itself): "


@pytest.mark.parametrize("out", ["in", "in/out", "in/deep/out"])
def test_what_a_job_wrote_is_no_input_of_its_next_run(tmp_path: Path, out: str) -> None:
    root = tmp_path / "in"
    touch(root / "a.tar", root / "deep" / "b.tar")
    before = told(root, tmp_path / out)
    finished(tmp_path / out)
    shards, lines = told(root, tmp_path / out)
    assert (shards, before) == (["a", "deep__b"], (["a", "deep__b"], set()))
    assert len(lines) == 1 and lines.pop().startswith(JOBS)
    assert told(f"{root}/*.tar", tmp_path / out)[0] == ["a"]


def test_other_runs_below_the_input_are_passed_over_unless_they_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "a.tar")
    other = finished(tmp_path / "other")
    shards, lines = told(tmp_path, tmp_path / "out")
    assert shards == ["a"]
    assert lines == {f"{JOBS}other/manifests, other/pf1m, other/quarantine and 1 more"}
    assert told(other.root.path / "pf1m", tmp_path / "out")[0] == ["a"]
    assert told(f"{other.root}/pf1m/*.tar", tmp_path / "out")[0] == ["a"]
    with pytest.raises(ValueError, match=r"is in .*other/pf1m, which this job writes: give another --out"):
        shard_names(str(other.root / "pf1m"), other.root.path)
    with pytest.raises(ValueError, match=r"has no .tar shard \(passed over, what a job wrote"):
        shard_names(str(other.root))


def test_the_output_of_an_ingest_is_read_without_its_bookkeeping(tmp_path: Path) -> None:
    touch(tmp_path / "vqa-00000.tar", tmp_path / "quarantine" / "vqa.jsonl", tmp_path / "ingest" / "vqa.json")
    (tmp_path / "ingest" / "vqa.json").write_text('{"shards": ["vqa-00000.tar"]}')
    assert told(tmp_path) == (["vqa-00000"], set())


def test_patterns_take_tars_and_tell_the_rest(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "0.tar", tmp_path / "a" / "1.tar", tmp_path / "b" / "2.tar", tmp_path / "notes.txt")
    assert told(f"{tmp_path}/*") == (["a__0", "a__1", "b__2"], {"passed over, files ending in .txt: notes.txt"})
    assert told(f"{tmp_path}/a/{{0..1}}.tar")[0] == ["0", "1"]
    assert told(f"{tmp_path}/{{a,b}}")[0] == ["a__0", "a__1", "b__2"]
    with pytest.raises(ValueError, match=r"nothing matches"):
        shard_names(f"{tmp_path}/c*/*.tar")
    with pytest.raises(ValueError, match=r"8 of the 10 files"):
        shard_names(f"{tmp_path}/a/{{0..9}}.tar")
    touch(tmp_path / "[1]" / "x.tar")
    assert told(tmp_path / "[1]")[0] == ["x"]


def test_odd_names_are_taken_and_unwritable_ones_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a b\n.tar", tmp_path / "é.tar")
    assert told(f"{tmp_path}/")[0] == ["a b\n", "é"]
    touch(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.tar")))
    with pytest.raises(ValueError, match=r"caf\\udce9\.tar is not UTF-8: rename it"):
        shard_names(str(tmp_path))


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds commit each row of their shards as it is, in this process, and select nothing."""

    def rewrite_and_score(job: ShardJob, shards: dict[str, Path], *given: object) -> None:
        with job.attempt():
            for task in ShardDatasource(shards, "hash").get_read_tasks(1):
                for table in task():
                    commit_blocks(table, job.layout, "hash")

    monkeypatch.setattr(build_pf1m, "identify", lambda config: ("hash", {}))
    monkeypatch.setattr(build_pf1m, "rewrite_and_score", rewrite_and_score)
    monkeypatch.setattr(build_pf1m, "conclude", lambda *given: None)
    for name in ("select", "is_current"):
        monkeypatch.setattr(build_pf1m.select, name, lambda *given: None)


def test_another_dataset_of_the_same_names_is_never_taken_for_what_is_done(
    tmp_path: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every ingest of a table calls its first shard table-00000, and tars are often of one size."""
    layout, source = OutputLayout(root=tmp_path / "out"), write_world(tmp_path / "in", shards=3)
    build(config(source, layout.root.path))
    copied = shutil.copytree(source, tmp_path / "copied", copy_function=shutil.copyfile)
    capsys.readouterr()
    build(config(copied, layout.root.path))
    assert capsys.readouterr().out == "3 of 3 shards are already done: s0, s1, s2\n"

    before, first = (source / "s1.tar").stat(), read_scored(layout, "s1")
    write_world(source, shards=3, special={(1, 3): "a PLAIN row"})
    os.utime(source / "s1.tar", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (source / "s1.tar").stat().st_size == before.st_size
    refused = r"input of 1 of 3 shards has changed since .*/out was made: s1; give another --out, or --fresh"
    with pytest.raises(ValueError, match=refused) as told:
        build(config(source, layout.root.path))
    assert "\n" not in str(told.value) and read_scored(layout, "s1") == first

    layout.manifest("s1").delete()  # as the message says
    build(config(source, layout.root.path))
    assert "2 of 3 shards are already done: s0, s2" in capsys.readouterr().out
    assert "a PLAIN row 3" in [row.response for row in read_scored(layout, "s1")]
    write_world(source, shards=2, rows=90)
    with pytest.raises(ValueError, match=r"2 of 3 shards has changed since .* made: s0, s1;"):
        build(config(source, layout.root.path))


def test_what_cannot_be_compared_and_what_is_of_another_input_is_told(
    tmp_path: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    layout, source = OutputLayout(root=tmp_path / "out"), write_world(tmp_path / "in", shards=2)
    build(config(source, layout.root.path))
    record = json.loads(layout.manifest("s0").read_text())
    del record["input"]  # earlier versions wrote none
    layout.manifest("s0").put(json.dumps(record))
    layout.manifest("s1~replay-1").put(layout.manifest("s1").read_text())
    capsys.readouterr()
    build(config(source / "s0.tar", layout.root.path))
    assert capsys.readouterr().out.splitlines() == [
        "1 of 1 finished shard came from an earlier version: whether the input has changed since cannot be checked",
        f"{layout.root} also holds 2 shards not in this input: s1, s1~replay-1",
        "1 of 1 shard is already done: s0",
    ]
