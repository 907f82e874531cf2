"""The second half of an evaluation: judge new answers, then summarise the numbers of all of them.

    OUT/judged/SHARD.json                          the numbers of every answer, and a hash of what they depend on
    OUT/results.json OUT/results.md OUT/report.html

Judging runs on Ray. The rest takes seconds and is repeated each time. Nothing here asks a contestant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from polite_flamingo.evaluation.contestants import Contestant, Recorded
from polite_flamingo.evaluation.examples import Example, choose, example
from polite_flamingo.evaluation.judging import RAW, REWRITTEN, Judged, joined
from polite_flamingo.evaluation.markdown import to_markdown
from polite_flamingo.evaluation.responses import read_responses
from polite_flamingo.evaluation.results import Results, summarise
from polite_flamingo.report.evaluation import page
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.shards import read_shard, write_atomically
from ray_jobs.evaluate_asking import answers_of
from ray_jobs.evaluate_config import EvaluateConfig
from ray_jobs.fingerprint import by_name, fingerprints, short_hash
from ray_jobs.resumable_job import begin_run

JUDGED = 2
"""Increment when the code computes other numbers from the same answers."""


def judge_identity(config: EvaluateConfig) -> str:
    """Return a hash of what decides the numbers of given answers."""
    models = [model["fingerprint"] for model in judge_models(config).values()]
    return short_hash([JUDGED, models, config.evaluation.by])


def stale(
    out: Path, shards: Mapping[str, Path], digests: Mapping[str, str], files: Mapping[str, str], judges: str
) -> dict[str, str]:
    """Return the shards whose numbers are missing or of other answers, each with the hash of what they depend on."""
    found = {}
    for shard in shards:
        answers = {}
        for name, pattern in files.items():
            file = Path(pattern.replace("{shard}", shard))
            answers[name] = short_hash(file.read_text()) if file.exists() else ""
        wanted = short_hash([judges, digests[shard], answers])
        file = out / "judged" / f"{shard}.json"
        if not file.exists() or json.loads(file.read_text(encoding="utf-8"))["identity"] != wanted:
            found[shard] = wanted
    return found


def judge_on_ray(
    config: EvaluateConfig, files: Mapping[str, str], shards: Mapping[str, Path], identities: Mapping[str, str],
    actor: type | None = None,
) -> None:  # fmt: skip
    """Judge whole shards on a pool of actors: `JudgingActor`, or a test's own."""
    from actors.judging import JudgingActor, JudgingConfig
    from ray_jobs.pipeline import ActorPool, run_shards

    layout = OutputLayout(root=Path(config.out).resolve())
    judging = JudgingConfig(
        scoring=config.scoring, out=str(layout.root), contestants=files, identities=identities, by=config.evaluation.by
    )
    pool = ActorPool(actor or JudgingActor, judging, config.pools.scoring, by_name(judge_models(config)))
    print(f"judging {len(shards):,} shards")
    for _ in run_shards(shards, [pool], None, layout=layout, pools=config.pools):
        pass


def conclude(config: EvaluateConfig, contestants: Mapping[str, Contestant], shards: Mapping[str, Path]) -> Results:
    """Turn the numbers of every shard into OUT/results.json, results.md and report.html.

    Raises:
        ValueError: there is no sample, or a file of recorded answers has none for any of them.
    """
    out = Path(config.out)
    records = {shard: json.loads((out / "judged" / f"{shard}.json").read_text(encoding="utf-8")) for shard in shards}
    parts = {shard: Judged.from_json(record["judged"]) for shard, record in records.items()}
    names = (RAW, *([REWRITTEN] if any(REWRITTEN in part.contestants for part in parts.values()) else []), *contestants)
    judged = joined(parts.values(), contestants=names)
    if not judged.keys:
        raise ValueError(f"{config.input} holds no readable sample")
    answers = {}
    for name, contestant in contestants.items():
        if isinstance(contestant, Recorded):
            answers[name] = read_responses(contestant.path)
            strangers = sorted(set(answers[name]) - set(judged.keys))
            if strangers and len(strangers) == len(answers[name]):
                raise ValueError(
                    f"contestant {name}: {contestant.path} answers no sample of {config.input}; its keys are like "
                    f"{strangers[0]!r}, the input's like {judged.keys[0]!r}"
                )
            if strangers:
                print(f"{name}: {len(strangers):,} recorded answers are to samples that are not in the input")
    results = summarise(judged, text_only=config.text_only, resampling=config.evaluation.resampling)
    unreadable: dict[str, int] = {}
    for record in records.values():
        for reason, count in record["unreadable"].items():
            unreadable[reason] = unreadable.get(reason, 0) + count
        for key, why in record.get("not_judged", {}).items():
            print(f"the judges failed on {key}: {why}")
    kinds = {name: config.contestants[name] for name in contestants}
    facts = {"input": config.input, "unreadable": unreadable, "contestants": kinds, "by": config.evaluation.by}
    write_atomically(out / "results.json", json.dumps({**facts, **results.to_json()}, indent=1, ensure_ascii=False))
    write_atomically(out / "results.md", to_markdown(results))
    run = begin_run("", judge_models(config), (out / "config.yaml").read_text(encoding="utf-8"))
    examples = collect_examples(config, contestants, shards, parts, judged)
    write_atomically(out / "report.html", page(results, examples, run=run, unreadable=unreadable, contestants=kinds))
    return results


def judge_models(config: EvaluateConfig) -> dict[str, dict[str, str]]:
    """Return role -> name and fingerprint of the judges."""
    return fingerprints({role: getattr(config.scoring, role) for role in ("nli", "sts", "reward")})


def collect_examples(
    config: EvaluateConfig, contestants: Mapping[str, Contestant], shards: Mapping[str, Path],
    parts: Mapping[str, Judged], judged: Judged,
) -> list[Example]:  # fmt: skip
    """Collect the samples that the page shows, reading only the shards that hold one."""
    picks = {pick.key: pick for pick in choose(judged, config.evaluation.examples)}
    found: dict[str, Example] = {}
    for shard, part in parts.items():
        wanted = [key for key in part.keys if key in picks and key not in found]
        if not wanted:
            continue
        answers: dict[str, dict[str, str | BadSample]] = {}
        for name, contestant in contestants.items():
            file = Path(str(answers_of(Path(config.out), name, contestant)).replace("{shard}", shard))
            answers[name] = read_responses(file) if file.exists() else {}
        samples = {row.key: row for row in read_shard(shards[shard]) if isinstance(row, Sample)}
        whole = joined([part], contestants=judged.contestants)
        found |= {key: example(picks[key], samples[key], answers, whole) for key in wanted}
    return [found[key] for key in picks]
