"""How polite is an answer? The logit of a reward model trained on human preferences; higher is preferred.

[PF]: OpenAssistant/reward-model-deberta-v3-large-v2 on the text pair (question, answer), no template, no sigmoid; the
question comes without image marks. The reference scores one pair at a time: here pairs of like length share a batch,
and the attention mask keeps padding out of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MAX_TOKENS = 2048
"""The reference never cuts; an annotation of 100,000 characters would then need attention maps of tens of gigabytes."""


class Politeness:
    """A sequence classifier of one label."""

    def __init__(self, model: str, *, device: str, batch_size: int):
        from polite_flamingo import hub  # first: it repairs the import of transformers

        import transformers  # isort: skip

        path = hub.resolve(model)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        self._model = transformers.AutoModelForSequenceClassification.from_pretrained(path).float().to(device).eval()
        labels = self._model.config.num_labels
        if labels != 1:
            raise ValueError(
                f"scoring.reward: {model!r} has {labels} labels; a reward model has one, such as "
                "OpenAssistant/reward-model-deberta-v3-large-v2 or zoo:reward"
            )
        self._device, self._batch_size = device, batch_size
        self._max_tokens = _window(self._model.config, self._tokenizer)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The raw logit of each (question, answer); each distinct pair is computed once, longest first."""
        import torch

        encoded = {
            pair: self._tokenizer(*pair, truncation="longest_first", max_length=self._max_tokens)
            for pair in dict.fromkeys(pairs)
        }
        order = sorted(encoded, key=lambda pair: -len(encoded[pair]["input_ids"]))
        rewards: dict[tuple[str, str], float] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            inputs = self._tokenizer.pad([encoded[pair] for pair in batch], return_tensors="pt").to(self._device)
            with torch.inference_mode():
                logits_B1 = self._model(**inputs).logits
            rewards |= dict(zip(batch, logits_B1[:, 0].float().tolist(), strict=True))
        return [rewards[pair] for pair in pairs]


def _window(config: Any, tokenizer: Any) -> int:
    """Tokens the model takes: its table of positions ends, unless positions are relative only (DeBERTa v2 and v3)."""
    if getattr(config, "position_biased_input", True):
        return min(MAX_TOKENS, config.max_position_embeddings, tokenizer.model_max_length)
    return MAX_TOKENS
