"""Reward: how polite is an answer? The logit of a reward model trained on human preferences; higher is better.

[PF]: OpenAssistant/reward-model-deberta-v3-large-v2 on the text pair (question, answer), without template or sigmoid;
the question has no image marks. The reference scores one pair at a time; here pairs share batches.
"""

from __future__ import annotations

from collections.abc import Sequence

from polite_flamingo.filters.pair_classifier import PairClassifier, finite_window

MAX_TOKENS = 2048
"""The reference never cuts texts, but attention over 100,000 characters would need tens of gigabytes."""


class Politeness:
    """A sequence classifier with one label."""

    def __init__(self, model: str, *, device: str, batch_size: int):
        self._classifier = PairClassifier(model, device=device, batch_size=batch_size)
        labels = self._classifier.config.num_labels
        if labels != 1:
            raise ValueError(
                f"scoring.reward: {model!r} has {labels} labels; a reward model has one, such as "
                "OpenAssistant/reward-model-deberta-v3-large-v2 or zoo:reward"
            )
        window = self._classifier.max_tokens if finite_window(self._classifier.config) else MAX_TOKENS
        self._classifier.max_tokens = min(window, MAX_TOKENS)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the raw logit of each (question, answer); each distinct pair is computed once."""
        return [logit for [logit] in self._classifier.logits(pairs)]
