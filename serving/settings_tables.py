"""Tables of the service's settings for the docs, generated from the config dataclasses so that none can be missing.

    python -m serving.settings_tables docs/serving.md      updates them in the page, between its two marks

The meanings come from the docstrings of `config.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polite_flamingo.config_fields import meanings
from polite_flamingo.formatting import table
from serving.config import ReplicasConfig, ScaleConfig, ServingConfig

BEGIN = "<!-- settings: python -m serving.settings_tables docs/serving.md -->"
END = "<!-- end of settings -->"


def rows(config: type, prefix: str) -> Iterator[tuple[str, Any, str]]:
    """Yield name, default and meaning of every setting in `config` and its sections, except models and replicas."""
    said = meanings(config)
    for field in dataclasses.fields(config):
        if field.default_factory is not dataclasses.MISSING:
            yield from rows(type(field.default_factory()), f"{prefix}{field.name}.")
        elif field.default is not dataclasses.MISSING and not isinstance(field.default, ReplicasConfig):
            yield prefix + field.name, field.default, said[field.name]


def tables() -> str:
    """Return Markdown: everything under `serving`, then the settings of each deployment."""
    deployments = [one.name for one in dataclasses.fields(ScaleConfig) if isinstance(one.default, ReplicasConfig)]
    some = f"Each of {', '.join(f'`serving.scale.{name}`' for name in deployments)} has:"
    return "\n\n".join((_table(rows(ServingConfig, "serving.")), some, _table(rows(ReplicasConfig, ""))))


def _table(found: Iterator[tuple[str, Any, str]]) -> str:
    return "\n".join(
        table(["setting", "default", ""], [[f"`{name}`", _shown(default), text] for name, default, text in found])
    )


def _shown(value: Any) -> str:
    if value in ("", ()):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value >= 1 << 20 and not value % (1 << 20):
        return f"{value >> 20} MiB ({value})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def put_into(page: str) -> str:
    """Return the page with its tables up to date.

    Raises:
        ValueError: the two marks are missing.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page must hold the lines {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{tables()}\n\n{END}{tail}"


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m serving.settings_tables", description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, help="a Markdown file with the two marks, updated in place")
    page = parser.parse_args(arguments).page
    try:
        page.write_text(put_into(page.read_text(encoding="utf-8")), encoding="utf-8")
    except (OSError, ValueError) as error:
        parser.error(f"{page}: {error}")


if __name__ == "__main__":
    main()
