"""The claims of the paper on preference alignment, its evidence, and what else a careful reader would ask.

Facts of the paper ([PA], arXiv 2402.10884, and its poster) are stated here and nowhere else. Its text skill is
MT-Bench, ours the accuracy on texts. It gives no margins; ours were fixed before anything was run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from polite_flamingo.testbed.alignment.measures import MEASURES, gain, level, won_at_equal_length
from polite_flamingo.testbed.alignment.results import AlignmentResults, Role
from polite_flamingo.testbed.study import claims
from polite_flamingo.testbed.study.claims import Claim, Finding
from polite_flamingo.testbed.study.measures import Spread

Sign = Literal[-1, 0, 1]


def findings(results: AlignmentResults) -> list[Finding]:
    """Return a finding for every claim whose models are among the results."""
    return claims.findings(CLAIMS, results, results.roles)


def _claim(
    key: str, text: str, paper: str, measure: str, sign: Sign, what: str, needs: tuple[Role, ...],
    number: Callable[[AlignmentResults], Spread], against: float = 0.0,
) -> Claim:  # fmt: skip
    return Claim(
        key=key, text=text, paper=paper, what=f"{MEASURES[measure].label}: {what}", measure=MEASURES[measure],
        sign=sign, needs=frozenset(needs), number=number, against=against,
    )  # fmt: skip


def _gain(key: str, text: str, paper: str, role: Role, over: Role, measure: str, sign: Sign, what: str) -> Claim:
    return _claim(
        key, text, paper, measure, sign, what, (role, over), lambda results: gain(results, role, over, measure)
    )


CLAIMS: tuple[Claim, ...] = (
    _gain(
        "tax", "Tuning on pictures costs a language model some of its skill with texts.",
        "MT-Bench: Vicuna 6.57, LLaVA 5.99", "language", "start", "text", 1,
        "tuned on texts alone minus tuned on pictures too",
    ),
    _gain(
        "dpo_text", "DPO on pairs about pictures repairs it …", "MT-Bench: 5.99, then 6.73", "dpo", "start", "text", 1,
        "DPO minus the start",
    ),
    _gain(
        "dpo_language", "… and lifts it above the language model's own.", "MT-Bench: 6.73, Vicuna 6.57", "dpo",
        "language", "text", 1, "DPO minus tuned on texts alone",
    ),
    _gain(
        "dpo_score", "DPO gives better answers about pictures.", "LLaVA-Bench: 73.1, then 79.1; MM-Vet: 36.3, 41.2",
        "dpo", "start", "score", 1, "DPO minus the start",
    ),
    _gain(
        "dpo_out", "… of kinds that its pairs do not show, too.", "the benchmarks above are not its prompts", "dpo",
        "start", "score_out", 1, "DPO minus the start",
    ),
    _claim(
        "dpo_win", "Its answers are preferred to the start's.", "AlpacaEval, against another model: 79.3, then 86.4 %",
        "win", 1, "share with the greater score, ties half", ("dpo", "start"),
        lambda results: level(results, "dpo", "win"), 0.5,
    ),
    _claim(
        "dpo_equal_length", "… also where length is taken out.", "not tested; its answers grew from 157 to 242 words",
        "win", 1, "length-controlled, as AlpacaEval 2", ("dpo", "start"),
        lambda results: won_at_equal_length(results, "dpo"), 0.5,
    ),
    _gain(
        "dpo_longer", "DPO's answers are longer.", "words a turn: 157, then 242 (counted in its files)", "dpo", "start",
        "words", 1, "DPO minus the start",
    ),
    _gain(
        "dpo_accuracy", "DPO costs no accuracy in domain.", "PoPe, F1: 0.859, then 0.870; MM-Bench: 67.4, 66.8",
        "start", "dpo", "accuracy_in", 0, "the start minus DPO",
    ),
    _gain(
        "rejection", "DPO is ahead of rejection sampling …", "LLaVA-Bench: 79.1, 70.6; MT-Bench: 6.73, 6.22", "dpo",
        "rejection", "score", 1, "DPO minus rejection sampling",
    ),
    _gain(
        "rejection_sft", "… which is ahead of plain tuning on annotations.",
        "LLaVA-Bench: 70.6, 63.7; MT-Bench: 6.22, 5.01", "rejection", "sft", "score", 1, "rejection sampling minus SFT",
    ),
    _gain(
        "rejection_steerlm", "Rejection sampling is ahead of SteerLM.", "LLaVA-Bench: 70.6, 67.0; MT-Bench: 6.22, 5.70",
        "rejection", "steerlm", "score", 1, "rejection sampling minus SteerLM, asked for the best",
    ),
    _gain(
        "sft_text", "Plain tuning costs skill with texts.", "MT-Bench: 5.99, then 5.01", "sft", "start", "text", -1,
        "SFT minus the start",
    ),
    _gain(
        "steerlm_text", "So does SteerLM.", "MT-Bench: 5.99, then 5.70", "steerlm", "start", "text", -1,
        "SteerLM, asked for the best, minus the start",
    ),
    _gain(
        "flips_25", "A quarter of the labels flipped costs …", "MT-Bench: 6.73, then 6.35", "flips_25", "dpo", "score",
        -1, "25 % flipped minus none",
    ),
    _gain(
        "flips_50", "… a half costs more …", "MT-Bench: 6.35, then 6.26", "flips_50", "flips_25", "score", -1,
        "50 % flipped minus 25 %",
    ),
    _gain(
        "flips_75", "… and three quarters still more …", "MT-Bench: 6.26, then 5.99", "flips_75", "flips_50", "score",
        -1, "75 % flipped minus 50 %",
    ),
    _gain(
        "flips_start", "… but even then nothing is lost against the start.", "MT-Bench: 5.99, and 5.99", "start",
        "flips_75", "score", 0, "the start minus 75 % flipped",
    ),
    _gain(
        "scale_25", "A quarter of the pairs helps already …", "MT-Bench: 5.99, then 6.39", "scale_25", "start", "score",
        1, "a quarter of the pairs minus the start",
    ),
    _gain(
        "scale", "… and all of them help more.", "MT-Bench: 6.39, then 6.73", "dpo", "scale_25", "score", 1,
        "all pairs minus a quarter",
    ),
    _gain(
        "reward_up", "A warning: pairs by a reward model that sees no picture raise its reward …", "not in the paper",
        "by_reward", "start", "reward", 1, "pairs by reward minus the start",
    ),
    _gain(
        "reward_blind", "… and teach nothing about pictures.", "not in the paper", "by_reward", "start", "accuracy_in",
        0, "pairs by reward minus the start",
    ),
)  # fmt: skip
"""In the order of the paper's story."""

