"""API keys: a file of their hashes, and the command that creates, lists and revokes them.

    polite-flamingo keys new "the demo page" --requests-per-minute 60
    polite-flamingo keys list
    polite-flamingo keys revoke key_1f0c9a2e

A key is 256 random bits and is shown once; the file holds its SHA-256. A slow hash is for passwords, which can be
guessed from a list. Nobody guesses 256 random bits, so a fast hash is as safe and costs a request microseconds. A
running server reloads the file when it changes. Nothing here knows HTTP.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from polite_flamingo.storage.location import replacing
from polite_flamingo.text_files import NotText, decoded

PREFIX = "pf-"
CHECK_SECONDS = 1.0
"""Seconds between two checks whether the file has changed."""
_log = logging.getLogger(__name__)


def _seconds(text: str) -> float:
    """Return an ISO 8601 date in seconds since 1970; 0 for ""."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).timestamp() if text else 0.0
    except (ValueError, OverflowError):
        raise PydanticCustomError("date", "must be a date such as 2030-12-31T00:00:00+00:00") from None


def _date(text: str) -> str:
    _seconds(text)
    return text


_Date = Annotated[str, AfterValidator(_date)]
_Limit = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class Key:
    """The record of an API key, which never holds the key itself.

    Attributes:
        id: names the key in logs and for `revoke`; reveals nothing of it.
        name: who or what it is for.
        sha256: SHA-256 of the whole key, in hexadecimal.
        created, expires, revoked: ISO 8601 with a time zone; "" for never.
        requests_per_minute, concurrent_requests: limits; None for the profile's, 0 for no limit.

    Raises:
        ValidationError: names the field at fault.
    """

    id: Annotated[str, Field(min_length=1)]
    name: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created: _Date
    expires: _Date = ""
    revoked: _Date = ""
    requests_per_minute: _Limit | None = None
    concurrent_requests: _Limit | None = None

    def state(self, now: float) -> str:
        """ "active", "expired" or "revoked" at `now`, in seconds since 1970."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires and _seconds(self.expires) <= now else "active"


def read_keys(path: Path) -> list[Key]:
    """Return all keys in a file, in order.

    Raises:
        ValueError: the file cannot be read, or is not a file of keys; one line, without a hash.
    """
    try:
        content = json.loads(decoded(path.read_bytes()))
    except NotText as error:
        raise ValueError(f"{path}: not a JSON file, as it is {error}") from None
    except OSError as error:
        why = error.strerror or "cannot be read"
        raise ValueError(f"{path}: {why}; `polite-flamingo keys new NAME --file {path}` makes one") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: not a JSON file") from None
    records = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise ValueError(f'{path}: must hold {{"keys": [...]}}')
    found = []
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: keys[{number}]: must be an object")
        try:
            found.append(Key(**record))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, (f"keys[{number}]", *first["loc"])))
            raise ValueError(f"{path}: {where}: {first['msg']}") from None
    for unique in ("id", "sha256"):
        if len({getattr(key, unique) for key in found}) < len(found):
            raise ValueError(f"{path}: two keys have the same `{unique}`")
    return found


def write_keys(path: Path, keys: Sequence[Key]) -> None:
    """Replace the file atomically; only its owner may read it."""
    text = json.dumps({"keys": [asdict(key) for key in keys]}, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text.encode())


class KeyRing:
    """The keys of a file, reloaded when it changes. For one thread."""

    def __init__(self, path: Path | str, clock: Callable[[], float] = time.monotonic):
        """Read the file. Raises ValueError like `read_keys`."""
        self._path, self._clock = Path(path), clock
        self._version, self._checked = self._file_version(), clock()
        self._load()

    def find(self, secret: bytes) -> Key | None:
        """The record of a key, whatever its state; None if it is unknown."""
        self._reload_if_changed()
        digest = hashlib.sha256(secret).digest()
        key = self._by_digest.get(digest)
        return key if key is not None and hmac.compare_digest(bytes.fromhex(key.sha256), digest) else None

    def _reload_if_changed(self) -> None:
        """A file that is damaged or missing changes nothing: keys stay valid until a good file says otherwise."""
        now = self._clock()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        version = self._file_version()
        if version == self._version:
            return
        self._version = version
        try:
            self._load()
        except ValueError as error:
            _log.error("API keys not reloaded: %s", error)
        else:
            _log.info("API keys reloaded: %d", len(self._by_digest))

    def _load(self) -> None:
        self._by_digest = {bytes.fromhex(key.sha256): key for key in read_keys(self._path)}

    def _file_version(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def new_key(
    name: str, *, days: float = 0, requests_per_minute: int | None = None, concurrent_requests: int | None = None
) -> tuple[str, Key]:
    """Make a key. Returns the secret and its record. Args: as `Key`; days: until it expires, 0 for never."""
    secret = PREFIX + secrets.token_urlsafe(32)
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        expires = (now + timedelta(days=days)).isoformat() if days else ""
    except OverflowError:
        raise ValueError(f"--days {days:g} is beyond the calendar") from None
    return secret, Key(
        id=f"key_{secrets.token_hex(4)}",
        name=name,
        sha256=hashlib.sha256(secret.encode()).hexdigest(),
        created=now.isoformat(),
        expires=expires,
        requests_per_minute=requests_per_minute,
        concurrent_requests=concurrent_requests,
    )


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file. The lock is on the folder, so no lock file stays behind."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _new(options: argparse.Namespace) -> None:
    secret, key = new_key(
        options.name,
        days=options.days,
        requests_per_minute=options.requests_per_minute,
        concurrent_requests=options.concurrent_requests,
    )
    options.file.parent.mkdir(parents=True, exist_ok=True)
    with _held(options.file):
        write_keys(options.file, [*(read_keys(options.file) if options.file.exists() else []), key])
    until = f" until {key.expires}" if key.expires else ""
    print(f"{key.id} for {key.name!r}{until}, in {options.file}. The key, shown this once:", file=sys.stderr)
    print(secret)


def _list(options: argparse.Namespace) -> None:
    now = time.time()
    row = "{:12}  {:7}  {:10}  {:10}  {:>10}  {:>7}  {}".format
    print(row("ID", "STATE", "CREATED", "EXPIRES", "PER MINUTE", "AT ONCE", "NAME"))
    for key in read_keys(options.file):
        limits = ("default" if one is None else one for one in (key.requests_per_minute, key.concurrent_requests))
        print(row(key.id, key.state(now), key.created[:10], key.expires[:10] or "never", *limits, key.name))


def _revoke(options: argparse.Namespace) -> None:
    with _held(options.file):
        keys = read_keys(options.file)
        if options.id not in {key.id for key in keys}:
            raise ValueError(f"{options.file} has no key {options.id}; `polite-flamingo keys list` shows them")
        now = datetime.now(UTC).replace(microsecond=0).isoformat()
        revoked = [replace(key, revoked=key.revoked or now) if key.id == options.id else key for key in keys]
        write_keys(options.file, revoked)
    print(f"{options.id} is revoked; running servers know within a second or two")


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--file", type=Path, default=Path("keys.json"), help="the file of keys (default: %(default)s)")
    parser = argparse.ArgumentParser(
        prog="polite-flamingo keys",
        description="Create, list and revoke API keys of the service (serving.access.keys names their file).",
        epilog="examples:\n" + __doc__.split("\n\n")[1].replace("    ", "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    new = commands.add_parser("new", parents=[common], help="create a key; it is shown once, on stdout")
    new.add_argument("name", help="who or what the key is for")
    new.add_argument("--days", type=_days, default=0, help="days until the key expires (default: never)")
    for limit in ("--requests-per-minute", "--concurrent-requests"):
        new.add_argument(limit, type=_count, metavar="N", help="0 for no limit (default: what the profile says)")
    new.set_defaults(do=_new)
    listing = commands.add_parser("list", parents=[common], help="list all keys, including revoked and expired")
    listing.set_defaults(do=_list)
    revoke = commands.add_parser("revoke", parents=[common], help="revoke a key")
    revoke.add_argument("id", help="such as key_1f0c9a2e")
    revoke.set_defaults(do=_revoke)
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError("must be a whole number, 0 for no limit")
    return int(text)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of days above 0")
    return days


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.do(options)
    except (ValueError, OSError) as error:
        print(f"keys: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
