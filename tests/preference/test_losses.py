"""Losses, metrics and gradients are TRL's to the ninth digit; golden.json was made by TRL's own code."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from polite_flamingo.preference.log_probs import pair_weights, places, sums
from polite_flamingo.preference.loss_config import LOSSES, PreferenceConfig
from polite_flamingo.preference.losses import PairLogProbs, pair_losses, reward_metrics, rewards
from tests.preference.golden import doubles, golden, pairs_of

CLOSE = {"rel": 1e-9, "abs": 1e-9}
OURS = (
    "sigmoid_beta0.1", "sigmoid_beta0.5", "hinge", "ipo", "ipo_tau0.5", "robust_eps0.1", "robust_eps0.25", "bco_pair",
    "sppo_hard", "apo_zero", "apo_down", "sft", "mpo_0.8_0.2_1.0", "ld_alpha0.5_note",
)  # fmt: skip
"""Cases of the file whose losses we have."""


def config_of(case: dict[str, Any]) -> PreferenceConfig:
    return PreferenceConfig(
        loss=tuple(case["loss_type"]),
        weights=tuple(case["loss_weights"] or ()),
        beta=case["beta"],
        label_smoothing=case["label_smoothing"],
        ld_alpha=1.0 if case["ld_alpha"] is None else case["ld_alpha"],
    )


class Answers:
    """The answers of some pairs as one list of tokens, as a packed batch has them: chosen, rejected, chosen …"""

    def __init__(self, records: list[dict[str, Any]]):
        self.records = records
        texts = [one[side] for one in records for side in ("chosen", "rejected")]
        self.tokens = doubles([value for text in texts for value in text]).requires_grad_(True)
        self.segment = torch.tensor([number for number, text in enumerate(texts) for _ in text])
        self.chosen = torch.arange(0, len(texts), 2)

    def pairs(self, config: PreferenceConfig) -> PairLogProbs:
        counts = torch.bincount(self.segment)
        weights = pair_weights(self.segment, counts, self.chosen, self.chosen + 1, config.ld_alpha)
        found = sums(self.tokens * weights.double(), self.segment, len(counts))
        return pairs_of(found[0::2], found[1::2], self.records)

    def loss(self, config: PreferenceConfig) -> Tensor:
        """The batch's loss: a mean over pairs, and over the chosen answers' tokens for `sft`."""
        chosen = self.tokens[self.segment % 2 == 0]
        return pair_losses(self.pairs(config), config).mean() - config.summands.get("sft", 0.0) * chosen.mean()

    def gradients(self) -> list[float]:
        """Mean gradient of a token of each answer."""
        assert self.tokens.grad is not None
        return (sums(self.tokens.grad, self.segment, 2 * len(self.records)) / torch.bincount(self.segment)).tolist()


@pytest.mark.parametrize("name", OURS)
def test_a_batch_and_each_pair_alone_cost_what_they_cost_in_trl(name: str) -> None:
    section = golden()["pair_losses"]
    case = section["expected"][name]
    config = config_of(case)
    batch = Answers(section["pairs"])
    loss = batch.loss(config)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], **CLOSE)
    assert [Answers([one]).loss(config).item() for one in section["pairs"]] == pytest.approx(case["losses"], **CLOSE)
    gradients = batch.gradients()
    assert gradients[0::2] == pytest.approx(case["grad_chosen_per_token"], **CLOSE)
    assert gradients[1::2] == pytest.approx(case["grad_rejected_per_token"], **CLOSE)
    assert batch.tokens.grad is not None
    assert batch.tokens.grad.norm().item() == pytest.approx(case["grad_norm"], **CLOSE)


@pytest.mark.parametrize("name", OURS)
def test_metrics_are_those_that_trl_logs(name: str) -> None:
    section = golden()["pair_losses"]
    case = section["expected"][name]
    config = config_of(case)
    pairs = Answers(section["pairs"]).pairs(config)
    if not config.needs_reference:  # TRL's DPOTrainer has a reference even where no loss looks at it
        config = replace(config, loss=("sigmoid",))
    found = {key: values.mean().item() for key, values in reward_metrics(pairs, config).items()}
    assert found.keys() == case["metrics"].keys()
    for key, value in case["metrics"].items():
        # TRL takes the share of right pairs in float32
        assert found[key] == pytest.approx(value, rel=1e-6 if key == "rewards/accuracies" else 1e-9)


def test_a_tie_counts_as_wrong() -> None:
    one = doubles([-1.0])
    tie = PairLogProbs(
        chosen=one, rejected=one, chosen_tokens=-one, rejected_tokens=-one, ref_chosen=one, ref_rejected=one
    )
    assert reward_metrics(tie, PreferenceConfig())["rewards/accuracies"].tolist() == [0.0]
    assert pair_losses(tie, PreferenceConfig()).item() == pytest.approx(math.log(2), **CLOSE)


@pytest.mark.parametrize("name", ["simpo_beta2_gamma1", "simpo_beta0.1_gamma0.5"])
def test_simpo_is_trls(name: str) -> None:
    file = golden()
    records, case = file["pair_losses"]["pairs"], file["reference_free_and_unpaired"][name]
    config = PreferenceConfig(loss=("simpo",), beta=case["beta"], gamma=case["gamma"])
    pairs, chosen, rejected = by_means(records)
    losses = pair_losses(pairs, config)
    losses.mean().backward()
    assert losses.tolist() == pytest.approx(case["losses"], **CLOSE)
    assert chosen.grad.tolist() == pytest.approx(case["grad_chosen"], **CLOSE)
    assert rejected.grad.tolist() == pytest.approx(case["grad_rejected"], **CLOSE)
    found = rewards(pairs, config)
    assert found[0].tolist() == pytest.approx(case["rewards_chosen"], **CLOSE)
    assert found[1].tolist() == pytest.approx(case["rewards_rejected"], **CLOSE)


def by_means(records: list[dict[str, Any]]) -> tuple[PairLogProbs, Tensor, Tensor]:
    """Pairs as functions of their means, with which TRL's gradients of SimPO and ORPO are taken."""
    leaves = [doubles([sum(one[side]) / len(one[side]) for one in records]).requires_grad_(True)
              for side in ("chosen", "rejected")]  # fmt: skip
    lengths = [doubles([len(one[side]) for one in records]) for side in ("chosen", "rejected")]
    return pairs_of(leaves[0] * lengths[0], leaves[1] * lengths[1], records), leaves[0], leaves[1]


