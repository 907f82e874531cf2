"""Does a rewritten description still mean what the annotation meant? Cosine of two sentence embeddings.

[PF]: all-mpnet-base-v2, keep from 0.40. The annotation enters whole (all captions and, where present, the boxes). The
model cuts what is longer than its window. Which tasks it judges: `judge.FILTERS`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Sts:
    """A sentence-transformer. Every distinct text of a call is encoded once."""

    def __init__(self, model: str, *, device: str, batch_size: int):
        from polite_flamingo import hub  # first: it repairs the import of sentence_transformers

        from sentence_transformers import SentenceTransformer  # isort: skip

        self._model = SentenceTransformer(hub.resolve(model), device=device)
        self._batch_size = batch_size

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Cosine similarity of each pair of texts, in [-1, 1]; symmetric."""
        if not pairs:
            return []
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        vectors_TD = self._model.encode(
            texts, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        row = {text: index for index, text in enumerate(texts)}
        left = vectors_TD[[row[a] for a, _ in pairs]].astype(np.float64)
        right = vectors_TD[[row[b] for _, b in pairs]].astype(np.float64)
        return [float(value) for value in np.clip((left * right).sum(axis=1), -1.0, 1.0)]
