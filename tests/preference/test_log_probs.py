"""Log-probabilities from the chunked output head are TRL's, and so are the losses and gradients of a language model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from polite_flamingo.flamingo.model.attention import isolation
from polite_flamingo.preference.log_probs import sums, token_scores
from polite_flamingo.preference.loss_config import PreferenceConfig
from polite_flamingo.preference.losses import PairLogProbs, pair_losses, reward_metrics
from polite_flamingo.torchvision_repair import repair_torchvision
from tests.preference.golden import doubles, golden


def wave(shape: tuple[int, ...], scale: float, shift: float) -> Tensor:
    """The weights of the golden file."""
    numbers = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(1.7 * numbers + shift)).reshape(shape)


@pytest.mark.parametrize("chunk", [1 << 24, 3 * 11, 1])
def test_sums_over_an_answers_tokens_are_trls(chunk: int) -> None:
    case = golden()["logprob_sums"]
    ids, mask = torch.tensor(case["ids"]), torch.tensor(case["mask"]).bool()
    states = wave((4, 8, 11), 2.0, 0.3)
    segment = torch.arange(4)[:, None].expand(4, 7)[mask[:, 1:]]
    head = nn.Linear(11, 11, bias=False, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.eye(11, dtype=torch.float64))
    scores = token_scores(states[:, :-1][mask[:, 1:]], head, ids[:, 1:][mask[:, 1:]], chunk)
    assert sums(scores.log_probs, segment, 4).tolist() == pytest.approx(case["sum"], rel=1e-9)
    assert torch.bincount(segment).tolist() == case["count"]
    expected = doubles(case["per_token"])[mask[:, 1:]]
    assert scores.log_probs.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_chunks_change_neither_scores_nor_gradients() -> None:
    head = nn.Linear(6, 40, bias=False, dtype=torch.float64)
    states = wave((9, 6), 1.0, 0.1)
    targets = torch.arange(9) * 4
    found = []
    for chunk in (1 << 24, 3 * 40):
        leaf = states.clone().requires_grad_(True)
        head.weight.grad = None
        scores = token_scores(leaf, head, targets, chunk)
        (scores.log_probs * torch.arange(9)).sum().backward()
        found.append(
            [scores.log_probs, scores.entropy, scores.mean_logits, scores.correct, leaf.grad, head.weight.grad]
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    logits = states @ head.weight.T
    spread = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(found[0][1], spread.entropy().detach())
    torch.testing.assert_close(found[0][2], logits.mean(-1).detach())
    assert found[0][3].tolist() == (logits.argmax(-1) == targets).tolist()


class LowRank(nn.Module):
    """A linear layer with LoRA, written down plainly."""

    def __init__(self, plain: nn.Linear, down: Tensor, up: Tensor):
        super().__init__()
        self.plain, self.down, self.up, self.on = plain, nn.Parameter(down), nn.Parameter(up), True

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x) + (x @ self.down.T @ self.up.T * 2 if self.on else 0)


def tiny_llama(case: dict[str, Any]) -> tuple[nn.Module, list[LowRank]]:
    """The language model of the golden file with its LoRA (r 2, alpha 4); its weights are a formula."""
    repair_torchvision()
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**case["config"], attn_implementation="eager")
    ).double()
    model.requires_grad_(False)
    for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
        if "norm" in name:
            parameter.fill_(1.0)
        else:
            parameter.copy_(wave(tuple(parameter.shape), 0.3, 0.37 * number))
    adapted = []
    for number, layer in enumerate(model.model.layers):
        for name in ("q_proj", "v_proj"):
            prefix = f"base_model.model.model.layers.{number}.self_attn.{name}.lora_"
            down, up = (wave(shape, 0.2, 0.37 * case["lora_k"][f"{prefix}{side}.default.weight"])
                        for side, shape in (("A", (2, 16)), ("B", (16, 2))))  # fmt: skip
            adapted.append(LowRank(getattr(layer.self_attn, name), down, up))
            setattr(layer.self_attn, name, adapted[-1])
    return model, adapted


class PackedExamples:
    """The three pairs of the golden file in one row, each answer a segment with its own positions and attention."""

    def __init__(self, case: dict[str, Any]):
        texts = [(one["prompt_ids"], one[f"{side}_ids"]) for side in ("chosen", "rejected") for one in case["examples"]]
        self.ids = torch.tensor([[token for prompt, answer in texts for token in (*prompt, *answer)]])
        self.index = torch.tensor([[n for n, (prompt, answer) in enumerate(texts) for _ in (*prompt, *answer)]])
        self.learned = torch.tensor(
            [[flag for prompt, answer in texts for flag in (*[False] * len(prompt), *[True] * len(answer))]]
        )
        self.counts = doubles([len(answer) for _, answer in texts])

    def sums(self, model: nn.Module, chunk: int = 1 << 24) -> tuple[Tensor, Tensor]:
        """The log-probability of each answer, and of each token."""
        mask, positions = isolation(self.index, torch.float64)
        states = model.model(input_ids=self.ids, attention_mask=mask, position_ids=positions).last_hidden_state
        learned = self.learned[:, 1:]
        scores = token_scores(states[:, :-1][learned], model.lm_head, self.ids[:, 1:][learned], chunk)
        return sums(scores.log_probs, self.index[:, 1:][learned], 6), scores.log_probs


def test_a_language_model_gives_the_log_probabilities_that_trl_gets_padded_or_packed() -> None:
    """Packed to 1e-7, because LLaMA's attention and norms are float32 inside, whatever the weights are."""
    case = golden()["tiny_llama_lora"]
    model, adapted = tiny_llama(case)
    row = PackedExamples(case)
    policy, tokens = row.sums(model)
    padded, padded_tokens = padded_sums(model, case)
    assert padded.tolist() == pytest.approx(case["policy_logps"], rel=1e-9)
    expected = [value for text in case["policy_per_token"] for value in text if value]
    assert padded_tokens.tolist() == pytest.approx(expected, rel=1e-9)
    assert policy.tolist() == pytest.approx(case["policy_logps"], rel=1e-7)
    assert tokens.tolist() == pytest.approx(expected, rel=1e-6)
    given = pairs_of(padded, doubles(case["ref_logps"]), row)
    assert pair_losses(given, PreferenceConfig()).mean().item() == pytest.approx(case["sigmoid_loss_float64"], rel=1e-9)
    for layer in adapted:
        layer.on = False
    assert padded_sums(model, case)[0].tolist() == pytest.approx(case["ref_logps"], rel=1e-9)
    assert row.sums(model)[0].tolist() == pytest.approx(case["ref_logps"], rel=1e-7)