def test_orpo_is_trls_odds_ratio_and_the_mean_cross_entropy() -> None:
    file = golden()
    records, case = file["pair_losses"]["pairs"], file["reference_free_and_unpaired"]["orpo_beta0.1"]
    config = PreferenceConfig(loss=("orpo",), beta=case["beta"])
    batch = Answers(records)
    odds = pair_losses(batch.pairs(config), config)
    assert (-odds).tolist() == pytest.approx(case["beta_log_sigmoid_odds_float64"], **CLOSE)
    assert (-odds).tolist() == pytest.approx(case["beta_log_sigmoid_odds_trl_float32"], rel=1e-5, abs=1e-6)
    chosen = [value for one in records for value in one["chosen"]]
    assert batch.loss(config).item() == pytest.approx(odds.mean().item() - sum(chosen) / len(chosen), **CLOSE)


@pytest.mark.parametrize("certain", [0.0, -1e-300, -40.0])
def test_orpo_stays_finite_for_an_answer_that_is_certain_or_impossible(certain: float) -> None:
    leaf = doubles([certain]).requires_grad_(True)
    one = doubles([1.0])
    pairs = PairLogProbs(
        chosen=leaf, rejected=-one, chosen_tokens=one, rejected_tokens=one, ref_chosen=0 * one, ref_rejected=0 * one
    )
    loss = pair_losses(pairs, PreferenceConfig(loss=("orpo",))).sum()
    loss.backward()
    assert loss.isfinite() and leaf.grad is not None and leaf.grad.isfinite().all()


