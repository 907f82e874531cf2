"""A store in a bucket: s3://, gs:// or az://, through obstore.

Credentials come from each machine's environment, as obstore reads it:

- s3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL (also with _S3);
  without keys a web identity or the role of the container or machine. Not `~/.aws`, so neither profiles nor SSO:
  `aws configure export-credentials --format env` prints the variables of a profile.
- gs: GOOGLE_APPLICATION_CREDENTIALS, the login of `gcloud auth application-default`, or the role of the machine.
  An emulator is named by `gcs_base_url` in the JSON of GOOGLE_SERVICE_ACCOUNT_KEY, with `disable_oauth`.
- az: AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, a SAS token or a client's secret, or the role of the
  machine. AZURE_STORAGE_USE_EMULATOR leads to Azurite.

A store that has never answered is given up within seconds, because its address, key or clock is wrong. A store that has
answered is waited for, because it will come back. obstore itself tries again after 5xx, but, if the connection is lost,
neither conditional puts nor deletions; and it would keep Ctrl-C waiting. So it tries four times, and the rest is done
here.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, BinaryIO, ClassVar, TypeVar
from urllib.parse import urlsplit

from polite_flamingo.storage.store import Entry, Store
from polite_flamingo.storage.visibility import PathUnavailable

SCHEMES = ("s3://", "gs://", "az://")
T = TypeVar("T")


class Bucket(Store):
    """A bucket. A put is one request up to `ONE_REQUEST`, so that nothing is left to sweep."""

    ONE_REQUEST = 64 << 20
    """Largest object in bytes that is sent in one request; larger ones in parts, which only their end publishes."""

    IN_MEMORY = 8 << 20
    """Bytes of an object that is being written that are kept in memory; the rest waits on this machine's disk."""

    FIRST_PATIENCE: ClassVar[float] = 6.0
    """Seconds until a store that never answered is given up."""

    LONGEST_REQUEST: ClassVar[str] = "120s"
    """Time for one request, its data included."""

    PATIENCE: ClassVar[float] = 300.0
    """Seconds to wait for a store that has answered before."""

    LONGEST_PAUSE: ClassVar[float] = 5.0
    """Seconds between two tries, at most."""

    def __init__(self, url: str):
        self.url = url
        self._answered = self._told = False
        self._store = self._connect(self.LONGEST_REQUEST, retries=3)

    def _connect(self, seconds: str, retries: int) -> Any:
        """Return obstore's client; no request takes longer than this."""
        from obstore.store import from_url

        for name in _ENDPOINTS:
            if (address := os.environ.get(name)) is not None and not _is_an_endpoint(address):
                wrong = f"{name} is {address!r}: write https://HOST or http://HOST:PORT, or unset it"
                raise PathUnavailable(f"{self.url} cannot be used: {wrong}")
        with self._reaching(""):
            return from_url(
                self.url,
                client_options={"allow_http": _on_a_private_network(), "connect_timeout": "3s", "timeout": seconds},
                retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=10)},
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # Credentials come from each machine's environment, never from a pickle. Who is sent a store by a job that has
        # begun must wait for it, also if it is away at this moment.
        return _received, (self.url, self._answered)

    def head(self, key: str) -> Entry | None:
        """Ask for an object's size and ETag."""
        try:
            return _object(self._trying(key, lambda: self._store.head(key)))
        except FileNotFoundError:
            return None

    def get(self, key: str, start: int = 0, size: int | None = None, *, tag: str = "") -> bytes:
        """Read an object, or a range of it."""
        from obstore.exceptions import PreconditionError

        if size == 0:
            return b""
        options: Any = {"if_match": tag} if tag else {}
        if size is not None:
            options["range"] = (start, start + size)
        elif start:
            options["range"] = {"offset": start}

        def attempt() -> bytes:
            try:
                return bytes(self._store.get(key, options=options).bytes())
            except PreconditionError:
                changed = f"{self.url}{key} was replaced since the job looked at it"
                raise PathUnavailable(f"{changed}; run the same command again") from None

        return self._trying(key, attempt)

    @contextmanager
    def writer(self, key: str, *, sync: bool = True) -> Iterator[BinaryIO]:
        """Collect the bytes on this machine, then send them in one request, or in parts if they are many."""
        with tempfile.SpooledTemporaryFile(self.IN_MEMORY) as spool:
            yield spool  # type: ignore[misc]
            many = spool.tell() > self.ONE_REQUEST

            def send() -> None:
                spool.seek(0)
                self._store.put(key, spool, use_multipart=many)

            self._trying(key, send)

    def create(self, key: str, data: bytes) -> bool:
        """Write with `If-None-Match: *`."""
        from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

        def attempt() -> bool:
            try:
                self._store.put(key, data, mode="create", use_multipart=False)
                return True
            except (AlreadyExistsError, PreconditionError):
                try:
                    return bytes(self._store.get(key).bytes()) == data
                except FileNotFoundError:  # S3 answers 409 while another request writes or deletes the object
                    raise GenericError("other requests kept changing the object") from None

        return self._trying(key, attempt)

    def swap(self, key: str, data: bytes, tag: str) -> str | None:
        """Write with `If-Match`. Google compares generation numbers, so for `gs://` look up the tag's generation."""
        from obstore.exceptions import PreconditionError

        def attempt() -> str | None:
            condition = {"e_tag": tag}
            try:
                if self.url.startswith("gs://"):
                    found = self._store.head(key)
                    condition = {"version": found["version"] if found["e_tag"] == tag else "1"}
                return str(self._store.put(key, data, mode=condition, use_multipart=False)["e_tag"])
            except (PreconditionError, FileNotFoundError) as error:
                if "NoSuchBucket" in str(error):
                    raise
            try:  # a lost answer: the first try may have replaced it
                now = self._store.get(key)
                return str(now.meta["e_tag"]) if bytes(now.bytes()) == data else None
            except FileNotFoundError:
                return None

        return self._trying(key, attempt)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """List in pages of a thousand; after a failure, go on behind the last one.

        Some tools mark a folder with an empty object, such as `prefix/sub/`; obstore drops the slash from its key.
        These marks are left out. The mark of an empty folder looks like any empty object, so it is listed.
        """
        pages: Iterator[Any] | None = None
        last: str | None = None

        def page() -> Any:
            nonlocal pages
            pages = pages or iter(self._store.list(prefix or None, offset=last, chunk_size=1000))
            try:
                return next(pages, ())
            except Exception:
                pages = None
                raise

        empty: Entry | None = None
        while found := self._trying(prefix, page):
            for entry in map(_object, found):
                if empty is not None and not entry.key.startswith(f"{empty.key}/"):
                    yield empty
                empty = None if entry.size else entry
                if entry.size:
                    yield entry
                elif entry.key == prefix.rstrip("/"):
                    empty = None
            last = found[-1]["path"]
        if empty is not None:
            yield empty

    def delete(self, keys: Iterable[str]) -> None:
        """Delete in bulk, a thousand per request."""
        if wanted := list(keys):
            self._trying(wanted[0], lambda: self._store.delete(wanted))

    def _trying(self, key: str, attempt: Callable[[], T]) -> T:
        """Call `attempt` again while the store is out of reach, as long as `PATIENCE`."""
        if not self._answered:
            self._meet()
        return self._again(key, attempt, self.PATIENCE)

    def _meet(self) -> None:
        """Ask for an object that is not there, and for its body: of a HEAD no error has a code that says why."""
        store = self._connect("9s", retries=0)  # a busy store may be slow
        try:
            self._again("", lambda: store.get(".polite-flamingo").bytes(), self.FIRST_PATIENCE)
        except FileNotFoundError:
            pass
        except PathUnavailable as error:
            if "<Code>AccessDenied</Code>" not in str(error.__cause__):  # who may read but not list is told so as well
                raise
        self._answered = True

    def _again(self, key: str, attempt: Callable[[], T], seconds: float) -> T:
        deadline, pause = time.monotonic() + seconds, 0.1
        while True:
            try:
                with self._reaching(key):
                    done = attempt()
                self._told = False
                return done
            except PathUnavailable as error:
                if not _passing(error.__cause__) or time.monotonic() >= deadline:
                    raise
                if self._answered and pause >= self.LONGEST_PAUSE and not self._told:
                    self._told = True
                    print(f"{error}; trying again for {seconds:.0f} s", file=sys.stderr, flush=True)
            time.sleep(min(pause * random.uniform(0.5, 1), max(0.0, deadline - time.monotonic())))
            pause = min(2 * pause, self.LONGEST_PAUSE)

    @contextmanager
    def _reaching(self, key: str) -> Iterator[None]:
        """Turn obstore's errors, which are not `OSError`s, into one line that says what to do."""
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                raise PathUnavailable(f"{self.url} cannot be used: {explained(error, self.url[:2])}") from error
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.url + key) from error
        except (BaseError, ValueError) as error:
            raise PathUnavailable(f"{self.url}{key} cannot be used: {explained(error, self.url[:2])}") from error


