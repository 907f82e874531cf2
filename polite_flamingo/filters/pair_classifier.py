"""A classifier of text pairs, the same logits as one pair at a time gives, in a fraction of the time.

Each distinct pair is tokenised and run once. A BERT on the CPU runs without padding, in its last layer for one token a
pair (`packed.py`). Of other models pairs of like length share a batch, so that hardly any padding is computed, and the
attention mask keeps what there is out of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polite_flamingo.filters import packed
from polite_flamingo.filters.batches import by_tokens, distinct, like_lengths


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
        self._packed = None
        if type(self._model) is transformers.BertForSequenceClassification:
            self._packed = packed.bert(self._model.bert, one=True)

    def logits(self, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
        """The logits of each pair, in order."""
        once = distinct(pairs)
        if not once:
            return []
        cut: dict[str, Any] = {"truncation": "longest_first", "max_length": self.max_tokens}
        encoded = self.tokenizer([first for first, _ in once], [second for _, second in once], **cut)
        for place, (first, second) in enumerate(once):
            if not second:  # a tokenizer called with one pair takes an empty second text for none
                alone = self.tokenizer(first, **cut)
                for name, values in encoded.items():
                    values[place] = alone[name]
        rows = self._run_packed(self._packed, encoded) if self._packed else self._run(encoded)
        found = dict(zip(once, rows, strict=True))
        return [found[pair] for pair in pairs]

    def _run(self, encoded: Any) -> list[list[float]]:
        """By the library's model, padded to the longest of a batch."""
        import torch

        rows: list[list[float]] = [[]] * len(encoded["input_ids"])
        for places in like_lengths([len(ids) for ids in encoded["input_ids"]], self._batch_size):
            batch = {name: [values[place] for place in places] for name, values in encoded.items()}
            inputs = self.tokenizer.pad(batch, return_tensors="pt").to(self._device)
            with torch.inference_mode():
                logits_BL = self._model(**inputs).logits.float()
            for place, logits in zip(places, logits_BL.tolist(), strict=True):
                rows[place] = logits
        return rows

    def _run_packed(self, model: packed.Bert, encoded: Any) -> list[list[float]]:
        """Without padding, the last layer for the one token that the classifier reads."""
        import torch

        ids = encoded["input_ids"]
        types = encoded.get("token_type_ids") or [[0] * len(text) for text in ids]
        read_BD = torch.empty(len(ids), self.config.hidden_size)
        with torch.inference_mode():
            for places in by_tokens([len(text) for text in ids], packed.TOKENS):
                read_BD[places] = model.first([ids[place] for place in places], [types[place] for place in places])
            pooled_BD = torch.tanh(self._model.bert.pooler.dense(read_BD))
            return self._model.classifier(pooled_BD).tolist()


def finite_window(config: Any) -> bool:
    """Whether the model's table of positions ends: not where positions are relative only (DeBERTa v2 and v3)."""
    return bool(getattr(config, "position_biased_input", True))
