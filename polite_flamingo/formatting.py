"""Tables in Markdown, and numbers as people read them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Return the lines of a table.

    Args:
        head: names of the columns.
        rows: cells; a bar in one is escaped unless it is already.
        right: the columns, from 0, that are aligned to the right.
    """
    rule = ["---:" if column in right else "---" for column in range(len(head))]
    cells = ([re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in row] for row in rows)
    return [f"| {' | '.join(row)} |" for row in (head, rule, *cells)]


def fixed(value: float | None, decimals: int = 2) -> str:
    """Return a number with this many decimals and a real minus sign; a dash for None."""
    return "–" if value is None else f"{value:z.{decimals}f}".replace("-", "−")


def trimmed(value: float, decimals: int = 3) -> str:
    """Return a number with as few decimals as it needs, at most `decimals`, and a real minus sign."""
    text = f"{value:,.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text.replace("-", "−")


def money(value: float, currency: str) -> str:
    """Return a sum of money; one below a cent has two digits that count."""
    amount = f"{value:,.2f}" if value >= 0.01 or not value else f"{value:.2g}"
    return f"{currency}{amount}" if len(currency) == 1 else f"{currency} {amount}"
