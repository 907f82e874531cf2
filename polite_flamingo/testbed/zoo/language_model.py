"""Pre-train the tiny LLaMA-type language model of the base Flamingo on text alone, as a real one is."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
import transformers
from torch import Tensor

from polite_flamingo.testbed.zoo.documents import Batches, Maker, notes_written_out, read_and_answered, repeated
from polite_flamingo.testbed.zoo.fitting import Checkpoint, Optimiser, mixed_precision, run, seed_everything
from polite_flamingo.testbed.zoo.tokens import learn_tokenizer, save_tokenizer
from polite_flamingo.torchvision_repair import repair_torchvision

STEPS = 800


def config(vocabulary: int) -> transformers.LlamaConfig:
    """Return a configuration with 6 layers of width 192 and LLaMA's ids for pad, BOS and EOS."""
    return transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, rms_norm_eps=1e-5,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, use_cache=True,
    )  # fmt: skip


def weighted_loss(logits: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """Return the mean next-token loss by `weights` (B, T), and the share of correct text tokens (weight 1 or more)."""
    kept = weights[:, 1:] > 0
    predicted, target, weight = logits[:, :-1][kept].float(), ids[:, 1:][kept], weights[:, 1:][kept]
    each = F.cross_entropy(predicted, target, reduction="none")
    hits = (predicted.argmax(-1) == target)[weight >= 1]
    return (each * weight).sum() / weight.sum(), hits.float().mean().item()


def train(
    folder: Path, checkpoint: Path, *, seed: int = 0, steps: int = STEPS, batch: int = 32, lr: float = 3e-3
) -> None:
    """Train from scratch; save configuration, tokenizer and weights (fp32: the next recipe continues from them).

    Args:
        folder: where they go.
        checkpoint: the file from which a stopped run is resumed.
        seed: of the initial weights and the data.
        steps: number of updates.
        batch: documents an update.
        lr: the greatest learning rate.
    """
    seed_everything(seed)
    tokenizer = save_tokenizer(learn_tokenizer(seed), folder, ends=False)
    repair_torchvision()
    model = transformers.LlamaForCausalLM(config(len(tokenizer)))
    makers: dict[Maker, float] = {notes_written_out: 0.45, read_and_answered: 0.35, repeated: 0.2}
    data = Batches(f"language-{seed}", makers, tokenizer, batch, prefix_weight=0.05)
    optimiser = Optimiser(model.named_parameters(), lr=lr, steps=steps)

    def step(i: int) -> dict[str, float]:
        ids, weights, _ = data[i]
        with mixed_precision():
            logits = model(input_ids=ids).logits
        loss, right = weighted_loss(logits, ids, weights)
        optimiser.step(loss)
        return {"loss": loss.item(), "right": right}

    run(steps, step, Checkpoint(checkpoint, model=model, optimiser=optimiser))
    model.save_pretrained(folder)
