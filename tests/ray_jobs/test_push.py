"""An upload leaves in the repository what the folder holds, however often it is run, and says in one line why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.location import location
from polite_flamingo.storage.run_info import write_run
from ray_jobs import export, select
from ray_jobs.push import main
from ray_jobs.resumable_job import begin_run
from tests.support.fake_hub import READER, WRITER, FakeHub
from tests.support.scored import scored

NAME = "me/flamingo"
TO = f"hf://datasets/{NAME}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub that huggingface_hub reaches, with a token that may write; no progress bars."""
    hub = FakeHub()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout = OutputLayout(root=tmp_path_factory.mktemp("push") / "out")
    write_run(layout, begin_run("hash", {}, ""))
    for shard in range(2):
        rows = [scored(f"d/t/{shard}-{n}", ("vqa", "text")[n % 2], f"That is {n}, I think.") for n in range(4)]

        def manifest(good: int, lost: int) -> Manifest:
            return Manifest(shard="s.tar", rows_in=good + lost, scored=good, quarantined=lost, config_hash="hash")

        commit_shard(layout, f"s{shard}", rows, manifest)
    select.select(layout, Thresholds())
    return layout.root.path


def exported(out: Path, to: Path | str, name: str = "llava") -> dict[str, bytes]:
    assert export.main(["--out", str(out), "--format", name, "--to", str(to)]) == 0
    place = location(to)
    return {name: (place / name).read_bytes() for name in place.names() if name not in (".lock", "lock.json")}


def there(hub: FakeHub) -> dict[str, bytes]:
    return {path: data for path, data in hub.repositories[NAME].items() if path != ".gitattributes"}


@pytest.mark.parametrize("stored", ["in the commit", "as large files"])
def test_the_repository_gets_the_export_and_a_second_push_changes_nothing(
    hub: FakeHub, out: Path, tmp_path: Path, stored: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Hubs of today store large files by Xet, whose servers are not played here, so they go by Git LFS."""
    if stored == "as large files":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        hub.large = lambda path: path.startswith(("data/", "images/"))
    files = exported(out, tmp_path / "to")
    assert main(["--out", str(tmp_path / "to"), "--to", TO]) == 0
    assert there(hub) == files and hub.private[NAME] is True
    said = capsys.readouterr()
    assert f"8 kept samples as llava: 8 records of 8 samples; in {hub.url}/datasets/{NAME}/commit/" in said.out
    assert WRITER not in said.out + said.err
    commits = len(hub.commits)
    assert main(["--out", str(tmp_path / "to"), "--to", TO]) == 0
    assert len(hub.commits) == commits and there(hub) == files


def test_another_export_replaces_it_and_what_others_put_there_stays(hub: FakeHub, out: Path, tmp_path: Path) -> None:
    exported(out, tmp_path / "to")
    assert main(["--out", str(tmp_path / "to"), "--to", TO, "--public"]) == 0
    assert hub.private[NAME] is not True
    hub.repositories[NAME]["LICENSE"] = b"CC-BY"
    files = exported(out, tmp_path / "to", "parquet")
    assert main(["--out", str(tmp_path / "to"), "--to", TO]) == 0
    assert there(hub) == {**files, "LICENSE": b"CC-BY"}


def test_of_a_build_the_dataset_is_pushed(hub: FakeHub, out: Path) -> None:
    assert main(["--out", str(out), "--to", TO]) == 0
    assert set(there(hub)) == {"README.md", "parquet/s0.parquet", "parquet/s1.parquet", "report.html", "stats.json"}


def test_an_export_in_a_bucket_is_pushed(hub: FakeHub, out: Path, bucket: str) -> None:
    files = exported(out, f"{bucket}/to")
    assert main(["--out", f"{bucket}/to", "--to", TO]) == 0
    assert there(hub) == files


def test_an_upload_that_was_interrupted_goes_on(hub: FakeHub, out: Path, tmp_path: Path) -> None:
    files = exported(out, tmp_path / "to")
    hub.refuse = lambda path: 400 if "/commit/" in path else 0
    assert main(["--out", str(tmp_path / "to"), "--to", TO]) == 1 and not there(hub)
    hub.refuse = lambda path: 0
    assert main(["--out", str(tmp_path / "to"), "--to", TO]) == 0 and there(hub) == files


def test_what_the_hub_refuses_is_one_line_without_the_token(
    hub: FakeHub, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(to: str = TO, folder: Path = out) -> tuple[int, str]:
        capsys.readouterr()
        try:
            status = main(["--out", str(folder), "--to", to])
        except SystemExit as end:
            status = int(end.code or 0)
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("push: error: ")]
        assert len(error) == 1 and WRITER not in error[0] and READER not in error[0]
        return status, error[0]

    status, error = said("hf://datasets/others/flamingo")
    assert status == 1 and "the token may not write there" in error and "rights" in error
    monkeypatch.setenv("HF_TOKEN", READER)
    status, error = said()
    assert status == 1 and "the token may not write there" in error
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    status, error = said()
    assert status == 1 and "the hub does not know the token" in error and "hf_of_nobody" not in error
    with monkeypatch.context() as away:
        away.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        status, error = said()
        assert status == 1 and "refused); check the network and HF_ENDPOINT" in error
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    status, error = said()
    assert status == 1 and "cannot be pushed to" in error and "offline" in error.lower()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    status, error = said()
    assert status == 2 and "no token for the hub: run hf auth login, or set HF_TOKEN" in error
    assert said("s3://bucket/x")[0] == said("hf://models/me/x")[0] == said("hf://datasets/x")[0] == 2
    assert "holds neither an export nor a finished selection" in said(TO, tmp_path)[1]
    exported(out, tmp_path / "half")
    (tmp_path / "half/export.json").write_text('{"finished": false}')
    assert "holds an export that is not finished" in said(TO, tmp_path / "half")[1]
    assert not hub.repositories
