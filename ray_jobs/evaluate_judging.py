"""The second half of an evaluation: judge new answers, then summarise the numbers of all of them.

    OUT/judged/SHARD.json                          the numbers of every answer, and a hash of what they depend on
    OUT/results.json OUT/results.md OUT/report.html

Judging runs on Ray. The rest takes seconds and is repeated each time. No contestant answers here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from polite_flamingo.evaluation.contestants import Recorded
from polite_flamingo.evaluation.examples import Example, choose, example
from polite_flamingo.evaluation.judging import RAW, REWRITTEN, Judged, joined
from polite_flamingo.evaluation.markdown import to_markdown
from polite_flamingo.evaluation.multiple_choice import MultipleChoice
from polite_flamingo.evaluation.responses import known_responses, read_responses
from polite_flamingo.evaluation.results import Results, summarise
from polite_flamingo.report.evaluation import page
from polite_flamingo.sample import Sample
from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.shards import read_shard
from ray_jobs.evaluate_answering import Evaluation
from ray_jobs.evaluate_config import EvaluateConfig
from ray_jobs.fingerprint import by_name, fingerprints, short_hash
from ray_jobs.progress import counted
from ray_jobs.resumable_job import begin_run

SHARDS_AT_ONCE = 16
"""Shards whose answers and numbers are read at once."""

JUDGED = 3
"""Increment when the code computes other numbers from the same answers."""


def stale(evaluation: Evaluation, digests: Mapping[str, str]) -> dict[str, str]:
    """Return the shards whose numbers are missing or outdated, each with the hash of what they depend on.

    Args:
        evaluation: the evaluation under way.
        digests: shard -> digest of its content.
    """
    models = [model["fingerprint"] for model in judge_models(evaluation.config).values()]
    judges = short_hash([JUDGED, models, evaluation.config.evaluation.by])
    judged = {*(evaluation.out / "judged").names(".json")}

    def check(shard: str) -> tuple[str, bool]:
        """Return the hash of what a shard's numbers depend on, and whether those that are there have it."""
        files = {name: evaluation.answers_of(name, shard) for name in evaluation.contestants}
        wanted = short_hash([judges, digests[shard], {name: _hash_of(file) for name, file in files.items()}])
        return wanted, shard in judged and json.loads(_numbers(evaluation, shard).read_text())["identity"] == wanted

    checked = zip(evaluation.shards, in_order(check, evaluation.shards, SHARDS_AT_ONCE), strict=True)
    return {shard: wanted for shard, (wanted, known) in checked if not known}


def _hash_of(file: Location) -> str:
    try:
        return short_hash(file.read_text())
    except FileNotFoundError:
        return ""


def _numbers(evaluation: Evaluation, shard: str) -> Location:
    return evaluation.out / "judged" / f"{shard}.json"


def judge_on_ray(evaluation: Evaluation, identities: Mapping[str, str], actor: type | None) -> None:
    """Judge whole shards on a pool of actors: `JudgingActor`, or a test's replacement.

    Args:
        evaluation: the evaluation under way.
        identities: from `stale`.
        actor: replaces `JudgingActor`.
    """
    from actors.judging import JudgingActor, JudgingConfig
    from ray_jobs.pipeline import ActorPool, run_shards

    config = evaluation.config
    layout = OutputLayout(root=evaluation.out).absolute()
    files = {name: str(evaluation.answers_of(name)) for name in evaluation.contestants}
    judging = JudgingConfig(
        scoring=config.scoring, out=layout.root, contestants=files, identities=identities, by=config.evaluation.by
    )
    pool = ActorPool(actor or JudgingActor, judging, config.pools.scoring, by_name(judge_models(config)))
    print(f"judging {counted(len(identities), 'shard')}")
    shards = {shard: evaluation.shards[shard] for shard in identities}
    for _ in run_shards(shards, [pool], None, layout=layout, pools=config.pools):
        pass


def conclude(evaluation: Evaluation, choices: MultipleChoice | None = None) -> Results:
    """Turn the numbers of every shard into OUT/results.json, results.md and report.html.

    Args:
        evaluation: the evaluation under way.
        choices: what contestants pick in multiple-choice questions.

    Raises:
        ValueError: there is no sample, or a file of recorded answers has none for any of them.
    """
    config, contestants, out = evaluation.config, evaluation.contestants, evaluation.out
    texts = in_order(lambda shard: _numbers(evaluation, shard).read_text(), evaluation.shards, SHARDS_AT_ONCE)
    records = {shard: json.loads(text) for shard, text in zip(evaluation.shards, texts, strict=True)}
    parts = {shard: Judged.from_json(record["judged"]) for shard, record in records.items()}
    names = (RAW, *([REWRITTEN] if any(REWRITTEN in part.contestants for part in parts.values()) else []), *contestants)
    judged = joined(parts.values(), contestants=names)
    if not judged.keys:
        raise ValueError(f"{config.input} holds no readable sample")
    for name, contestant in contestants.items():
        if isinstance(contestant, Recorded):
            answers = read_responses(contestant.place)
            strangers = sorted(set(answers) - set(judged.keys))
            if strangers and len(strangers) == len(answers):
                raise ValueError(
                    f"contestant {name}: {contestant.place} answers no sample of {config.input}; its keys are like "
                    f"{strangers[0]!r}, the input's like {judged.keys[0]!r}"
                )
            if strangers:
                print(f"{name}: {len(strangers):,} recorded answers are for samples that are not in the input")
    results = summarise(
        judged, text_only=config.text_only, resampling=config.evaluation.resampling,
        difficulty=config.evaluation.difficulty,
    )  # fmt: skip
    results = replace(results, choices=choices)
    unreadable: Counter[str] = Counter()
    for record in records.values():
        unreadable.update(record["unreadable"])
        for key, why in record.get("not_judged", {}).items():
            print(f"the judges failed on {key}: {why}")
    kinds = {name: config.contestants[name] for name in contestants}
    facts = {"input": config.input, "unreadable": unreadable, "contestants": kinds, "by": config.evaluation.by}
    (out / "results.json").put(json.dumps({**facts, **results.to_json()}, indent=1, ensure_ascii=False))
    (out / "results.md").put(to_markdown(results))
    run = begin_run("", judge_models(config), (out / "config.yaml").read_text())
    examples = collect_examples(evaluation, parts, judged)
    (out / "report.html").put(page(results, examples, run=run, unreadable=unreadable, contestants=kinds))
    return results


def judge_models(config: EvaluateConfig) -> dict[str, dict[str, str]]:
    """Return role -> name and fingerprint of the judges."""
    return fingerprints({role: getattr(config.scoring, role) for role in ("nli", "sts", "reward")})


def collect_examples(evaluation: Evaluation, parts: Mapping[str, Judged], judged: Judged) -> list[Example]:
    """Collect the samples that the page shows, reading only the shards that hold one."""
    picks = {pick.key: pick for pick in choose(judged, evaluation.config.evaluation.examples)}
    found: dict[str, Example] = {}
    for shard, part in parts.items():
        wanted = [key for key in part.keys if key in picks and key not in found]
        if not wanted:
            continue
        files = {name: evaluation.answers_of(name, shard) for name in evaluation.contestants}
        answers = {name: known_responses(file) for name, file in files.items()}
        samples = {row.key: row for row in read_shard(evaluation.shards[shard]) if isinstance(row, Sample)}
        whole = joined([part], contestants=judged.contestants)
        found |= {key: example(picks[key], samples[key], answers, whole) for key in wanted}
    return [found[key] for key in picks]
