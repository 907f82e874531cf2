"""Models answer, judges score, and a page says who is right, who is polite, and what tuning has cost.

    python -m ray_jobs.evaluate --profile profiles/tiny.yaml --input out/eval --out out/evaluation \\
        --contestants.clever out/clever/model --contestants.base profiles/base.yaml --text_only base

Contestants are models, endpoints and files of recorded answers (`evaluation/contestants.py`); the annotations always
take part. Answers are kept, a file a shard and contestant, so that the same command after an interruption, or with one
more contestant, asks only for what is missing; an endpoint is asked again for what it failed on. A name stands for one
model for as long as the output folder lives. Means, intervals and pages are made anew each time: they cost seconds.
What is in `evaluate_asking.py` asks, what is in `evaluate_judging.py` judges and tells; here is what happens when.

    OUT/responses/NAME/SHARD.jsonl   what NAME answered, and why not where it did not
    OUT/judged/SHARD.json            the numbers of every answer
    OUT/results.json OUT/results.md OUT/report.html
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from polite_flamingo.evaluation.contestants import Checkpoint, Contestant, Endpoint, Recorded, contestants_of
from polite_flamingo.evaluation.judging import RAW, REWRITTEN
from polite_flamingo.evaluation.metrics import shown
from polite_flamingo.evaluation.results import Answers, Results
from polite_flamingo.storage.foreign_shards import refuse_foreign
from polite_flamingo.storage.ledger import exclusive, names_in, shard_names
from polite_flamingo.storage.shards import sweep_temporary, write_atomically
from polite_flamingo.storage.visibility import Seen
from ray_jobs import console
from ray_jobs.cluster import running_ray
from ray_jobs.evaluate_asking import (
    answer_on_ray,
    answering,
    answers_of,
    ask_endpoint,
    identity,
    refuse_other_models,
    try_out_endpoint,
)
from ray_jobs.evaluate_config import EvaluateConfig
from ray_jobs.evaluate_judging import conclude, judge_identity, judge_on_ray, stale

FOLDERS = ("responses", "judged", "journal", "parts")
OWN = (*FOLDERS, "results.json", "results.md", "report.html", "config.yaml", "evaluation.json")


def evaluate(config: EvaluateConfig, answering_actor: type | None = None, judging_actor: type | None = None) -> None:
    """Do the whole job, or what is left of it.

    Args:
        config: of the job.
        answering_actor: instead of `AnsweringActor`; for tests that do without a model.
        judging_actor: instead of `JudgingActor`, likewise.

    Raises:
        ValueError: a contestant, the input or the output folder is not right; the message says what to do.
        EndpointDown: an endpoint does not answer as it should; what it has answered is kept.
        JobFailed: a model failed.
        AllFailed: a contestant has no whole answer to any sample. The report is there all the same.
    """
    shards = shard_names(config.input, Path(config.out), print)
    refuse_foreign(shards.values())
    contestants = contestants_of(config.contestants)
    if config.text_only not in ("", RAW, REWRITTEN, *contestants):
        raise ValueError(f"text_only names {config.text_only!r}, which is none of {', '.join([RAW, *contestants])}")
    out = Path(config.out)
    with exclusive(out):
        if config.fresh:
            clear(out)
        identities = {name: identity(one, config) for name, one in contestants.items()}
        digests = refuse_other_input(out, shards)
        refuse_other_models(out, contestants, identities)
        write_atomically(out / "config.yaml", console.to_yaml(replace(config, fresh=False)))
        answer_all(config, contestants, shards, digests, identities, answering_actor, judging_actor)
        results = conclude(config, contestants, shards)
        print_summary(results, out)
        refuse_the_silent(results, contestants)


def clear(out: Path) -> None:
    """Delete everything an evaluation made here, and nothing else."""
    for path in (out / name for name in OWN):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def refuse_other_input(out: Path, shards: Mapping[str, Path]) -> dict[str, str]:
    """The digests of the input's shards; ValueError where one has changed since, OutOfReach where one is not there."""
    from polite_flamingo.hub import fingerprint

    for path in shards.values():
        Seen.at(path)  # a path that leads nowhere would have a fingerprint too, of its name
    digests = {name: fingerprint(str(path), whole=True) for name, path in shards.items()}
    file = out / "evaluation.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name, digest in digests.items():
        if known.get(name, digest) != digest and known[name] != fingerprint(str(shards[name])):  # of earlier versions
            raise ValueError(f"shard {name} has changed since {out} was made; give another --out, or --fresh")
    write_atomically(file, json.dumps({**known, **digests}, indent=1) + "\n")
    return digests


