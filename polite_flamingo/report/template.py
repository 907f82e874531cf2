"""Fill a template to make a self-contained page: `base.html` around `NAME.html`, with `base.css` and `NAME.css` inside.

The page's content policy forbids scripts and requests. Values are escaped and stripped of control characters, except
our own `Markup`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from polite_flamingo.formatting import fixed, money
from polite_flamingo.report.gallery import printable, readable

FOLDER = Path(__file__).parent


def fill(name: str, *, styles: Sequence[str] = (), folder: Path = FOLDER, **values: Any) -> str:
    """Return a page as HTML; lone surrogates, which cannot be encoded, become "?".

    Args:
        name: name of the page's own .html and .css.
        styles: names of further .css files, between base.css and the page's own.
        folder: folder of the page's own .html and .css.
        values: the template's variables.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader((folder, FOLDER)),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": "{:,}".format, "percent": _percent, "number": fixed, "readable": readable, "moment": _moment,
        "money": money,
    }  # fmt: skip
    files = [*(FOLDER / f"{part}.css" for part in ("base", *styles)), folder / f"{name}.css"]
    style = "".join(file.read_text(encoding="utf-8") for file in files)
    page = environment.get_template(f"{name}.html").render(style=Markup(style), **values)  # the style is ours
    return page.encode("utf-8", "replace").decode()


def _moment(iso: str) -> str:
    """Format a time as 29 November 2026, 13:20 UTC."""
    return datetime.fromisoformat(iso).strftime("%-d %B %Y, %H:%M %Z").strip()


def _percent(part: int, whole: int) -> str:
    """Format a share in per cent, with one decimal unless it is 0 % or rounds to 100 %."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return f"{share:.1f} %" if 0 < share < 99.95 else f"{share:.0f} %"
