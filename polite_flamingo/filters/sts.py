"""STS: does a rewritten description still mean the same as the annotation? The cosine of two sentence embeddings.

[PF]: all-mpnet-base-v2, kept from 0.40 on. The whole annotation is embedded (all captions and any boxes); the model
cuts texts longer than its context. `thresholds.FILTERS_OF_TASK` says which tasks it scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from polite_flamingo import hub
from polite_flamingo.filters import packed_encoder
from polite_flamingo.filters.batches import by_tokens, distinct
from polite_flamingo.torchvision_repair import repair_torchvision


class Sts:
    """A sentence-transformer. Each distinct text of a call is encoded once."""

    def __init__(self, model: str, *, device: str, batch_size: int):
        repair_torchvision()
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(hub.resolve(model), device=device)
        self._batch_size = batch_size
        self._packed = packed_encoder.bert(self._model[0].auto_model) if self._mean_pools() else None

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the cosine similarity of each pair of texts, in [-1, 1]; symmetric."""
        if not pairs:
            return []
        texts = distinct(text for pair in pairs for text in pair)
        row = {text: index for index, text in enumerate(texts)}
        vectors_TD = self._encode(texts)
        left, right = vectors_TD[[row[a] for a, _ in pairs]], vectors_TD[[row[b] for _, b in pairs]]
        return [float(value) for value in np.clip((left * right).sum(axis=1), -1.0, 1.0)]

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors that the model's `encode` gives; a packed model needs no padding."""
        import torch

        if self._packed is None:
            vectors_TD = torch.from_numpy(
                self._model.encode(texts, batch_size=self._batch_size, show_progress_bar=False)
            ).double()
        else:
            ids = self._model.tokenizer(
                [text.strip() for text in texts], truncation=True, max_length=self._model.max_seq_length
            )["input_ids"]
            vectors_TD = self._run_packed(self._packed, ids)
        return torch.nn.functional.normalize(vectors_TD, dim=-1).numpy()

    def _mean_pools(self) -> bool:
        """Whether a text's vector is just the mean over its tokens."""
        kinds = [type(module).__name__ for module in self._model]
        plain = kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
        return (
            plain
            and not self._model.default_prompt_name
            and self._model[1].get_config_dict().get("pooling_mode") == "mean"
        )

    def _run_packed(self, model: packed_encoder.PackedBert, ids: Sequence[Sequence[int]]) -> Any:
        """Return the texts' vectors, computed without padding."""
        import torch

        vectors_TD = torch.empty(len(ids), self._model[0].auto_model.config.hidden_size, dtype=torch.float64)
        with torch.inference_mode():
            for indices in by_tokens([len(text) for text in ids], packed_encoder.TOKENS):
                texts = [ids[index] for index in indices]
                hidden_TD = model.all_tokens(texts, [[0] * len(text) for text in texts])
                for first, count, length, text in packed_encoder.runs_of_equal_length([len(text) for text in texts]):
                    means_BD = hidden_TD[first : first + count * length].view(count, length, -1).mean(dim=1)
                    vectors_TD[indices[text : text + count]] = means_BD.double()
        return vectors_TD