def answer_all(
    config: EvaluateConfig, contestants: Mapping[str, Contestant], shards: Mapping[str, Path],
    digests: Mapping[str, str], identities: Mapping[str, str],
    answering_actor: type | None = None, judging_actor: type | None = None,
) -> None:  # fmt: skip
    """Ask for every answer that is missing, then judge what has changed. Ray starts only if there is work for it."""
    out = Path(config.out)
    for name, contestant in contestants.items():
        sweep_temporary(out / "responses" / name)
        if isinstance(contestant, Endpoint):
            try_out_endpoint(config, name, contestant, shards)
    for name, contestant in contestants.items():
        if isinstance(contestant, Endpoint):
            ask_endpoint(config, name, contestant, shards)
    pending: dict[str, dict[str, Path]] = {}
    for name, contestant in contestants.items():
        answered = set(names_in(out / "responses" / name, ".jsonl"))
        if isinstance(contestant, Checkpoint):
            pending[name] = {shard: path for shard, path in shards.items() if shard not in answered}
    files = {name: str(answers_of(out, name, contestant)) for name, contestant in contestants.items()}
    judges = judge_identity(config)
    work = any(pending.values()) or stale(out, shards, digests, files, judges)
    with running_ray(config.pools) if work else contextlib.nullcontext():
        for name, todo in pending.items():
            contestant = contestants[name]
            assert isinstance(contestant, Checkpoint)
            if todo:
                answer_on_ray(config, name, answering(contestant, config), todo, identities[name], answering_actor)
        if unjudged := stale(out, shards, digests, files, judges):
            judge_on_ray(config, files, {name: shards[name] for name in unjudged}, unjudged, judging_actor)


def print_summary(results: Results, out: Path) -> None:
    """The table at the end of the job."""
    rows: list[tuple[str, str]] = [("samples", f"{results.samples:,} in {len(results.tasks)} tasks")]
    for name in results.contestants:
        given, rate = results.answers[name], results.wins.rates.get(name, {}).get(RAW)
        parts = [f"reward {shown('reward', results.reward[name].value)}"]
        if rate is not None:
            parts.append(f"preferred to the raw annotation {shown('accuracy', rate.value)}")
        rows.append((name, ", ".join([*parts, *given.trouble()])))
    for name, tax in results.tax.get("reward", {}).items():
        rows.append((f"tax of {name}", f"{shown('reward', tax.total.value, sign=True)} (reward, all tasks)"))
    rows.append(("report", str(out / "report.html")))
    print(console.table(rows, f"{out}"))


def refuse_the_silent(results: Results, contestants: Mapping[str, Contestant]) -> None:
    """Raise `AllFailed` for a contestant without any answer, or, of those that were asked here, without a whole one."""
    for name, contestant in contestants.items():
        given = results.answers[name]
        if not (given.answered if isinstance(contestant, Recorded) else given.whole):
            what = "whole answer" if given.answered else "answer"
            raise console.AllFailed(
                f"{name} has no {what} to any of {results.samples:,} samples: {_why(given)}; "
                f"details are in responses/{name}"
            )


def _why(given: Answers) -> str:
    """What became of the samples of a contestant without any whole answer."""
    if given.answered:
        return ", ".join(given.trouble())
    return ", ".join(f"{count:,} {reason}" for reason, count in given.missing.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    description = "Let models answer, and measure accuracy, politeness and the alignment tax."
    return console.run("evaluate", description, EvaluateConfig, evaluate, arguments)


if __name__ == "__main__":
    sys.exit(main())
