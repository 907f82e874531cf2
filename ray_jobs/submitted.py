"""Refuse relative paths in a submitted job: its working directory is a copy that Ray throws away.

`ray job submit --working-dir .` packs the folder, and the command runs in the copy, below Ray's temporary folder. A
relative input would be read from the copy, and a relative output written into it, where nobody looks and the next job
cleans up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from polite_flamingo.storage.user_paths import is_address

_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray's job supervisor for the command of a submitted job."""


def refuse_relative(path: str, option: str) -> str:
    """Return an absolute path or an address; raise `ValueError` for a relative one if this is a submitted job."""
    if _MARK not in os.environ or Path(path).is_absolute() or is_address(path):
        return path
    raise ValueError(
        f"{option} {path}: a submitted job runs in a temporary copy of the working directory ({Path.cwd()}), where "
        f"this relative path would be lost; give an absolute path that all machines see, such as {option} "
        f"/shared/{path.removeprefix('./')}"
    )


def refuse_relative_data(config: Any) -> None:
    """Call `refuse_relative` on the paths of data in a job's config."""
    with_paths(config, refuse_relative)


def with_paths(config: Any, change: Callable[[str, str], str]) -> Any:
    """Return a job's config with `change(path, option)` for each path of its input, output, model and mixture."""
    given = {name: getattr(config, name, None) for name in ("input", "out", "init", "to")}
    paths: dict[str, Any] = {
        name: change(path, f"--{name}") for name, path in given.items() if path or (path == "" and name != "init")
    }
    for key, one in getattr(config, "data", {}).items():
        shards = change(one if isinstance(one, str) else one.shards, f"--data.{key}")
        whole = shards if isinstance(one, str) else replace(one, shards=shards)
        paths["data"] = {**paths.get("data", {}), key: whole}
    return replace(config, **paths)
