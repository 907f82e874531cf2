"""When a figure passes, warns or fails: limits that users can move, each with the reason for its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling
from polite_flamingo.preference.pairing import WEIGHTS, check_weights

Verdict = Literal["pass", "warn", "fail", "not_measured"]

WORST_FIRST: tuple[Verdict, ...] = ("fail", "warn", "pass", "not_measured")


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Two thresholds of a figure. It is the worse the higher, unless `fail` is below `warn`.

    Attributes:
        warn: beyond this the check warns.
        fail: beyond this the check fails.
    """

    warn: float
    fail: float

    def verdict(self, found: Estimate) -> Verdict:
        """Judge a figure: its whole interval must lie beyond a threshold, so that chance alone fails nothing.

        A figure that is itself beyond `fail` warns, however wide its interval. Without an interval the figure decides.
        """
        if found.value is None:
            return "not_measured"
        up = 1 if self.fail >= self.warn else -1
        near = found.low if up > 0 else found.high
        near = found.value if near is None else near
        if up * near > up * self.fail:
            return "fail"
        return "warn" if up * near > up * self.warn or up * found.value > up * self.fail else "pass"

    def words(self, *, share: bool, either_side: bool = False) -> str:
        """Say when it warns and fails."""
        side = "above" if self.fail >= self.warn else "below"
        factor, unit = (100, " %") if share else (1, "")
        sign = "±" if either_side else ""
        return f"warns {side} {sign}{factor * self.warn:g}{unit}, fails {side} {sign}{factor * self.fail:g}{unit}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """All limits.

    Attributes:
        least: fewest prompts (or pairs) of which a figure is judged; with fewer it counts as not measured.
        reversed: share of pairs whose rejected answer has the higher rating. It is 0 unless labels were flipped.
        ties: share of comparisons that end level. A judge that gives all answers the same rating says little.
        halo: correlation of two attributes. The paper's judge has 0.93 for helpfulness and correctness; nearly 1 means
            that one opinion was written down several times.
        length: area under the ROC curve of length alone, or of shortness, as a guess of what is chosen; 0.5 is chance.
            Training on pairs that length explains teaches length.
        length_excess: how much more often the judge prefers the longer answer than the reference does, on the same
            pairs. With a reference, this fails the check and `length` alone only warns: better answers may be longer.
        place: how far the ratings at one place lie from the mean of all, in standard deviations of the answers' scores.
        order: share of choices lost when the two answers change their order, beyond those lost when they do not.
        alone: share of choices lost when each answer is rated by itself, likewise.
        judges: Cohen's kappa of choices, against another judge.
        people: Cohen's kappa of choices or ratings, against people; people reach about 0.6 among themselves.
        keep: share of pairs that people would keep.
        blind: share of the choice, beyond chance, that is left without the picture; 1 if nothing is lost.
        noise: estimated share of a single reading's choices that are opposite to the judge's own steady opinion.
        sides: share of pairs that cannot teach anything: equal or empty sides.
        repeated: share of pairs that repeat an earlier one, and of prompts that nearly repeat an earlier one.
        contradictions: share of pairs that say the opposite of another pair.
        leaks: share of prompts that also stand in an evaluation set, with the same pictures.
        near_text: similarity of two questions from which they count as the same.
    """

    least: int = 30
    reversed: Limit = field(default_factory=lambda: Limit(warn=0.02, fail=0.1))
    ties: Limit = field(default_factory=lambda: Limit(warn=0.5, fail=0.9))
    halo: Limit = field(default_factory=lambda: Limit(warn=0.95, fail=0.995))
    length: Limit = field(default_factory=lambda: Limit(warn=0.6, fail=0.7))
    length_excess: Limit = field(default_factory=lambda: Limit(warn=0.05, fail=0.1))
    place: Limit = field(default_factory=lambda: Limit(warn=0.1, fail=0.25))
    order: Limit = field(default_factory=lambda: Limit(warn=0.1, fail=0.2))
    alone: Limit = field(default_factory=lambda: Limit(warn=0.15, fail=0.3))
    judges: Limit = field(default_factory=lambda: Limit(warn=0.4, fail=0.2))
    people: Limit = field(default_factory=lambda: Limit(warn=0.4, fail=0.2))
    keep: Limit = field(default_factory=lambda: Limit(warn=0.7, fail=0.5))
    blind: Limit = field(default_factory=lambda: Limit(warn=0.6, fail=0.8))
    noise: Limit = field(default_factory=lambda: Limit(warn=0.1, fail=0.2))
    sides: Limit = field(default_factory=lambda: Limit(warn=0.0, fail=0.01))
    repeated: Limit = field(default_factory=lambda: Limit(warn=0.02, fail=0.1))
    contradictions: Limit = field(default_factory=lambda: Limit(warn=0.0, fail=0.01))
    leaks: Limit = field(default_factory=lambda: Limit(warn=0.0, fail=0.01))
    near_text: float = 0.9

    def __post_init__(self) -> None:
        """Raise ValueError for a limit under which no verdict means anything."""
        if self.least < 2:
            raise ValueError("least: must be at least 2")
        if not 0 < self.near_text <= 1:
            raise ValueError("near_text: must lie in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """What is audited, and how.

    Attributes:
        judge: the judge whose ratings made the pairs. May be omitted if the pairs name it, or if only one judge rated
            besides the reference.
        reference: a judge that is taken to be right where it also rated, such as the exact rule of Shapes.
        weights: of helpfulness, correctness, coherence, complexity and verbosity in a score; as in `pair`.
        expected: use the ratings expected by the judge's log-probabilities where there are any; as in `pair`.
        margin: the pairs' least difference of scores; a smaller one counts as too close to make a label of.
        limits: when a figure warns and fails.
        shown: most pairs in the gallery.
        near: compare questions and pictures that are only nearly equal, too; it decodes every picture.
        resampling: how intervals are made; prompts are resampled, with all their answers.
    """

    judge: str = ""
    reference: str = "rule"
    weights: tuple[float, ...] = WEIGHTS
    expected: bool = False
    margin: float = 2.0
    limits: Limits = field(default_factory=Limits)
    shown: int = 12
    near: bool = True
    resampling: Resampling = field(default_factory=lambda: Resampling(draws=400))

    def __post_init__(self) -> None:
        """Raise ValueError for weights that give no score."""
        check_weights(self.weights)
