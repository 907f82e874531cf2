"""Let models answer, and measure who is right, who is polite, and what tuning has cost (the alignment tax).

    polite-flamingo evaluate --profile profiles/tiny.yaml --input out/eval --out out/evaluation \\
        --contestants clever=out/clever/model base=base:profiles/tiny.yaml --text_only base

Contestants are models, endpoints and files of recorded answers (`evaluation/contestants.py`); the annotations always
take part. Answers are kept, one file per contestant and shard, so the same command after an interruption, or with one
more contestant, adds only what is missing; an endpoint gets its failed samples again. A name stands for one model for
the life of the output folder. Means, intervals and pages are recomputed each time, which takes seconds.

    OUT/responses/NAME/SHARD.jsonl   what NAME answered, or why it did not (`evaluate_answering.py`)
    OUT/choices/NAME/SHARD.json      what NAME makes of multiple-choice questions (`evaluate_choosing.py`)
    OUT/judged/SHARD.json            the numbers of every answer (`evaluate_judging.py`)
    OUT/evaluation.json              the shards as they were first read; if one has changed, the folder is refused
    OUT/results.json OUT/results.md OUT/report.html
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from polite_flamingo.config import to_yaml
from polite_flamingo.evaluation.contestants import Checkpoint, Contestant, Endpoint, Recorded, contestants_of
from polite_flamingo.evaluation.judging import RAW, REWRITTEN
from polite_flamingo.evaluation.metrics import shown
from polite_flamingo.evaluation.results import Results
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.disk import sweep_temporary
from polite_flamingo.storage.foreign_shards import refuse_foreign
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.location import Location
from ray_jobs import console
from ray_jobs.cluster import running_ray
from ray_jobs.evaluate_answering import (
    Evaluation,
    answer_from_endpoint,
    answer_on_ray,
    check_contestants,
    identity,
    try_out_endpoint,
)
from ray_jobs.evaluate_choosing import choose_on_ray, multiple_choice, unasked
from ray_jobs.evaluate_config import EvaluateConfig
from ray_jobs.evaluate_judging import conclude, judge_on_ray, stale
from ray_jobs.progress import counted
from ray_jobs.resumable_job import check_input, clear

OUTPUTS = (
    "responses", "choices", "judged", "journal", "parts", "results.json", "results.md", "report.html", "config.yaml",
    "evaluation.json", "ray_data_stats.txt",
)  # fmt: skip
"""What an evaluation leaves in its folder."""

FEW = 100
"""Fewer samples than this get a warning: a share of 99 has an interval of up to ±10 points."""


def evaluate(
    config: EvaluateConfig, answering_actor: type | None = None, judging_actor: type | None = None,
    choosing_actor: type | None = None,
) -> None:  # fmt: skip
    """Run the job, or what is left of it.

    Args:
        config: of the job.
        answering_actor: replaces `AnsweringActor`, for tests without a model.
        judging_actor: replaces `JudgingActor`, likewise.
        choosing_actor: replaces `ChoosingActor`, likewise.

    Raises:
        ValueError: a contestant, the input or the output folder is wrong; the message says what to do.
        EndpointDown: an endpoint does not answer as it should; what it has answered is kept.
        JobFailed: a model failed.
        AllFailed: a contestant has no whole answer to any sample. The report is written all the same.
    """
    shards = shard_names(config.input, Path(config.out), print)
    refuse_foreign(shards.values())
    contestants = contestants_of(config.contestants)
    if config.text_only not in ("", RAW, REWRITTEN, *contestants):
        raise ValueError(f"text_only names {config.text_only!r}, which is none of {', '.join([RAW, *contestants])}")
    identities = {name: identity(one, config) for name, one in contestants.items()}
    evaluation = Evaluation(config=config, contestants=contestants, shards=shards, identities=identities)
    out = evaluation.out
    with exclusive(out):
        if config.fresh:
            clear(out, OUTPUTS)
        digests = check_input(out / "evaluation.json", shards)
        check_contestants(evaluation)
        (out / "config.yaml").put(to_yaml(replace(config, fresh=False)))
        answer_and_judge(evaluation, digests, answering_actor, judging_actor, choosing_actor)
        results = conclude(evaluation, multiple_choice(evaluation))
        print_summary(results, out)
        fail_without_answers(results, contestants)


def answer_and_judge(
    evaluation: Evaluation, digests: Mapping[str, str], answering_actor: type | None, judging_actor: type | None,
    choosing_actor: type | None = None,
) -> None:  # fmt: skip
    """Collect every missing answer, then judge what has changed. Ray starts only if there is work for it."""
    contestants = evaluation.contestants
    endpoints = {name: one for name, one in contestants.items() if isinstance(one, Endpoint)}
    for name in contestants:
        if folder := evaluation.answers_of(name).parent.local:
            sweep_temporary(folder)
    for name, endpoint in endpoints.items():
        try_out_endpoint(evaluation, name, endpoint)
    for name, endpoint in endpoints.items():
        answer_from_endpoint(evaluation, name, endpoint)
    models = {name: one for name, one in contestants.items() if isinstance(one, Checkpoint)}
    unanswered = {name: todo for name in models if (todo := unanswered_by(name, evaluation))}
    asking = unasked(evaluation, digests)
    work = unanswered or asking or stale(evaluation, digests)
    needs = evaluation.config.pools.needs(shards=len(evaluation.shards))
    with running_ray(needs) if work else contextlib.nullcontext():
        for name, todo in unanswered.items():
            answer_on_ray(evaluation, name, models[name], todo, answering_actor)
        for name, identities in asking.items():
            choose_on_ray(evaluation, name, identities, choosing_actor)
        if unjudged := stale(evaluation, digests):
            judge_on_ray(evaluation, unjudged, judging_actor)


def unanswered_by(name: str, evaluation: Evaluation) -> dict[str, Location]:
    """Return the shards that a contestant has not answered yet."""
    answered = set(evaluation.answers_of(name).parent.names(".jsonl"))
    return {shard: path for shard, path in evaluation.shards.items() if shard not in answered}


def print_summary(results: Results, out: Location) -> None:
    """Print the table at the end of the job."""
    samples = f"{results.samples:,} in {counted(len(results.tasks), 'task')}"
    few = f"; fewer than {FEW}, so the figures are rough" if results.samples < FEW else ""
    rows: list[tuple[str, str]] = [("samples", samples + few)]
    for name in results.contestants:
        given, rate = results.answers[name], results.wins.rates.get(name, {}).get(RAW)
        right, judged = correct(results, name)
        parts = [f"reward {shown('reward', results.reward[name].value)}"]
        if judged and name != RAW:
            parts.insert(0, f"{shown('accuracy', right / judged)} of {counted(judged, 'answer')} correct")
        if rate is not None:
            level = results.controlled[name][RAW].rate.value if results.controlled else None
            parts.append(
                f"preferred to the raw annotation {shown('accuracy', rate.value)}"
                f" ({shown('accuracy', level)} at equal length)"
            )
        if (yes := results.yes_no.get(name)) is not None:
            parts.append(f"{shown('accuracy', yes.accuracy.value)} of {counted(yes.accuracy.n, 'yes-or-no question')}")
        if results.choices and (picks := results.choices.results.get(name)) is not None:
            many = counted(picks.accuracy.n, "multiple-choice question")
            parts.append(
                f"{shown('accuracy', picks.accuracy.value)} of {many} (chance {shown('accuracy', picks.chance)})"
            )
        if given.words is not None:
            parts.append(f"{given.words:.1f} words")
        rows.append((name, ", ".join([*parts, *given.trouble()])))
    for name, tax in results.tax.get("reward", {}).items():
        rows.append((f"tax of {name}", f"{shown('reward', tax.total.value, sign=True)} (reward, all tasks)"))
    rows.append(("report", str(out / "report.html")))
    print(console.table(rows, f"{out}"))


def correct(results: Results, name: str) -> tuple[float, int]:
    """Return the number of a contestant's correct answers (NLI entailment), and of the answers so judged."""
    found = [task.means["accuracy"][name] for task in results.tasks.values() if name in task.means.get("accuracy", {})]
    return sum((one.value or 0.0) * one.n for one in found), sum(one.n for one in found)


def fail_without_answers(results: Results, contestants: Mapping[str, Contestant]) -> None:
    """Raise `AllFailed` for a contestant without any answer or, unless recorded, without a whole one."""
    for name, contestant in contestants.items():
        given = results.answers[name]
        if given.whole or (given.answered and isinstance(contestant, Recorded)):
            continue
        what = "whole answer" if given.answered else "answer"
        why = given.trouble() if given.answered else [f"{count:,} {one}" for one, count in given.missing.items()]
        raise console.AllFailed(
            f"{name} has no {what} to any of {results.samples:,} samples: {', '.join(why)}; "
            f"details are in responses/{name}"
        )


main = partial(console.run, "evaluate", __doc__, EvaluateConfig, evaluate)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
