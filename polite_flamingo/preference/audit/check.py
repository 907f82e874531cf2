"""What a check finds: figures with verdicts, and which data is missing for the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from polite_flamingo.evaluation.bootstrap import Estimate
from polite_flamingo.preference.audit.limits import WORST_FIRST, AuditSettings, Limit, Verdict

Rows = Sequence[Sequence[float | str | None]]
"""What a chart draws."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure.

    Attributes:
        name: what it is, in a few words.
        found: the figure and its interval; `n` counts what was resampled, mostly prompts.
        share: whether it is a share, shown in per cent.
        verdict: "not_measured" if it has none of its own.
        limit: when it warns and fails; "" if it never does.
        about: what the figure says, or why it was not judged.
    """

    name: str
    found: Estimate
    share: bool = True
    verdict: Verdict = "not_measured"
    limit: str = ""
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question about the ratings or the pairs, with its answer.

    Attributes:
        name: as in `audit.CHECKS`.
        measures: the figures.
        missing: which data is needed for what was not measured.
        charts: what the page draws, by name.
    """

    name: str
    measures: tuple[Measure, ...] = ()
    missing: tuple[str, ...] = ()
    charts: dict[str, Rows] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of its figures."""
        found = {one.verdict for one in self.measures}
        return next((one for one in WORST_FIRST if one in found), "not_measured")


class Findings:
    """Collects what one check finds."""

    def __init__(self, name: str, settings: AuditSettings) -> None:
        self._name, self._least = name, settings.limits.least
        self._measures, self._missing = list[Measure](), list[str]()
        self._charts: dict[str, list[Sequence[float | str | None]]] = {}

    def add(
        self, name: str, found: Estimate, limit: Limit | None = None, *, share: bool = True, about: str = "",
        either_side: bool = False, only_warns: bool = False, whole: bool = False,
    ) -> None:  # fmt: skip
        """Add a figure, unless there is none.

        Args:
            name: what it is.
            found: the figure.
            limit: when it warns and fails, if ever.
            share: whether it is a share.
            about: what it says.
            either_side: whether a figure below 0 is as bad as one above.
            only_warns: whether it warns where it would fail.
            whole: whether everything was counted, so that few are enough for a verdict.
        """
        if found.value is None:
            return
        verdict: Verdict = "not_measured"
        if limit and found.n < self._least and not whole:
            about = f"Only {found.n:,}: a verdict needs {self._least:,}. {about}".strip()
        elif limit:
            verdicts = [limit.verdict(one) for one in ([found, _negative(found)] if either_side else [found])]
            verdict = min(verdicts, key=WORST_FIRST.index)
        one = Measure(
            name=name, found=found, share=share, verdict=verdict, about=about,
            limit=limit.words(share=share, either_side=either_side) if limit else "",
        )  # fmt: skip
        if only_warns and limit:
            one = dataclasses.replace(one, limit=one.limit.partition(",")[0])
            one = dataclasses.replace(one, verdict="warn") if verdict == "fail" else one
        self._measures.append(one)

    def lacks(self, data: str) -> None:
        """Note which data is missing."""
        self._missing.append(data)

    def draw(self, chart: str, *row: float | str | None) -> None:
        """Add a row to a chart."""
        self._charts.setdefault(chart, []).append(row)

    def draw_estimate(self, chart: str, name: str, found: Estimate) -> None:
        """Add a name, a figure and its interval to a chart."""
        if found.value is not None:
            self.draw(chart, name, found.value, found.low, found.high)

    def check(self) -> Check:
        """Return what was found."""
        return Check(
            name=self._name, measures=tuple(self._measures), missing=tuple(self._missing), charts=dict(self._charts)
        )


def counted(part: int, total: int) -> Estimate:
    """Return a share that was counted, not sampled: it has no interval."""
    return Estimate(value=part / total if total else None, low=None, high=None, n=total)


def _negative(one: Estimate) -> Estimate:
    value, low, high = (None if end is None else -end for end in (one.value, one.high, one.low))
    return Estimate(value=value, low=low, high=high, n=one.n)
