"""A folder and a bucket behave alike: objects are whole, created once, swapped once, listed and deleted."""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyarrow.fs import S3FileSystem

from polite_flamingo.storage import disk
from polite_flamingo.storage.bucket import Bucket, explained, get_bucket
from polite_flamingo.storage.local_copy import local_copy
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.visibility import PathUnavailable
from polite_flamingo.testbed.s3_server import BUCKET, KEY, SECRET


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return location(tmp_path / "out" if request.param == "folder" else request.getfixturevalue("bucket"))


def test_an_object_is_read_as_it_was_written(place: Location) -> None:
    data = os.urandom(200_000)
    (place / "scored/a b é.tar").put(data)
    assert (place / "scored/a b é.tar").read_bytes() == data
    one = place / "scored/a b é.tar"
    assert one.store.get(one.key, 1000) == data[1000:]
    assert one.store.get(one.key, 1000, 50) == data[1000:1050]
    with (place / "scored/a b é.tar").open() as file:
        assert file.read(10) == data[:10]
        file.seek(-10, os.SEEK_END)
        assert file.read() == data[-10:]
    (place / "scored/a b é.tar").put(b"")
    assert (place / "scored/a b é.tar").read_bytes() == b""
    with (place / "scored/a b é.tar").open() as file:
        assert file.read() == b""


def test_a_stream_from_a_bucket_is_whole_wherever_it_is_read(bucket: str) -> None:
    data = os.urandom(100_000)
    one = location(bucket) / "a.tar"
    one.put(data)
    with one.store.open(one.key, ahead=30_000) as file:
        assert file.read() == data
        for start, size in ((99_000, 5_000), (0, 70_000), (70_000, 10), (29_999, 2), (100_001, 1)):
            file.seek(start)
            assert file.read(size) == data[start : start + size]


def test_a_stream_from_a_bucket_asks_for_the_next_ranges_before_they_are_wanted(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = location(bucket) / "a.tar"
    one.put(bytes(1000))
    asked: list[int] = []
    ahead = threading.Event()

    def get(store: Bucket, key: str, start: int = 0, size: int | None = None, *, tag: str = "") -> bytes:
        asked.append(start)
        if start == 200:
            ahead.set()
        return bytes(size or 0)

    monkeypatch.setattr(Bucket, "get", get)
    with one.store.open(one.key, ahead=100) as file:
        raw = file.raw
        assert raw.read(50) and raw.read(50) and asked == [0], "a reader that looks at the start asks for no more"
        assert raw.read(50)
        assert ahead.wait(60)
        assert asked[:2] == [0, 100] and sorted(asked) == [100 * number for number in range(len(asked))]


def test_an_object_that_is_replaced_is_not_read_as_the_one_that_was_listed(bucket: str) -> None:
    (location(bucket) / "a.tar").put(b"before")
    [entry] = location(bucket).entries()
    listed = pickle.loads(pickle.dumps(Location(location(bucket).store, entry.key, entry)))
    with listed.open() as file:
        assert file.read() == b"before"
    (location(bucket) / "a.tar").put(b"behind")
    with listed.open() as file, pytest.raises(PathUnavailable, match="was replaced since the job looked at it"):
        file.read()


def test_a_writer_that_fails_changes_nothing(place: Location) -> None:
    (place / "a").put("before")
    with pytest.raises(RuntimeError), (place / "a").writer() as file:
        file.write(b"half")
        raise RuntimeError
    assert (place / "a").read_text() == "before"
    with (place / "a").writer() as file:
        file.write(b"af")
        file.write(b"ter")
    assert (place / "a").read_text() == "after"
    assert [entry.size for entry in place.entries()] == [5]


def test_what_is_missing_is_said_to_be_missing(place: Location) -> None:
    assert (place / "no").head() is None
    assert (place / "no").names() == []
    (place / "no").delete()
    for read in ((place / "no").read_bytes, (place / "no").open):
        with pytest.raises(FileNotFoundError) as error:
            read()
        assert str(error.value) == f"[Errno 2] No such file or directory: '{place / 'no'}'"
    assert (place / "no").swap(b"", "tag") is None


def test_a_listing_has_every_object_below_a_folder(place: Location) -> None:
    names = {f"{number:04d}" for number in range(1100)}  # more than a page
    keys = [*(f"manifests/{name}.json" for name in names), "manifests-2/a", "scored/deep/a.tar"]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: (place / key).put("{}"), keys))
    assert sorted((place / "manifests").names(".json")) == sorted(names)
    assert sorted(place.names()) == sorted(keys)
    assert [(entry.key, entry.size) for entry in (place / "scored").entries()] == [
        (f"{place.key}/scored/deep/a.tar", 2)
    ]
    (place / "manifests").delete_tree()
    assert sorted(place.names()) == ["manifests-2/a", "scored/deep/a.tar"]


def test_of_many_creators_one_wins(place: Location) -> None:
    bodies = [f"attempt {number}".encode() for number in range(32)]
    with ThreadPoolExecutor(32) as pool:
        won = list(pool.map(lambda body: (place / "manifests/a.json").create(body), bodies))
    assert won.count(True) == 1
    assert (place / "manifests/a.json").read_bytes() == bodies[won.index(True)]
    assert (place / "manifests/a.json").create(bodies[won.index(True)]), "a lost reply: the same attempt asks again"
    assert not (place / "manifests/a.json").create(b"another")


