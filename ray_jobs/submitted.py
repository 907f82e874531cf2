"""Refuse relative paths in a submitted job: its working directory is a copy that Ray throws away.

`ray job submit --working-dir .` packs the folder, and the command runs in the copy, below Ray's temporary folder. A
relative input would be read from the copy, and a relative output written into it, where nobody looks and the next job
cleans up.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray's job supervisor for the command of a submitted job."""


def is_submitted() -> bool:
    """Whether this process is the command of a submitted job."""
    return _MARK in os.environ


def refuse_relative(paths: Mapping[str, Iterable[str | Path]]) -> None:
    """Raise `ValueError` if this is a submitted job and a path is relative.

    Args:
        paths: option -> paths of data that it gives.
    """
    if not is_submitted():
        return
    for option, given in paths.items():
        for path in map(str, given):
            if not Path(path).is_absolute():
                raise ValueError(
                    f"{option} {path}: a submitted job runs in a temporary copy of the working directory "
                    f"({Path.cwd()}), where this relative path would be lost; give an absolute path that all machines "
                    f"see, such as {option} /shared/{path.removeprefix('./')}"
                )


def refuse_relative_data(config: Any) -> None:
    """Call `refuse_relative` on the paths in a job's config: `input`, `out`, and `data` of a training."""
    paths = {f"--{name}": [getattr(config, name)] for name in ("input", "out") if getattr(config, name, None)}
    for name, given in getattr(config, "data", {}).items():
        paths[f"--data.{name}"] = [given if isinstance(given, str) else given.shards]
    refuse_relative(paths)
