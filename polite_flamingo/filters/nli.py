"""NLI: does a rewritten answer contradict the annotated one? Logits of a natural-language-inference cross-encoder.

[PF]: cross-encoder/nli-deberta-v3-base on "... is the answer to the question: ...", with the rewritten answer as the
premise and the annotation as the hypothesis; contradictions are dropped. The texts enter verbatim, including inner
quotes and `Answer: `; the question has no image marks. The same pair, made of a model's answer and the ground truth,
evaluates VQA.
"""

from __future__ import annotations

from collections.abc import Sequence

from polite_flamingo.filters.pair_classifier import PairClassifier

LABELS = ("contradiction", "entailment", "neutral")
"""Order of the logits wherever this project stores them."""


def premise_and_hypothesis(*, question: str, output: str, original: str) -> tuple[str, str]:
    """Return the pair of texts that the cross-encoder reads."""
    return (
        f'"{output}" is the answer to the question: "{question}"',
        f'"{original}" is the answer to the question: "{question}"',
    )


def label(logits: Sequence[float]) -> str:
    """Return the label with the highest logit, the first one on ties."""
    return LABELS[max(range(len(LABELS)), key=lambda index: (logits[index], -index))]


class Nli:
    """A cross-encoder with three labels; scores are raw logits in the order of `LABELS`, whatever the model's order."""

    def __init__(self, model: str, *, device: str, batch_size: int):
        self._classifier = PairClassifier(model, device=device, batch_size=batch_size)
        self._order = _label_order(self._classifier.config.id2label, model)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
        """Return three logits for each (premise, hypothesis); each distinct pair is computed once."""
        return [[row[index] for index in self._order] for row in self._classifier.logits(pairs)]


def _label_order(id2label: dict[int, str], model: str) -> list[int]:
    """Return the index of each of `LABELS` in the model's output. Unnamed labels are assumed to be in this order.

    Raises:
        ValueError: the model does not have three labels, or names them differently.
    """
    names = [str(id2label[index]).lower() for index in sorted(id2label)]
    if len(names) == len(LABELS) and all(name.startswith("label_") for name in names):
        return [0, 1, 2]
    if sorted(names) != sorted(LABELS):
        raise ValueError(
            f"scoring.nli: {model!r} has the labels {names}, but the filter needs {', '.join(LABELS)}; use for example "
            "cross-encoder/nli-deberta-v3-base or zoo:nli"
        )
    return [names.index(name) for name in LABELS]
