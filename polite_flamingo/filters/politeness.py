"""How polite is an answer? The logit of a reward model trained on human preferences; higher is preferred.

[PF]: OpenAssistant/reward-model-deberta-v3-large-v2 on the text pair (question, answer), no template, no sigmoid; the
question comes without image marks. The reference scores one pair at a time: here pairs of like length share a batch,
and the attention mask keeps padding out of the result.
"""

from __future__ import annotations

from collections.abc import Sequence

from polite_flamingo.filters.pair_classifier import PairClassifier, finite_window

MAX_TOKENS = 2048
"""The reference never cuts; an annotation of 100,000 characters would then need attention maps of tens of gigabytes."""


class Politeness:
    """A sequence classifier of one label."""

    def __init__(self, model: str, *, device: str, batch_size: int):
        self._classifier = PairClassifier(model, device=device, batch_size=batch_size)
        labels = self._classifier.config.num_labels
        if labels != 1:
            raise ValueError(
                f"scoring.reward: {model!r} has {labels} labels; a reward model has one, such as "
                "OpenAssistant/reward-model-deberta-v3-large-v2 or zoo:reward"
            )
        if finite_window(self._classifier.config):
            self._classifier.max_tokens = min(self._classifier.max_tokens, MAX_TOKENS)
        else:
            self._classifier.max_tokens = MAX_TOKENS

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The raw logit of each (question, answer); each distinct pair is computed once."""
        return [logit for [logit] in self._classifier.logits(pairs)]
