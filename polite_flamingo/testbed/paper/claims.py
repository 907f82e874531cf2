"""The paper's claims, its evidence for them, and what a repetition says about each.

The paper used other models and other data, so only the direction can agree. Facts of the paper ([PF], arXiv 2307.01003)
are stated here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polite_flamingo.testbed.paper.measures import MEASURES, REWRITING, between, gain, level, tax
from polite_flamingo.testbed.paper.results import PaperResults, Role
from polite_flamingo.testbed.study import claims
from polite_flamingo.testbed.study.claims import Claim, Finding
from polite_flamingo.testbed.study.measures import Spread


def findings(results: PaperResults) -> list[Finding]:
    """Return a finding for every claim whose models and generations are among the results."""
    there = {*results.roles, *(name for seed in results.seeds for name in seed.rewrites)}
    return claims.findings(CLAIMS, results, there)


def _rewriting(results: PaperResults) -> Spread:
    return between(results, ("first", "reward"), ("first", "reward_raw"))


def _gain(
    key: str, text: str, paper: str, role: Role, over: Role, measure: str, sign: Literal[-1, 0, 1], what: str
) -> Claim:
    """Return a claim about one model minus another."""
    return Claim(
        key=key, text=text, paper=paper, what=f"{MEASURES[measure].label}: {what}", measure=MEASURES[measure],
        sign=sign, needs=frozenset({role, over}), number=lambda results: gain(results, role, over, measure),
    )  # fmt: skip


def _rewrites(key: str, text: str, paper: str, number: str, sign: Literal[-1, 1]) -> Claim:
    return Claim(
        key=key, text=text, paper=paper, what=f"{REWRITING[number].label}: second generation minus the first",
        measure=REWRITING[number], sign=sign, needs=frozenset({"first", "second"}),
        number=lambda results: between(results, ("second", number), ("first", number)),
    )  # fmt: skip


def _tax(key: str, text: str, paper: str, role: Role, sign: Literal[0, 1]) -> Claim:
    return Claim(
        key=key, text=text, paper=paper,
        what="politeness on text: a model that saw the same texts and nothing else, minus this one",
        measure=MEASURES["text_politeness"], sign=sign, needs=frozenset({role, "text_only"}),
        number=lambda results: tax(results, role, "text_politeness"),
    )  # fmt: skip


CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="rewriting", text="Rewriting makes annotations more polite.",
        paper="mean reward of PF-1M: −2.42 before, −0.50 after", what="reward: rewritten minus raw", sign=1,
        measure=REWRITING["reward"], needs=frozenset({"first"}), number=_rewriting,
    ),
    _gain(
        "seeing", "Tuning on rewritten annotations teaches the model to answer questions about unseen pictures.",
        "VQA 43.3 / 43.6 / 29.0 %; Otter, of the same base, 28.7 / 28.7 / 13.5 %", "clever", "base", "accuracy_in", 1,
        "Clever Flamingo minus the base",
    ),
    _gain(
        "seeing_out", "… and about questions and scenes that tuning did not include.",
        "the sets above are held out from tuning", "clever", "base", "accuracy_out", 1,
        "Clever Flamingo minus the base",
    ),
    _gain(
        "raw_impolite", "Tuning on raw annotations costs politeness.", "politeness far down", "raw", "clever",
        "politeness", -1, "tuned on raw annotations minus tuned on rewritten ones",
    ),
    _tax("raw_tax", "Raw annotations impose an alignment tax on text-only skills.", "named as the problem", "raw", 1),
    _tax("no_tax", "Rewritten annotations cost next to nothing.", "the tax is paid off", "clever", 0),
    _gain(
        "stage_2_in", "Stage 2 raises accuracy in domain.", "in-domain accuracy up", "stage_2", "stage_1",
        "accuracy_in", 1, "after stage 2 minus after stage 1",
    ),
    _gain(
        "stage_2_down", "Stage 2 lowers politeness: the way down of the U.", "politeness down", "stage_2", "stage_1",
        "politeness", -1, "after stage 2 minus after stage 1",
    ),
    _gain(
        "stage_3_up", "Stage 3 recovers it: the way up.", "politeness recovered", "clever", "stage_2",
        "politeness", 1, "after stage 3 minus after stage 2",
    ),
    Claim(
        key="win", text="Clever Flamingo's answers are preferred to the annotations.",
        paper="79.6 % of pairs against raw annotations", what="share of answers with the greater reward, ties half",
        measure=MEASURES["win"], sign=1, against=0.5, needs=frozenset({"clever"}),
        number=lambda results: level(results, "clever", "win"),
    ),
    _gain(
        "raw_accurate", "Raw annotations give slightly more accuracy.", "accuracy slightly up", "raw", "clever",
        "accuracy_in", 1, "tuned on raw annotations minus tuned on rewritten ones",
    ),
    _gain(
        "no_stage_1", "Without stage 1, accuracy out of domain falls.", "out of domain down", "direct", "clever",
        "accuracy_out", -1, "without stage 1 minus with it",
    ),
    _gain(
        "unfrozen_in", "LoRA unfrozen in stage 2 raises accuracy in domain …", "in domain up", "unfrozen", "clever",
        "accuracy_in", 1, "unfrozen minus frozen",
    ),
    _gain(
        "unfrozen_out", "… and lowers it out of domain.", "out of domain down", "unfrozen", "clever",
        "accuracy_out", -1, "unfrozen minus frozen",
    ),
    _gain(
        "twice", "Twice the epochs of stage 2 lower accuracy out of domain.", "out of domain down", "twice", "clever",
        "accuracy_out", -1, "twice the epochs minus once",
    ),
    _rewrites(
        "second_polite", "A second generation of the rewriter is more polite.", "reward −1.19, then −0.68", "reward", 1
    ),
    _rewrites(
        "second_unchanged", "It leaves fewer annotations unchanged.", "A-OKVQA: 11.53 %, then 0.00 %", "unchanged", -1
    ),
    _rewrites("second_clip", "Its captions match the picture slightly less.", "CC-3M, CLIPScore 23.88, then 23.25",
              "clip", -1),
    _gain(
        "coarse", "Coarser pictures lower accuracy.", "224 instead of 336 pixels: down", "coarse", "clever",
        "accuracy_in", -1, "pictures of 64 instead of 96 pixels, minus Clever Flamingo",
    ),
    _gain(
        "tower", "Unfreezing the vision tower in stage 2 gains nothing.", "no gain", "tower", "clever",
        "accuracy_in", 0, "unfrozen minus frozen",
    ),
    _gain(
        "both_pictures", "It compares two pictures: shown the first alone, it tells less.",
        "a model that sees only the first picture is the lower bound", "clever", "first_only", "changes", 1,
        "with both pictures minus with the first alone",
    ),
    Claim(
        key="beside_template", text="A rewriter that sees makes politer data than text-only templates (M³IT's way).",
        paper="beside M³IT, which was rewritten from text alone", sign=1,
        what="reward: rewritten minus written by template",
        measure=REWRITING["reward"], needs=frozenset({"first", "template"}),
        number=lambda results: between(results, ("first", "reward"), ("template", "reward")),
    ),
    _gain(
        "tuned_on_template", "… and tuning on them gives a less polite model.", "beside M³IT", "template", "clever",
        "politeness", -1, "tuned on templates minus tuned on rewritten annotations",
    ),
)  # fmt: skip
"""In the order of the paper's story."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row of the paper's results: other models, other data.

    Attributes:
        name: the model's name.
        numbers: (column, figures by set) as printed, Rouge-L and STS in hundredths.
    """

    name: str
    numbers: tuple[tuple[str, str], ...]


PUBLISHED: tuple[Published, ...] = (
    Published(
        name="Clever Flamingo (9B)",
        numbers=(
            ("captions, Rouge-L", "24.3 COCO · 24.1 TextCaps · 24.7 Image2Paragraph"),
            ("VQA, accuracy", "43.3 OK-VQA · 43.6 VSR · 29.0 GRiD-3D"),
            ("two pictures, STS", "46.1 Spot-the-Diff · 37.0 Image-Editing · 28.2 NLVR2"),
            ("two pictures, Rouge-L", "18.5 Spot-the-Diff · 15.6 Image-Editing · 15.5 NLVR2"),
            ("preferred to", "79.6 % raw annotations · 73.4 % InstructBLIP-13B · 62.1 % Otter · 39.4 % LLaVA-13B"),
        ),
    ),
    Published(
        name="Otter (9B, same base)",
        numbers=(
            ("captions, Rouge-L", "22.6 COCO · 19.7 TextCaps · 22.4 Image2Paragraph"),
            ("VQA, accuracy", "28.7 OK-VQA · 28.7 VSR · 13.5 GRiD-3D"),
        ),
    ),
)

GENERATIONS_PUBLISHED: tuple[Published, ...] = (
    Published(
        name="the paper, first generation",
        numbers=(
            ("reward of the annotation", "−2.42 PF-1M"),
            ("reward of the rewritten text", "−0.50 PF-1M · −1.19"),
            ("left unchanged", "11.53 A-OKVQA"),
            ("CLIPScore", "23.88 CC-3M"),
        ),
    ),
    Published(
        name="the paper, second generation",
        numbers=(
            ("reward of the annotation", "–"),
            ("reward of the rewritten text", "−0.68"),
            ("left unchanged", "0.00 A-OKVQA"),
            ("CLIPScore", "23.25 CC-3M"),
        ),
    ),
)
"""−1.19 and −0.68 come from the comparison of generations, −0.50 from the dataset."""

ABLATIONS: dict[Role, tuple[str, str, str, str]] = {
    "clever": ("Clever Flamingo", "", "", ""),
    "raw": (
        "raw annotations instead of rewritten",
        "slightly up (not said where)",
        "slightly up (not said where)",
        "far down",
    ),
    "direct": ("no stage 1", "", "down", ""),
    "unfrozen": ("LoRA unfrozen in stage 2", "up", "down", ""),
    "stage_2": ("no stage 3", "", "", "down"),
    "twice": ("twice the epochs of stage 2", "", "down", ""),
    "coarse": ("pictures of 64 instead of 96 pixels", "down (224 for 336)", "down (224 for 336)", ""),
    "tower": ("vision tower unfrozen in stage 2", "no gain", "no gain", ""),
    "template": ("annotations rewritten by template", "", "", ""),
}
"""Title, and what the paper says about accuracy in and out of domain and about politeness; "" if nothing."""