def padded_sums(model: nn.Module, case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The log-probability of each answer and token, in rows that are padded as TRL pads them."""
    ids, learned = torch.tensor(case["input_ids"]), torch.tensor(case["completion_mask"])[:, 1:].bool()
    states = model.model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    scores = token_scores(states[:, :-1][learned], model.lm_head, ids[:, 1:][learned])
    segment = torch.arange(6)[:, None].expand_as(learned)[learned]
    return sums(scores.log_probs, segment, 6), scores.log_probs


def pairs_of(policy: Tensor, reference: Tensor, row: PackedExamples) -> PairLogProbs:
    return PairLogProbs(
        chosen=policy[:3], rejected=policy[3:], chosen_tokens=row.counts[:3], rejected_tokens=row.counts[3:],
        ref_chosen=reference[:3], ref_rejected=reference[3:],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["sigmoid", "ipo", "robust_eps0.1", "bco_pair", "apo_zero", "sppo_hard", "mpo"])
def test_losses_metrics_and_gradients_of_a_packed_language_model_are_those_of_a_real_dpo_trainer(name: str) -> None:
    """TRL's own numbers here are float32."""
    case = golden()["tiny_llama_lora"]
    expected = case["expected"][name]
    config = PreferenceConfig(
        loss=tuple(expected["loss_type"]), weights=tuple(expected.get("loss_weights", ())), beta=expected["beta"],
        label_smoothing=expected.get("label_smoothing", 0.0),
    )  # fmt: skip
    model, adapted = tiny_llama(case)
    row = PackedExamples(case)
    policy, tokens = row.sums(model, 3 * 32)
    given = pairs_of(policy, doubles(case["ref_logps"]), row)
    chosen = tokens[: int(row.counts[:3].sum())]
    loss = pair_losses(given, config).mean() - config.summands.get("sft", 0.0) * chosen.mean()
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    for key, values in reward_metrics(given, config).items():
        assert values.mean().item() == pytest.approx(expected["metrics"][key], rel=1e-5, abs=1e-6)
    norms = [weight.grad.norm().item() for layer in adapted for weight in (layer.down, layer.up)]
    assert math.hypot(*norms) == pytest.approx(expected["lora_grad_norm"], rel=1e-5)
