"""What this machine must offer before Ray is started or joined: without it Ray hangs, or loses workers."""

from __future__ import annotations

import resource
import shutil
import socket
import tempfile
from pathlib import Path

_CONNECT_SECONDS = 5.0

_ROOM = 200 << 20
"""Bytes that a private Ray needs on the disk of its temporary folder at first: logs, sockets, spilled objects."""

_LONGEST_FOLDER = 40
"""Characters of the temporary folder: a socket's path may have 107, of which Ray takes 66."""

_FILES = 1024
"""Files that a process of Ray must be allowed to open."""


class RayUnavailable(OSError):
    """Ray cannot be started or joined. The message is one line: what is wrong, and what to do."""


def check_folder(folder: Path) -> None:
    """Raise `RayUnavailable` if Ray's temporary folder cannot hold what it writes: Ray would hang, or lose workers."""
    remedy = "free some, or set RAY_TMPDIR to a folder on another disk (a short path)"
    try:
        (folder / "ray").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder / "ray") as trial:
            trial.write(bytes(1 << 16))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise RayUnavailable(
            f"Ray could not start: {folder / 'ray'} cannot be written ({error.strerror}); "
            "make it writable, or set RAY_TMPDIR to another folder (a short path)"
        ) from error
    if len(str(folder).encode()) > _LONGEST_FOLDER:
        raise RayUnavailable(
            f"Ray could not start: the path {folder} is too long for the sockets in it; "
            f"set RAY_TMPDIR to a folder of at most {_LONGEST_FOLDER} characters"
        )
    if free < _ROOM:
        raise RayUnavailable(
            f"Ray could not start: {folder} has {free >> 20} MiB left and Ray needs {_ROOM >> 20}; {remedy}"
        )


def check_limits() -> None:
    """Raise `RayUnavailable` if this process may open too few files and cannot raise its own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES and soft != resource.RLIM_INFINITY:
        if hard != resource.RLIM_INFINITY and hard < _FILES:
            raise RayUnavailable(
                f"Ray could not start: this process may open {hard} files, and Ray needs {_FILES} or more; "
                "raise the limit (`ulimit -n 8192`, or the container's)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, hard))


def check_network(address: str) -> None:
    """Raise `RayUnavailable` if this machine cannot reach its own `address`, which Ray's processes use to talk."""
    try:
        with socket.create_server(("", 0)) as listening:
            port = listening.getsockname()[1]
            socket.create_connection((address, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise RayUnavailable(
            f"Ray could not start: this machine cannot reach its own address {address} "
            f"({error.strerror or error}); bring its network up (`ip link set lo up`), or open the firewall for it"
        ) from error


def check_reachable(address: str, problem: str, remedy: str) -> None:
    """Raise `RayUnavailable` if nobody listens at `host:port`; other forms (`auto`, `ray://…`) are left to Ray."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local") or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RayUnavailable(f"{problem} ({reason}); {remedy}") from None
