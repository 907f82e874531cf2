"""A machine that does not see what the job needs says so in one line; nothing it cannot reach becomes a bad row.

Other machines are played: by another content under the same path, or by a file whose reads fail as those of a mount
that went away. `tests/ray_jobs/test_gpus_and_nodes.py` and `test_build_survives.py` run the jobs around this.
"""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from actors.commit import commit_blocks
from actors.rows import Block
from polite_flamingo.hub import fingerprint, refuse_other_models
from polite_flamingo.sample import Quarantined
from polite_flamingo.storage import probe as probe_module
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.disk import is_temporary, sweep_temporary, temporary_name
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import location
from polite_flamingo.storage.probe import probing
from polite_flamingo.storage.shards import read_shard, write_shard
from polite_flamingo.storage.visibility import FileState, PathUnavailable, reason_in
from tests.support.build_world import text_row


class FailingFile(io.RawIOBase):
    """The bytes of a shard; from `good` on, the way to them is broken."""

    def __init__(self, data: bytes, good: int, number: int):
        self._file, self._good, self._number = io.BytesIO(data), good, number

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        if self._file.tell() >= self._good:
            raise OSError(self._number, os.strerror(self._number))
        return self._file.readinto(buffer)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EACCES])
@pytest.mark.parametrize("good", [0, 8192], ids=["at once", "in the middle"])
def test_a_mount_that_goes_away_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, good: int
) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [text_row(0, n) for n in range(40)])
    data = path.read_bytes()
    broken = lambda self, mode: io.BufferedReader(FailingFile(data, good, number))  # noqa: E731
    monkeypatch.setattr(Path, "open", broken)
    with pytest.raises(
        PathUnavailable, match=rf"{path} cannot be read on machine .*run the same command again"
    ) as error:
        read_shard(path)
    assert "\n" not in str(error.value) and os.strerror(number) in str(error.value)


def test_what_is_absent_or_forbidden_stops_and_what_is_no_tar_is_quarantined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.tar").symlink_to(tmp_path / "gone.tar")
    for name in ("absent.tar", "link.tar"):
        for look in (read_shard, FileState.at):
            with pytest.raises(PathUnavailable, match="it does not exist"):
                look(tmp_path / name)
    (tmp_path / "folder.tar").mkdir()
    os.mkfifo(tmp_path / "pipe.tar")  # a reader would wait for ever for somebody to write
    for name in ("folder.tar", "pipe.tar"):
        [row] = read_shard(tmp_path / name)
        assert isinstance(row, Quarantined) and row.reason == "unreadable_shard" and "is not a file" in row.detail

    def forbidden(path: str) -> list[str]:  # root, who may run the tests, may open every folder
        raise PermissionError(errno.EACCES, "Permission denied", path)

    (tmp_path / "in").mkdir()
    write_shard(tmp_path / "in" / "a.tar", [text_row(0, 0)])
    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(PathUnavailable, match=r"in cannot be read on machine .*Permission denied"):
        shard_names(str(tmp_path / "in"))


def test_another_file_under_the_same_path_is_noticed(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [text_row(0, 0)])
    seen = [FileState.at(tmp_path / "a.tar"), FileState.at(tmp_path)]
    assert [one.path for one in seen] == [str(tmp_path / "a.tar")] * 2, "of a folder, one of its files"
    for one in seen:
        one.check()
    write_shard(tmp_path / "a.tar", [text_row(0, n) for n in range(90)])
    for one in seen:
        with pytest.raises(
            PathUnavailable, match=r"a.tar has \d+,\d+ bytes on machine .* and \d+,\d+ where the job was"
        ):
            one.check()
    (tmp_path / "a.tar").unlink()
    for one in seen:
        with pytest.raises(PathUnavailable, match="it does not exist"):
            one.check()


def test_an_output_folder_of_another_machine_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "PATIENCE", 0.0)
    (tmp_path / ".probe-of-a-job-that-was-killed").touch()
    layout = OutputLayout(root=tmp_path)
    block = Block(name="a", shard="a.tar", first=0, shard_rows=1, rows=[text_row(0, 0)])
    with probing(location(tmp_path)) as probe:
        [path] = tmp_path.iterdir()
        probe.check()
        path.write_text("of another disk with the same path")
        with pytest.raises(PathUnavailable, match=f"does not see in {tmp_path} what .*it has other content.*--out"):
            probe.check()
        path.unlink()
        with pytest.raises(PathUnavailable, match="No such file"):
            commit_blocks(block.to_table(), layout, "hash", probe=probe)
        assert list(tmp_path.iterdir()) == [], "nothing is written where nobody would look for it"
        first = probe
    with probing(location(tmp_path)) as probe:
        assert probe.path != first.path and probe.content != first.content
    assert list(tmp_path.iterdir()) == []


def test_other_weights_under_the_same_name_are_noticed(tmp_path: Path) -> None:
    weights = tmp_path / "model"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"one")
    models = {str(weights): fingerprint(str(weights)), "a-hub/model": "name:a-hub/model"}
    refuse_other_models(models)
    (weights / "model.safetensors").write_bytes(b"two")
    with pytest.raises(PathUnavailable, match=rf"has other files of the model {weights}"):
        refuse_other_models(models)
    (weights / "model.safetensors").unlink()
    weights.rmdir()
    with pytest.raises(PathUnavailable, match=rf"does not see the model {weights}.*absolute path"):
        refuse_other_models(models)
    with pytest.raises(PathUnavailable, match="zoo:nowhere"):
        refuse_other_models({"zoo:nowhere": "0123"})


def test_the_line_is_found_in_the_traceback_of_another_process() -> None:
    text = "Traceback …\npolite_flamingo.shared.PathUnavailable: /in/a.tar cannot be read\n\nThe above exception …"
    assert reason_in(text) == "/in/a.tar cannot be read"
    assert reason_in("ValueError: a PathUnavailable: no") is None


def test_temporary_names_are_nobody_elses_and_final_ones_are_never_swept(tmp_path: Path) -> None:
    names = {temporary_name(tmp_path / "a.tar").name for _ in range(1000)}
    assert len(names) == 1000 and all(is_temporary(name) for name in names)
    kept = [tmp_path / name for name in ("x.tmp-1.tar", "x.tmp-dead.json", "x.tmp-joining.jsonl", "mine.tmp-draft")]
    stale = [tmp_path / name for name in ("a.tar.tmp-4711", "pf1m.json.tmp-joining", next(iter(names)))]
    for path in kept + stale:
        path.touch()
    assert sweep_temporary(tmp_path) == sorted(stale)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