COLUMNS = ("MM-Vet", "LLaVA-Bench", "PoPe, F1", "MM-Bench", "MT-Bench", "AlpacaEval", "words a turn")

PUBLISHED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Vicuna-1.5-13B", ("–", "–", "–", "–", "6.57", "81.4", "–")),
    ("LLaVA-1.5-13B, the start", ("36.3", "73.1", "0.859", "67.4", "5.99", "79.3", "157")),
    ("LLaVA-RLHF-13B", ("37.2", "76.8", "0.869", "60.1", "6.18", "81.0", "272")),
    ("SFT", ("36.5", "63.7", "0.850", "65.4", "5.01", "50.2", "134")),
    ("SteerLM", ("35.2", "67.0", "0.878", "65.1", "5.70", "68.8", "142")),
    ("rejection sampling", ("38.0", "70.6", "0.883", "67.6", "6.22", "74.9", "170")),
    ("DPO", ("41.2", "79.1", "0.870", "66.8", "6.73", "86.4", "242")),
    ("DPO, 25 % flipped", ("–", "–", "–", "–", "6.35", "–", "285")),
    ("DPO, 50 % flipped", ("–", "–", "–", "–", "6.26", "–", "314")),
    ("DPO, 75 % flipped", ("–", "–", "–", "–", "5.99", "–", "280")),
    ("DPO, 25 % of the pairs", ("–", "–", "–", "–", "6.39", "–", "221")),
    ("DPO, 50 % of the pairs", ("–", "–", "–", "–", "6.46", "–", "225")),
    ("DPO, 75 % of the pairs", ("–", "–", "–", "–", "6.61", "–", "243")),
)
"""The paper's tables 4 to 7; no interval is given there. MT-Bench by share of pairs is read off a chart. Words are
counted in its MT-Bench answer files (`findalexli/mllm-dpo`), which are matched to methods by name."""
