"""A damaged file of an output folder ends a selection with one line that names the file and says what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from polite_flamingo.config import to_yaml
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import Quarantined
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.run_info import write_run
from ray_jobs import select
from ray_jobs.build_pf1m import build, identify
from ray_jobs.resumable_job import begin_run
from tests.support import build_world
from tests.support.build_world import write_world
from tests.support.scored import scored


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished selection of a shard with two good rows and a bad one."""
    layout = OutputLayout(root=tmp_path_factory.mktemp("finished") / "out")
    write_run(layout, begin_run("hash", {}, ""))
    bad = Quarantined(key="", shard="s.tar", index=2, reason="corrupt_image", detail="cut short")
    commit_shard(
        layout, "s", [scored("a/b/0"), scored("a/b/1"), bad],
        lambda good, lost: Manifest(shard="s.tar", rows_in=3, scored=good, quarantined=lost, config_hash="hash"),
    )  # fmt: skip
    layout.config.put(to_yaml({"thresholds": Thresholds()}))
    assert select.main(["--out", str(layout.root)]) == 0
    return layout.root.path


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "out")


BROKEN = [b"", b"{}", b"\xff\x00\x00", b'{"thresholds": 3}', b"[" * 2000]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize(
    "file",
    [
        "stats.json",
        "run.json",
        "config.yaml",
        "manifests/s.json",
        "quarantine/s.*.jsonl",
        "scored/s.*.tar",
        "verdicts/s.jsonl",
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    file: str, content: bytes, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(out.glob(file))
    path.write_bytes(content)
    capsys.readouterr()
    try:
        status = select.main(["--out", str(out)])
    except SystemExit as ended:
        status = int(str(ended.code))
    error = capsys.readouterr().err
    if content == b"" and file.startswith("verdicts"):  # a selection of a shard without good rows leaves that
        assert status == 0
        return
    assert status == 2
    assert str(path) in error and error.count("\n") == 1
    assert any(remedy in error for remedy in ("delete", "restore", "run the build again")), error


def test_an_option_without_its_value_is_reported_by_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        select.main(["--out"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "select: error: --out: expected one argument (--help lists the options)\n"


def test_a_lost_run_json_is_written_again_by_a_build_with_nothing_left_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_world(tmp_path / "in", shards=1, rows=2)
    config = build_world.config(source, tmp_path / "out")
    layout, identity = OutputLayout(root=tmp_path / "out"), identify(config)[0]
    commit_shard(
        layout, "s0", [scored("a/b/0"), scored("a/b/1")],
        lambda good, lost: Manifest(
            shard=str(source / "s0.tar"), rows_in=2, scored=good, quarantined=lost, config_hash=identity,
            input=InputFile.at(source / "s0.tar"),
        ),
    )  # fmt: skip
    assert select.main(["--out", str(layout.root)]) == 2
    assert (
        "run.json is missing, which says how the shards were made; run the same build again" in capsys.readouterr().err
    )
    build(config)
    assert select.main(["--out", str(layout.root), "--thresholds.sts", "0.1"]) == 0
