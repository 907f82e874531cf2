"""A store that fails: what passes is survived, what does not pass is said in one line, and early."""

from __future__ import annotations

import itertools
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from polite_flamingo.storage.bucket import Bucket, get_bucket
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.visibility import PathUnavailable
from polite_flamingo.testbed.s3_server import BUCKET
from tests.support.patience import wait_until
from tests.support.s3_proxy import PASSING, Fault, Proxy, no_faults, random_faults, s3_proxy


@pytest.fixture
def proxy(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server; the environment leads to it."""
    with s3_proxy(s3) as (proxy, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(Bucket, "LONGEST_REQUEST", "1s")
        monkeypatch.setattr(Bucket, "LONGEST_PAUSE", 0.2)
        get_bucket.cache_clear()
        yield proxy
        get_bucket.cache_clear()


@pytest.fixture
def place(proxy: Proxy, tmp_path: Path) -> Location:
    """A folder that only this test uses, behind the proxy."""
    return location(f"s3://{BUCKET}/{tmp_path.name}")


def each_operation(place: Location, number: int) -> Iterator[Callable[[], None]]:
    """Every operation of a store, with what must come of it."""
    old, new = place / f"old {number}", place / f"new {number}"
    old.put(b"old" * 1000)
    entry = old.head()
    assert entry

    def head() -> None:
        assert old.head() == entry

    def get() -> None:
        assert old.read_bytes() == b"old" * 1000

    def get_range() -> None:
        assert old.store.get(old.key, 3, 6) == b"oldold"

    def swap() -> None:
        assert old.swap(f"swapped {number}", entry.tag)
        assert old.read_text() == f"swapped {number}"
        assert not old.swap("again", entry.tag)

    def create() -> None:
        assert new.create(f"created {number}")
        assert new.read_text() == f"created {number}"
        assert not new.create("again")

    def names() -> None:
        assert {old.name, new.name} <= set(place.names())

    def delete() -> None:
        new.delete()
        assert new.name not in place.names()

    def put() -> None:
        new.put(bytes(100_000))
        assert new.read_bytes() == bytes(100_000)

    yield from (head, get, get_range, swap, create, names, delete, put)


def test_no_operation_notices_a_fault_that_passes(place: Location, proxy: Proxy) -> None:
    for number, fault in enumerate((*PASSING, Fault.LOSE_REPLY)):
        for operation in each_operation(place, number):
            if fault is Fault.LOSE_REPLY and operation.__name__ in ("head", "get_range", "names", "delete"):
                continue  # each takes a second
            first = len(proxy.requests)
            proxy.plan = lambda request, first=first, fault=fault: fault if request.number == first else None
            operation()
            assert proxy.requests[first][1] is fault
        proxy.plan = no_faults


def test_a_create_that_s3_could_not_decide_is_tried_again(place: Location, proxy: Proxy) -> None:
    (place / "before").put("")
    first = len(proxy.requests)
    proxy.plan = lambda request: Fault.CONFLICT if request.number == first else None
    assert (place / "a").create("1")
    assert (place / "a").read_text() == "1"


def test_a_listing_goes_on_behind_the_page_that_failed(place: Location, proxy: Proxy) -> None:
    names = {f"{number:04d}" for number in range(2500)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: (place / name).put(""), names))
    first = len(proxy.requests)
    proxy.plan = lambda request: Fault.CUT_REPLY if request.number == first + 1 else None
    assert sorted(place.names()) == sorted(names)
    assert len(proxy.requests) - first == 4


def test_a_job_waits_for_a_store_that_is_gone_for_a_while(place: Location, proxy: Proxy) -> None:
    (place / "a").put("1")
    assert isinstance(place.store, Bucket)
    with ThreadPoolExecutor(3) as pool:
        with proxy.gone():
            done = [pool.submit((place / f"{number}").create, f"{number}") for number in range(3)]
            wait_until(lambda: place.store._told)  # type: ignore[attr-defined]
            assert not any(one.done() for one in done)
        assert all(one.result() for one in done)
    assert sorted(place.names()) == ["0", "1", "2", "a"]


def test_who_is_sent_a_store_by_a_job_that_has_begun_waits_as_well(place: Location, proxy: Proxy) -> None:
    (place / "a").put("1")
    pickled = pickle.dumps(place)
    get_bucket.cache_clear()  # as in another process
    with ThreadPoolExecutor(1) as pool:
        with proxy.gone():
            worker = pickle.loads(pickled)
            assert worker.store is not place.store
            assert location(str(place)).store is worker.store
            read = pool.submit((worker / "a").read_text)
            wait_until(lambda: worker.store._told)
        assert read.result() == "1"


def test_a_store_that_never_answered_is_not_waited_for(
    place: Location, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bucket, "FIRST_PATIENCE", 0.5)
    with proxy.gone(), pytest.raises(PathUnavailable, match=r"the store at http://127\S+ does not answer"):
        (place / "a").put("1")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault.CLOCK_SKEW, "this machine's clock is wrong"),
        (Fault.EXPIRED, "the session token has expired"),
        (Fault.ACCESS_DENIED, "access is denied"),
        (Fault.NOT_IMPLEMENTED, "the store cannot do what is asked of it"),
        (Fault.SLOW_DOWN, "the store is overloaded"),
        (Fault.INTERNAL_ERROR, "the store answered every try with an error of its own"),
    ],
)
def test_what_does_not_pass_is_one_line(
    fault: Fault, says: str, place: Location, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bucket, "FIRST_PATIENCE", 0)
    monkeypatch.setattr(Bucket, "PATIENCE", 0.1 if fault in PASSING else 300)
    uses = ((place / "a").read_bytes, lambda: (place / "a").create("1"), (place / "a").delete, place.names)
    for answered, use in itertools.product((False, True), uses):
        if answered:
            proxy.plan = no_faults
            place.head()
        proxy.plan = lambda _: fault
        if answered or fault is not Fault.ACCESS_DENIED:
            with pytest.raises(PathUnavailable) as error:
                use()
            assert says in str(error.value)
            assert "\n" not in str(error.value)


def test_a_key_that_may_not_delete_is_told_so_at_once(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bulk deletion is answered with status 200 and an error per object; this is what obstore makes of moto's."""
    denied = GenericError(
        "Generic S3 error: DeleteObjects request failed for key a: Access Denied (code: AccessDenied)"
    )

    class Denied:
        def delete(self, keys: list[str]) -> None:
            raise denied

    bucket = Bucket(f"s3://{BUCKET}/")
    monkeypatch.setattr(bucket, "_answered", True)
    monkeypatch.setattr(bucket, "_store", Denied())
    with pytest.raises(PathUnavailable, match="access is denied"):
        bucket.delete(["a"])


def test_a_store_that_ignores_conditions_is_refused_for_more_than_one_writer(
    place: Location, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    get_bucket.cache_clear()
    with exclusive(location(str(place)), pytest.fail, 1):
        pass
    for header in ("if-none-match", "if-match"):
        proxy.plan = lambda request, header=header: Fault.UNCONDITIONAL if request.condition == header else None
        lease = exclusive(location(f"{place}/{header}"), pytest.fail, 1)
        with pytest.raises(ValueError, match="refused for more than one writer"), lease:
            pass


def test_a_storm_of_faults_is_survived(place: Location, proxy: Proxy) -> None:
    place.head()
    proxy.plan = random_faults(seed=1, share=0.2)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda number: (place / f"{number}").create(f"{number}"), range(60)))
    assert {name: (place / name).read_text() for name in place.names()} == {f"{n}": f"{n}" for n in range(60)}
    assert len(proxy.faults()) == len(PASSING), "every kind was tried"


class _GoogleCloudStorage(BaseHTTPRequestHandler):
    """One object of generation 7, which only a request that names it may replace."""

    protocol_version = "HTTP/1.1"

    def do_any(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        stale = self.command == "PUT" and self.headers["x-goog-if-generation-match"] != "7"
        self.send_response_only(412 if stale else 200)
        self.send_header("x-goog-generation", "7" if self.command != "PUT" else "8")
        self.send_header("last-modified", "Sun, 29 Nov 2026 18:00:00 GMT")
        self.send_header("etag", "e")
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_PUT = do_any

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_google_compares_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _GoogleCloudStorage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        account = (
            f'{{"gcs_base_url": "http://127.0.0.1:{server.server_port}", "disable_oauth": true, "private_key": "",'
        )
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", account + ' "private_key_id": "", "client_email": ""}')
        place = location("gs://a-bucket-of-this-test/a")
        entry = place.head()
        assert entry
        assert place.swap("1", entry.tag)
        assert place.swap("1", "another") is None
        server.shutdown()