get_bucket = functools.cache(Bucket)
"""A bucket by its address; each has a pool of connections."""


def _received(url: str, answered: bool) -> Bucket:
    """Return the bucket of a pickle."""
    bucket = get_bucket(url)
    bucket._answered |= answered
    return bucket


_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")


def _is_an_endpoint(address: str) -> bool:
    """Whether an address is one of a server; obstore panics if it is not."""
    try:
        parts = urlsplit(address)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and not set(" \t\n") & {*address}
        )
    except ValueError:
        return False


def _on_a_private_network() -> bool:
    """Whether the environment leads to a server without TLS, which only makes sense on the user's own network."""
    plain = [name for name in _ENDPOINTS if os.environ.get(name, "").startswith("http://")]
    emulated = re.search(r'"gcs_base_url"\s*:\s*"http://', os.environ.get("GOOGLE_SERVICE_ACCOUNT_KEY", ""))
    return bool(plain or emulated or os.environ.get("AZURE_STORAGE_USE_EMULATOR"))


_OF_CONFIGURATION = r"without LOCATION|builder error|must be specified|required for|\(code: AccessDenied\)"


def _passing(error: BaseException | None) -> bool:
    """Whether an error of obstore may pass by itself: no answer, 408, 429, 5xx."""
    from obstore.exceptions import GenericError

    status = re.search(r"status code: (\d{3})", str(error))
    refused = status is not None and status[1] not in ("408", "429") and (status[1] < "500" or status[1] == "501")
    return type(error) is GenericError and not refused and not re.search(_OF_CONFIGURATION, str(error))