def test_swaps_lose_no_update(place: Location) -> None:
    (place / "count").put(b"0")

    def add(times: int) -> None:
        for _ in range(times):
            while True:
                entry = (place / "count").head()
                assert entry is not None
                number = int((place / "count").read_bytes().split()[0])
                if (place / "count").head() != entry:
                    continue
                mine = f"{number + 1} {threading.get_ident()}".encode()
                if (place / "count").swap(mine, entry.tag):
                    break

    threads = [threading.Thread(target=add, args=(5,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (place / "count").read_bytes().split()[0] == b"20"


def test_a_swap_does_not_wait_for_ever_for_a_stopped_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = location(tmp_path / "count")
    place.put(b"0")
    entry = place.head()
    assert entry is not None
    monkeypatch.setattr(disk, "LOCK_SECONDS", 0.05)
    with (tmp_path / ".count.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PathUnavailable, match=r"changing .*count for .*kill -CONT"):
            place.swap(b"1", entry.tag)
    assert place.swap(b"1", entry.tag)


def test_a_location_travels_without_its_credentials(place: Location) -> None:
    (place / "a").put(b"1")
    pickled = pickle.dumps(place)
    assert b"anyanyany" not in pickled
    assert (pickle.loads(pickled) / "a").read_bytes() == b"1"


def test_a_writer_that_is_killed_leaves_no_object(tmp_path: Path) -> None:
    code = """
        import os, signal
        from polite_flamingo.storage.location import location

        with location("out/scored/a.tar").writer() as file:
            file.write(bytes(1 << 20))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, env={
        **os.environ, "PYTHONPATH": str(Path(__file__).parents[2]),
    })  # fmt: skip
    assert ended.returncode == -signal.SIGKILL
    assert location(tmp_path / "out" / "scored" / "a.tar").head() is None
    assert location(tmp_path / "out").names() == []


@pytest.mark.parametrize(
    ("environment", "address", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, BUCKET, "the secret key is wrong: check AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, BUCKET, "the store does not know the access key: check AWS_ACCESS_KEY_ID"),
        ({}, "no-such-bucket", "there is no such bucket: create it, or correct the address"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, BUCKET, "the store at http://127.0.0.1:1 does not answer"),
        ({"AWS_ENDPOINT_URL": "localhost:1"}, BUCKET, "AWS_ENDPOINT_URL is 'localhost:1': write https://HOST or http"),
        (
            {"AWS_ENDPOINT_URL": ""},
            BUCKET,
            "AWS_ENDPOINT_URL is '': write https://HOST or http://HOST:PORT, or unset it",
        ),
        ({"AWS_ENDPOINT_URL": "https://host:99999"}, BUCKET, "or unset it"),
        ({}, "", "Unable to recognise URL"),
    ],
)
def test_a_store_that_cannot_be_used_says_why(
    environment: dict[str, str], address: str, says: str, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bucket, "FIRST_PATIENCE", 0)
    for name, value in {**s3, **environment}.items():
        monkeypatch.setenv(name, value)
    get_bucket.cache_clear()  # a store keeps the credentials with which it was opened
    try:
        for use in (lambda place: place.put(b""), lambda place: place.read_bytes(), lambda place: place.parent.names()):
            with pytest.raises(PathUnavailable) as error:
                use(location(f"s3://{address}/a"))
            assert says in str(error.value)
            assert "\n" not in str(error.value)
    finally:
        get_bucket.cache_clear()


def another_tool(s3: dict[str, str]) -> S3FileSystem:
    host = s3["AWS_ENDPOINT_URL"].partition("://")[2]
    return S3FileSystem(access_key=KEY, secret_key=SECRET, endpoint_override=host, scheme="http")


def test_marks_of_folders_are_no_objects(
    bucket: str, s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    another_tool(s3).create_dir(f"{bucket.removeprefix('s3://')}/model/sub")
    model = location(bucket) / "model"
    for name in ("a", "sub/b", "sub/empty", "sub-empty"):
        (model / name).put(name if "empty" not in name else "")
    assert sorted(model.names()) == ["a", "sub-empty", "sub/b", "sub/empty"]
    assert sorted(location(bucket).names()) == ["model/a", "model/sub-empty", "model/sub/b", "model/sub/empty"]
    assert (local_copy(model) / "sub" / "b").read_text() == "sub/b"


def test_a_name_that_the_library_cannot_read_is_named(bucket: str, s3: dict[str, str]) -> None:
    with another_tool(s3).open_output_stream(f"{bucket.removeprefix('s3://')}/a\tb.tar") as file:
        file.write(b"")
    with pytest.raises(PathUnavailable, match=r"the name '.*/a\\tb\.tar' has .*a control character: rename or delete"):
        location(bucket).names()


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        (
            "InvalidCertificate(\n UnknownIssuer",
            "https://a.example has a certificate that is not trusted: set SSL_CERT",
        ),
        (
            "InvalidMessage(\n InvalidContentType",
            "https://a.example does not speak TLS: begin its address with http://",
        ),
        ("ConnectionRefused", "https://a.example does not answer"),
    ],
)
def test_why_a_connection_failed_is_said(cause: str, says: str) -> None:
    text = f"GET https://a.example/b/k in 2ms - HTTP error: error sending request\n\nDebug source:\n{cause}"
    assert says in explained(RuntimeError(text))