def test_kto_is_trls_with_the_same_kl_term() -> None:
    file = golden()
    records, case = file["pair_losses"]["pairs"], file["reference_free_and_unpaired"]["kto_beta0.1_weights1_1.5"]
    policy = doubles(case["policy_logps"]).requires_grad_(True)
    config = PreferenceConfig(loss=("kto",), desirable=1.0, undesirable=1.5)
    loss = pair_losses(pairs_of(policy[:5], policy[5:], records), config, doubles(case["kl"])).mean()
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], **CLOSE)
    assert policy.grad.tolist() == pytest.approx(case["grad_logps"], **CLOSE)


def test_r_dpo_penalises_what_is_longer_and_the_image_anchor_is_mdpos() -> None:
    file = golden()
    records = file["pair_losses"]["pairs"]
    expected = [one["rdpo_alpha0.05"] for one in file["formulas_not_of_trl"]["expected"]]
    pairs = Answers(records).pairs(PreferenceConfig())
    assert pair_losses(pairs, PreferenceConfig(length_penalty=0.05)).tolist() == pytest.approx(expected, **CLOSE)
    lost = file["mdpo"]["imageless_chosen"]
    seeing = replace(
        pairs,
        anchor=doubles([one["policy"] for one in lost]),
        ref_anchor=doubles([one["ref"] for one in lost]),
        has_anchor=torch.ones(5, dtype=torch.bool),
    )
    config = PreferenceConfig(image_anchor=1.0)
    assert pair_losses(seeing, config).tolist() == pytest.approx(file["mdpo"]["expected"], **CLOSE)
    blind = pair_losses(replace(seeing, has_anchor=torch.zeros(5, dtype=torch.bool)), config)
    plain = pair_losses(pairs, PreferenceConfig()) - torch.nn.functional.logsigmoid(0.1 * pairs.c)
    assert blind.tolist() == pytest.approx(plain.tolist(), **CLOSE), "without a picture only the chosen answer's gain"


def test_dpo_with_a_fifth_of_the_cross_entropy() -> None:
    file = golden()
    config = PreferenceConfig(loss=("sigmoid", "sft"), weights=(1.0, 0.2))
    expected = [one["dpo_plus_nll_0.2_mean"] for one in file["formulas_not_of_trl"]["expected"]]
    found = [Answers([one]).loss(config).item() for one in file["pair_losses"]["pairs"]]
    assert found == pytest.approx(expected, **CLOSE)


def test_a_token_knows_its_place_in_its_segment() -> None:
    assert places(torch.tensor([0, 0, 2, 2, 2, 3]), 5).tolist() == [0, 1, 0, 1, 2, 0]


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "sft"])
def test_every_loss_falls_as_the_margin_grows(name: str) -> None:
    """What all of them want: the rejected answer less likely."""
    one = doubles([4.0])
    config = PreferenceConfig(loss=(name,))  # type: ignore[arg-type]

    def loss(rejected: float) -> float:
        pairs = PairLogProbs(chosen=-one, rejected=rejected * one, chosen_tokens=one, rejected_tokens=one,
                             ref_chosen=-one, ref_rejected=-one)  # fmt: skip
        return pair_losses(pairs, config).item()

    assert loss(-0.5) > loss(-1.0) > loss(-1.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": ()}, "at least one loss"),
        ({"loss": ("sigmoid", "sigmoid")}, "each once"),
        ({"loss": ("sigmoid", "sft"), "weights": (1.0,)}, "1 weights for 2 losses"),
        ({"weights": (0.0,)}, "above 0"),
        ({"beta": 0.0}, "beta must be above 0"),
        ({"label_smoothing": 0.5}, "below 0.5"),
        ({"ld_alpha": 1.5}, "between 0 and 1"),
        ({"image_anchor": -1.0}, "not be negative"),
    ],
)
def test_an_impossible_loss_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceConfig(**changes)
