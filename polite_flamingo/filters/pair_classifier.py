"""A classifier of text pairs, the same logits as one pair at a time gives, in a fraction of the time.

Each distinct pair is tokenised and run once; pairs of like length share a batch, so that hardly any padding is
computed, and the attention mask keeps what there is out of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polite_flamingo.filters.batches import like_lengths


class PairClassifier:
    """A transformers sequence classifier and its tokenizer, in fp32: the reference's precision, on a CPU the fast one.

    Args:
        model: a name for `hub.resolve`.
        device: torch's name of it.
        batch_size: pairs a forward pass, at most.

    Attributes:
        config: the model's own.
        tokenizer: the model's own.
        max_tokens: of a pair; of what is longer, the longer text is cut. To be set by who knows what the model takes.
    """

    def __init__(self, model: str, *, device: str, batch_size: int):
        from polite_flamingo import hub  # first: it repairs the import of transformers

        import transformers  # isort: skip

        path = hub.resolve(model)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        self._model = transformers.AutoModelForSequenceClassification.from_pretrained(path).float().to(device).eval()
        self.config = self._model.config
        self.max_tokens = min(self.config.max_position_embeddings, self.tokenizer.model_max_length)
        self._device, self._batch_size = device, batch_size

    def logits(self, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
        """The logits of each pair, in order."""
        import torch

        distinct = list(dict.fromkeys(pairs))
        if not distinct:
            return []
        cut: dict[str, Any] = {"truncation": "longest_first", "max_length": self.max_tokens}
        encoded = self.tokenizer([first for first, _ in distinct], [second for _, second in distinct], **cut)
        for place, (first, second) in enumerate(distinct):
            if not second:  # a tokenizer called with one pair takes an empty second text for none
                alone = self.tokenizer(first, **cut)
                for name, values in encoded.items():
                    values[place] = alone[name]
        found: dict[tuple[str, str], list[float]] = {}
        for places in like_lengths([len(ids) for ids in encoded["input_ids"]], self._batch_size):
            batch = {name: [values[place] for place in places] for name, values in encoded.items()}
            inputs = self.tokenizer.pad(batch, return_tensors="pt").to(self._device)
            with torch.inference_mode():
                logits_BL = self._model(**inputs).logits.float()
            found |= zip([distinct[place] for place in places], logits_BL.tolist(), strict=True)
        return [found[pair] for pair in pairs]


def finite_window(config: Any) -> bool:
    """Whether the model's table of positions ends: not where positions are relative only (DeBERTa v2 and v3)."""
    return bool(getattr(config, "position_biased_input", True))
