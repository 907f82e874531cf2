"""A classifier of text pairs: the same logits as for one pair at a time, in a fraction of the time.

Each distinct pair is tokenised and run once. A BERT on the CPU runs without padding, its last layer for only one token
per pair (`packed_encoder.py`). With other models, pairs of similar length share a batch, so there is little padding,
and the attention mask keeps it out of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polite_flamingo import hub
from polite_flamingo.filters import packed_encoder
from polite_flamingo.filters.batches import by_similar_length, by_tokens, distinct
from polite_flamingo.torchvision_repair import repair_torchvision


class PairClassifier:
    """A transformers sequence classifier and its tokenizer, in float32, the precision of the reference.

    Args:
        model: a name for `hub.resolve`.
        device: a torch device.
        batch_size: pairs per forward pass, at most.

    Attributes:
        config: the model's configuration.
        tokenizer: the model's tokenizer.
        max_tokens: maximum tokens per pair; in a longer pair the longer text is cut. Callers may set it.
    """

    def __init__(self, model: str, *, device: str, batch_size: int):
        repair_torchvision()
        import transformers

        path = hub.resolve(model)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        self._model = transformers.AutoModelForSequenceClassification.from_pretrained(path).float().to(device).eval()
        self.config = self._model.config
        self.max_tokens = min(self.config.max_position_embeddings, self.tokenizer.model_max_length)
        self._device, self._batch_size = device, batch_size
        self._packed = None
        if type(self._model) is transformers.BertForSequenceClassification:
            self._packed = packed_encoder.bert(self._model.bert)

    def logits(self, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
        """Return the logits of each pair, in order."""
        once = distinct(pairs)
        if not once:
            return []
        cut: dict[str, Any] = {"truncation": "longest_first", "max_length": self.max_tokens}
        encoded = self.tokenizer([first for first, _ in once], [second for _, second in once], **cut)
        for index, (first, second) in enumerate(once):
            if not second:  # a tokenizer treats an empty second text as no second text
                alone = self.tokenizer(first, **cut)
                for name, values in encoded.items():
                    values[index] = alone[name]
        rows = self._run_packed(self._packed, encoded) if self._packed else self._run(encoded)
        found = dict(zip(once, rows, strict=True))
        return [found[pair] for pair in pairs]

    def _run(self, encoded: Any) -> list[list[float]]:
        """Run the library's model, padded to the longest pair of a batch."""
        import torch

        rows: list[list[float]] = [[]] * len(encoded["input_ids"])
        for indices in by_similar_length([len(ids) for ids in encoded["input_ids"]], self._batch_size):
            batch = {name: [values[index] for index in indices] for name, values in encoded.items()}
            inputs = self.tokenizer.pad(batch, return_tensors="pt").to(self._device)
            with torch.inference_mode():
                logits_BL = self._model(**inputs).logits.float()
            for index, logits in zip(indices, logits_BL.tolist(), strict=True):
                rows[index] = logits
        return rows

    def _run_packed(self, model: packed_encoder.PackedBert, encoded: Any) -> list[list[float]]:
        """Run without padding, the last layer only for the token that the classifier reads."""
        import torch

        ids = encoded["input_ids"]
        types = encoded.get("token_type_ids") or [[0] * len(text) for text in ids]
        read_BD = torch.empty(len(ids), self.config.hidden_size)
        with torch.inference_mode():
            for indices in by_tokens([len(text) for text in ids], packed_encoder.TOKENS):
                read_BD[indices] = model.first_token(
                    [ids[index] for index in indices], [types[index] for index in indices]
                )
            pooled_BD = torch.tanh(self._model.bert.pooler.dense(read_BD))
            return self._model.classifier(pooled_BD).tolist()


def finite_window(config: Any) -> bool:
    """Whether the model has a maximum position; DeBERTa v2 and v3, with relative positions only, have none."""
    return bool(getattr(config, "position_biased_input", True))
