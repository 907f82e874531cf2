"""A folder and a bucket behave alike: objects are whole, created once, swapped once, listed and deleted."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from polite_flamingo.storage.store import Bucket, Folder, Store, open_store
from polite_flamingo.storage.visibility import PathUnavailable
from tests.support.s3_server import BUCKET


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "out" if request.param == "folder" else request.getfixturevalue("bucket"))


def test_an_object_is_read_as_it_was_written(store: Store) -> None:
    data = os.urandom(200_000)
    store.put("scored/a b é.tar", data)
    assert store.get("scored/a b é.tar") == data
    assert store.get("scored/a b é.tar", 1000) == data[1000:]
    assert store.get("scored/a b é.tar", 1000, 50) == data[1000:1050]
    with store.open("scored/a b é.tar") as file:
        assert file.read(10) == data[:10]
        file.seek(-10, os.SEEK_END)
        assert file.read() == data[-10:]
    store.put("scored/a b é.tar", b"")
    assert store.get("scored/a b é.tar") == b""
    with store.open("scored/a b é.tar") as file:
        assert file.read() == b""


def test_a_file_is_written_from_its_place(store: Store, tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"0123456789")
    with (tmp_path / "spool").open("rb") as file:
        store.put("part", file)
    assert store.get("part") == b"0123456789"


def test_what_is_missing_is_said_to_be_missing(store: Store) -> None:
    assert store.head("no") is None
    assert list(store.list("no")) == []
    store.delete(["no"])
    for read in (store.get, store.open):
        with pytest.raises(FileNotFoundError):
            read("no")
    assert store.swap("no", b"", "tag") is None


def test_a_listing_has_every_object_below_a_folder(store: Store) -> None:
    keys = {f"manifests/{number:04d}.json" for number in range(1100)}  # more than a page
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put(key, b"{}"), [*keys, "manifests-2/a", "scored/deep/a.tar"]))
    assert {entry.key for entry in store.list("manifests")} == keys
    assert {entry.key for entry in store.list()} == {*keys, "manifests-2/a", "scored/deep/a.tar"}
    assert [(entry.key, entry.size) for entry in store.below("scored").list()] == [("deep/a.tar", 2)]
    store.delete(keys)
    assert [entry.key for entry in store.list("manifests")] == []


def test_of_many_creators_one_wins(store: Store) -> None:
    bodies = [f"attempt {number}".encode() for number in range(32)]
    with ThreadPoolExecutor(32) as pool:
        won = list(pool.map(lambda body: store.create("manifests/a.json", body), bodies))
    assert won.count(True) == 1
    assert store.get("manifests/a.json") == bodies[won.index(True)]
    assert store.create("manifests/a.json", bodies[won.index(True)]), "a lost reply: the same attempt asks again"
    assert not store.create("manifests/a.json", b"another")


def test_swaps_lose_no_update(store: Store) -> None:
    store.put("count", b"0")

    def add(times: int) -> None:
        for _ in range(times):
            while True:
                entry = store.head("count")
                assert entry is not None
                number = int(store.get("count").split()[0])
                if store.head("count") != entry:
                    continue
                mine = f"{number + 1} {threading.get_ident()}".encode()
                if store.swap("count", mine, entry.tag):
                    break

    threads = [threading.Thread(target=add, args=(5,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("count").split()[0] == b"20"


def test_a_store_travels_without_its_credentials(store: Store) -> None:
    store.put("a", b"1")
    pickled = pickle.dumps(store)
    assert b"anyanyany" not in pickled
    assert pickle.loads(pickled).get("a") == b"1"


def test_a_writer_that_is_killed_leaves_no_object(tmp_path: Path) -> None:
    code = """
        import io, os, signal
        from polite_flamingo.storage.store import Folder

        class Dying(io.RawIOBase):
            written = 0
            def read(self, size=-1):
                self.written += 1
                if self.written > 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                return bytes(1 << 20)

        Folder("out").put("scored/a.tar", Dying())
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, env={
        **os.environ, "PYTHONPATH": str(Path(__file__).parents[2]),
    })  # fmt: skip
    assert ended.returncode == -signal.SIGKILL
    store = Folder(tmp_path / "out")
    assert store.head("scored/a.tar") is None
    assert list(store.list()) == []


@pytest.mark.parametrize(
    ("environment", "address", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, BUCKET, "the secret key is wrong: check AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, BUCKET, "the store does not know the access key: check AWS_ACCESS_KEY_ID"),
        ({}, "no-such-bucket", "there is no such bucket: create it, or correct the address"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, BUCKET, "the store at http://127.0.0.1:1 does not answer"),
        ({}, "", "Unable to recognise URL"),
    ],
)
def test_a_store_that_cannot_be_used_says_why(
    environment: dict[str, str], address: str, says: str, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Bucket._RETRIES, "max_retries", 1)
    for name, value in {**s3, **environment}.items():
        monkeypatch.setenv(name, value)
    for use in (lambda store: store.put("a", b""), lambda store: store.get("a"), lambda store: list(store.list())):
        with pytest.raises(PathUnavailable) as error:
            use(open_store(f"s3://{address}"))
        assert says in str(error.value)
        assert "\n" not in str(error.value)
