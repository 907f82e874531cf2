"""The multi-modal alignment tax: what a language model lost by learning to see, [PF] definition 1.

    ΔP = Σ_i (P_Ti(f_LLM) − P_Ti(f_MLLM))

over the tasks T_i, for any measure of performance P: the reward (politeness, the tax that the paper is about),
accuracy, … A positive tax is a loss. P_Ti is the mean over the samples of the task that both models answered. The
interval comes from resampling the samples of each task, with the same draws for both models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, estimate, estimates, resampled_means


@dataclass(frozen=True, kw_only=True)
class Tax:
    """The tax of one model against the text-only model, for one measure of performance.

    Attributes:
        tasks: task -> P(text-only) − P(model), for tasks with at least one sample that both answered.
        total: the sum; it has no interval if a task has only one sample.
    """

    tasks: dict[str, Estimate]
    total: Estimate


def alignment_tax(text_only: Mapping[str, np.ndarray], model: Mapping[str, np.ndarray], resampling: Resampling) -> Tax:
    """Compute the tax of one model.

    Args:
        text_only: task -> performance of f_LLM on each sample (N), NaN if it has none.
        model: the same for f_MLLM, on the same samples.
        resampling: how intervals are made.
    """
    tasks: dict[str, Estimate] = {}
    total_R = np.zeros(resampling.draws)
    for stream, task in enumerate(text_only):
        lost_N = np.asarray(text_only[task]) - np.asarray(model[task])
        lost_1N = lost_N[np.isfinite(lost_N)][None]
        if not lost_1N.size:
            continue
        means_1R = resampled_means(lost_1N, resampling, stream)
        [tasks[task]] = estimates(lost_1N, means_1R, resampling.confidence)
        total_R += means_1R[0]
    values = [one.value for one in tasks.values() if one.value is not None]
    n = sum(one.n for one in tasks.values())
    has_interval = all(one.n > 1 for one in tasks.values())
    total = estimate(sum(values) if values else None, total_R, n if has_interval else 1, resampling.confidence)
    return Tax(tasks=tasks, total=Estimate(value=total.value, low=total.low, high=total.high, n=n))
