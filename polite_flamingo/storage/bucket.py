"""A store in a bucket: s3://, gs:// or az://, through obstore.

Credentials come from each machine's environment: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
GOOGLE_APPLICATION_CREDENTIALS and so on.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, BinaryIO, ClassVar

from polite_flamingo.storage.store import Entry, Store
from polite_flamingo.storage.visibility import PathUnavailable

SCHEMES = ("s3://", "gs://", "az://")


class Bucket(Store):
    """A bucket. A put is one request up to `ONE_REQUEST`, so that nothing is left to sweep."""

    ONE_REQUEST = 64 << 20
    """Largest object in bytes that is sent in one request; larger ones in parts, which only their end publishes."""

    _RETRIES: ClassVar[Any] = {
        "max_retries": 10,
        "retry_timeout": timedelta(minutes=3),
    }  # of 5xx, timeouts and lost connections

    def __init__(self, url: str):
        from obstore.store import from_url

        self.url = url
        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")  # a server on the user's own network
        client: Any = {"allow_http": plain, "connect_timeout": "5s", "timeout": "120s"}
        with self._reaching(""):
            self._store = from_url(self.url, client_options=client, retry_config=self._RETRIES)

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, (self.url,)  # credentials come from each machine's environment, never from a pickle

    def head(self, key: str) -> Entry | None:
        """Ask for an object's size and ETag."""
        try:
            with self._reaching(key):
                return _object(self._store.head(key))
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
        with self._reaching(key):
            try:
                return bytes(self._store.get(key, options=options).bytes())
            except PreconditionError:
                changed = f"{self.url}{key} was replaced since the job looked at it"
                raise PathUnavailable(f"{changed}; run the same command again") from None

    @contextmanager
    def writer(self, key: str, *, sync: bool = True) -> Iterator[BinaryIO]:
        """Collect the bytes on this machine, then send them in one request, or in parts if they are many."""
        with tempfile.SpooledTemporaryFile(self.ONE_REQUEST) as spool:
            yield spool  # type: ignore[misc]
            size = spool.tell()
            spool.seek(0)
            with self._reaching(key):
                self._store.put(key, spool, use_multipart=size > self.ONE_REQUEST)  # type: ignore[arg-type]

    def create(self, key: str, data: bytes) -> bool:
        """Write with `If-None-Match: *`."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._reaching(key):
            try:
                self._store.put(key, data, mode="create", use_multipart=False)
                return True
            except (AlreadyExistsError, PreconditionError):
                pass
        return self.get(key) == data

    def swap(self, key: str, data: bytes, tag: str) -> str | None:
        """Write with `If-Match`."""
        from obstore.exceptions import PreconditionError

        with self._reaching(key):
            try:
                return str(self._store.put(key, data, mode={"e_tag": tag}, use_multipart=False)["e_tag"])
            except (PreconditionError, FileNotFoundError):
                pass
        found = self.head(key)  # a lost answer: the first try may have replaced it
        return found.tag if found is not None and self.get(key) == data else None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """List in pages of a thousand."""
        with self._reaching(prefix):
            for page in self._store.list(prefix or None):
                yield from map(_object, page)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete in bulk, a thousand per request."""
        if wanted := list(keys):
            with self._reaching(wanted[0]):
                self._store.delete(wanted)

    @contextmanager
    def _reaching(self, key: str) -> Iterator[None]:
        """Turn obstore's errors, which are not `OSError`s, into one line that says what to do."""
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        try:
            yield
        except (AlreadyExistsError, PreconditionError):
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise PathUnavailable(f"{self.url} cannot be used: {explained(error)}") from error
            raise
        except (BaseError, ValueError) as error:
            raise PathUnavailable(f"{self.url}{key} cannot be used: {explained(error)}") from error


_REMEDIES = {
    "NoSuchBucket": "there is no such bucket: create it, or correct the address",
    "InvalidAccessKeyId": "the store does not know the access key: check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it (NTP)",
    "AccessDenied": "access is denied: the key needs permission to list, read, write and delete there",
    "ExpiredToken": "the session token has expired: renew the credentials",
    "SlowDown": "the store is overloaded and answered every retry with SlowDown: try again later, with fewer actors",
}
"""What an error code of S3 means for the user."""


def explained(error: Exception) -> str:
    """Return one line on why a store failed and what to do."""
    text = str(error).split("\n\nDebug source", 1)[0]
    code = re.search(r"<Code>(\w+)</Code>", text)
    if code and code[1] in _REMEDIES:
        return _REMEDIES[code[1]]
    if "169.254.169.254" in text or "metadata" in text.lower():
        return "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
    if "error sending request" in text or "timed out" in text:
        address = re.search(r"https?://[^/ ]+", text)
        return (
            f"the store at {address[0] if address else 'this address'} does not answer: check its address and network"
        )
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())[:300]


def _object(meta: Any) -> Entry:
    return Entry(key=meta["path"], size=meta["size"], tag=meta["e_tag"] or "")