_ACCESS_DENIED = "access is denied: the key needs permission to list, read, write and delete there"
_BUSY = "the store is overloaded and answered every try with SlowDown: try again later, with fewer actors"
_NOT_IMPLEMENTED = "the store cannot do what is asked of it, perhaps puts with a condition: use another store"
_NO_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role; profiles and SSO in ~/.aws are "
    'not read: eval "$(aws configure export-credentials --format env)"',
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, run gcloud auth application-default login, or give the machine a role",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or give the machine a role",
}

_REMEDIES = {
    "<Code>NoSuchBucket<": "there is no such bucket: create it, or correct the address",
    "<Code>ContainerNotFound<": "there is no such container: create it, or correct the address",
    "<Code>InvalidAccessKeyId<": "the store does not know the access key: check AWS_ACCESS_KEY_ID",
    "<Code>SignatureDoesNotMatch<": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY",
    "<Code>RequestTimeTooSkewed<": "this machine's clock is wrong: set it (NTP)",
    "<Code>AccessDenied<": _ACCESS_DENIED,
    "(code: AccessDenied)": _ACCESS_DENIED,  # of one key in a bulk deletion, whose status is 200
    "<Code>ExpiredToken<": "the session token has expired: renew the credentials",
    "<Code>NotImplemented<": _NOT_IMPLEMENTED,
    "<Code>AuthorizationHeaderMalformed<": "the region is wrong: set AWS_REGION to the bucket's",
    "without LOCATION": "the region is wrong: set AWS_REGION to the bucket's",
    "Missing AccessKeyId": "there is a secret key, but no access key: set AWS_ACCESS_KEY_ID too",
    "Missing SecretAccessKey": "there is an access key, but no secret key: set AWS_SECRET_ACCESS_KEY too",
    "Account must be specified": f"no credentials were found: {_NO_CREDENTIALS['az']}",
    "builder error": "its address is no https:// and is not named by AWS_ENDPOINT_URL: correct it",
    "status code: 401": "the store does not accept the credentials: correct or renew them",
    "status code: 403": _ACCESS_DENIED,
    "status code: 429": _BUSY,
    "status code: 501": _NOT_IMPLEMENTED,
    "status code: 503": _BUSY,
    "status code: 5": "the store answered every try with an error of its own (5xx): try again later, or see its log",
}
"""What obstore's text means for the user; the first that is found counts."""


def explained(error: Exception, scheme: str = "s3") -> str:
    """Return one line on why a store failed and what to do."""
    text = str(error).split("\n\nDebug source", 1)[0]
    if re.search(r"169\.254\.169\.254|metadata|token request", text):
        return f"no credentials were found: {_NO_CREDENTIALS[scheme]}"
    if found := re.search(r'Error parsing Path "(.*)": Enc|Path "(.*)" contained empty', text, re.DOTALL):
        key = found[1] or found[2]
        return f"the name {key!r} has a part `.` or `..` or without a name, or a control character: rename or delete it"
    for sign, remedy in _REMEDIES.items():
        if sign in text:
            return remedy
    if re.search("error sending request|timed out|body error", text):
        address = re.search(r"https?://[^/ ]+", text)
        store = f"the store at {address[0] if address else 'this address'}"
        if "InvalidCertificate" in str(error):
            return f"{store} has a certificate that is not trusted: set SSL_CERT_FILE to that of its authority"
        if "InvalidContentType" in str(error):
            return f"{store} does not speak TLS: begin its address with http://"
        return f"{store} does not answer: check its address and network"
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())[:300]


def _object(meta: Any) -> Entry:
    return Entry(key=meta["path"], size=meta["size"], tag=meta["e_tag"] or "")
