"""Does a rewritten description still mean what the annotation meant? Cosine of two sentence embeddings.

[PF]: all-mpnet-base-v2, keep from 0.40. The annotation enters whole (all captions and, where present, the boxes). The
model cuts what is longer than its window. Which tasks it judges: `judge.FILTERS`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polite_flamingo.filters import packed
from polite_flamingo.filters.batches import by_tokens, distinct, like_lengths


class Sts:
    """A sentence-transformer. Every distinct text of a call is encoded once."""

    def __init__(self, model: str, *, device: str, batch_size: int):
        from polite_flamingo import hub  # first: it repairs the import of sentence_transformers

        from sentence_transformers import SentenceTransformer  # isort: skip

        self._model = SentenceTransformer(hub.resolve(model), device=device)
        self._batch_size = batch_size
        self._packed = packed.bert(self._model[0].auto_model, one=False) if self._takes_means() else None

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Cosine similarity of each pair of texts, in [-1, 1]; symmetric."""
        if not pairs:
            return []
        texts = distinct(text for pair in pairs for text in pair)
        row = {text: index for index, text in enumerate(texts)}
        vectors_TD = self._encode(texts)
        left, right = vectors_TD[[row[a] for a, _ in pairs]], vectors_TD[[row[b] for _, b in pairs]]
        return [float(value) for value in np.clip((left * right).sum(axis=1), -1.0, 1.0)]

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, as the model's `encode` gives them; that pads a few long texts and many short ones alike."""
        import torch

        model = self._model
        prompt = model.prompts.get(model.default_prompt_name, "") if model.default_prompt_name else ""
        encoded = model.tokenizer(
            [prompt + text.strip() for text in texts], truncation=True, max_length=model.max_seq_length
        )
        if self._packed is not None:
            return self._run_packed(self._packed, encoded["input_ids"])
        vectors_TD = np.empty((len(texts), 0))
        for places in like_lengths([len(ids) for ids in encoded["input_ids"]], self._batch_size):
            batch = {name: [values[place] for place in places] for name, values in encoded.items()}
            inputs = model.tokenizer.pad(batch, return_tensors="pt").to(model.device)
            with torch.inference_mode():
                vectors_BD = model(dict(inputs))["sentence_embedding"].double()
                vectors_BD = torch.nn.functional.normalize(vectors_BD, dim=-1).cpu().numpy()
            if not vectors_TD.size:
                vectors_TD = np.empty((len(texts), vectors_BD.shape[1]))
            vectors_TD[places] = vectors_BD
        return vectors_TD

    def _takes_means(self) -> bool:
        """Whether a text's vector is the mean over all of its tokens, and nothing else is done to it."""
        kinds = [type(module).__name__ for module in self._model]
        plain = kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
        return plain and self._model[1].get_config_dict().get("pooling_mode") == "mean"

    def _run_packed(self, model: packed.Bert, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Unit vectors, without padding."""
        import torch

        vectors_TD = torch.empty(len(ids), self._model[0].auto_model.config.hidden_size, dtype=torch.float64)
        with torch.inference_mode():
            for places in by_tokens([len(text) for text in ids], packed.TOKENS):
                texts = [ids[place] for place in places]
                hidden_TD = model.every(texts, [[0] * len(text) for text in texts])
                for first, count, length, text in packed.runs([len(text) for text in texts]):
                    means_BD = hidden_TD[first : first + count * length].view(count, length, -1).mean(dim=1)
                    vectors_TD[places[text : text + count]] = means_BD.double()
            return torch.nn.functional.normalize(vectors_TD, dim=-1).numpy()
