"""Models answer, judges score, and a page says who is right, who is polite, and what tuning has cost.

    python -m ray_jobs.evaluate --profile profiles/tiny.yaml --input out/eval --out out/evaluation \\
        --contestants.clever out/clever/model --contestants.base profiles/base.yaml --text_only base

Contestants are models, endpoints and files of recorded answers (`evaluation/contestants.py`); the annotations always
take part. Answers are kept, a file a shard and contestant, so that the same command after an interruption, or with one
more contestant, asks only for what is missing; an endpoint is asked again for what it failed on. A name stands for one
model for as long as the output folder lives. Means, intervals and pages are made anew each time: they cost seconds.

    OUT/responses/NAME/SHARD.jsonl   what NAME answered, and why not where it did not
    OUT/judged/SHARD.json            the numbers of every answer
    OUT/results.json OUT/results.md OUT/report.html
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from polite_flamingo import journal
from polite_flamingo.endpoint import ServerConfig
from polite_flamingo.evaluation.asking import EndpointContestant
from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.contestants import Checkpoint, Contestant, Endpoint, Recorded, contestants_of
from polite_flamingo.evaluation.examples import Example, choose, example
from polite_flamingo.evaluation.judging import RAW, REWRITTEN, Judged, first_turn, joined
from polite_flamingo.evaluation.markdown import to_markdown
from polite_flamingo.evaluation.metrics import shown
from polite_flamingo.evaluation.responses import read_responses, write_responses
from polite_flamingo.evaluation.results import Results, summarise
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.ledger import OutputLayout, exclusive, names_in, shard_names
from polite_flamingo.report.evaluation import page
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.shards import read_shard, sweep_temporary, write_atomically
from ray_jobs import console
from ray_jobs.cluster import PoolsConfig, running_ray
from ray_jobs.fingerprint import answering_hash, short_hash
from ray_jobs.run_info import begin_run

FOLDERS = ("responses", "judged", "journal", "parts")
OWN = (*FOLDERS, "results.json", "results.md", "report.html", "config.yaml", "evaluation.json")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How an evaluation judges and asks.

    Attributes:
        by: what samples are summed under, their task or their dataset.
        examples: samples shown of each kind: by chance, and furthest apart.
        max_tokens: of an endpoint's answer.
        server: how patiently endpoints are asked.
        resampling: of the intervals.
    """

    by: Literal["task", "dataset"] = "task"
    examples: int = 8
    max_tokens: int = 512
    server: ServerConfig = field(default_factory=ServerConfig)
    resampling: Resampling = field(default_factory=Resampling)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Everything an evaluation depends on.

    Attributes:
        input: a folder of .tar shards whose responses are the ground truth, one .tar, or a glob in quotes.
        out: the output folder; on several machines, one that all of them see.
        contestants: name -> a model's folder, a profile's .yaml, endpoint:MODEL@URL or recorded:FILE.jsonl; on the
            command line --contestants.NAME WHAT, as often as there are contestants.
        text_only: the contestant whose performance the alignment tax is counted from; "" counts none.
        rewriter: how models decode and use the machine; its own model takes no part.
        scoring: the judges.
        evaluation: how they are used.
        pools: rewriting: actors that hold a model which answers; scoring: actors that hold the judges.
        fresh: delete what an earlier evaluation left in `out` and start over.
    """

    input: str
    out: str = "out/evaluation"
    contestants: dict[str, str] = field(default_factory=dict)
    text_only: str = ""
    rewriter: RewriterConfig | None = None
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    pools: PoolsConfig = field(default_factory=PoolsConfig)
    fresh: bool = False


def evaluate(config: EvaluateConfig) -> None:
    """Do the whole job, or what is left of it.

    Raises:
        ValueError: a contestant, the input or the output folder is not right; the message says what to do.
        EndpointDown: an endpoint cannot be reached; what it has answered is kept.
        JobFailed: a model failed.
    """
    shards = shard_names(config.input)
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
        answer_all(config, contestants, shards, digests, identities)
        print_summary(conclude(config, contestants, shards), out)


def clear(out: Path) -> None:
    """Delete everything an evaluation made here, and nothing else."""
    for path in (out / name for name in OWN):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def identity(contestant: Contestant, config: EvaluateConfig) -> str:
    """What decides a contestant's answers.

    Raises:
        ValueError: it needs a profile.
    """
    if isinstance(contestant, Checkpoint):
        return answering_hash(answering(contestant, config), config.pools.rewriting.rows_per_call)
    if isinstance(contestant, Endpoint):
        return short_hash(["endpoint", contestant.model, contestant.url, config.evaluation.max_tokens])
    return short_hash(["recorded", contestant.path.read_text(encoding="utf-8", errors="replace")])


def answering(contestant: Checkpoint, config: EvaluateConfig) -> RewriterConfig:
    """The model in the place of the profile's own."""
    if config.rewriter is None:
        raise ValueError("a contestant is a model: give --profile FILE, whose section `rewriter` says how it decodes")
    return replace(config.rewriter, flamingo=contestant.flamingo)


def refuse_other_input(out: Path, shards: Mapping[str, Path]) -> dict[str, str]:
    """The digests of the input's shards; ValueError where one has changed since it was answered."""
    from polite_flamingo.hub import fingerprint

    digests = {name: fingerprint(str(path)) for name, path in shards.items()}
    file = out / "evaluation.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name, digest in digests.items():
        if known.get(name, digest) != digest:
            raise ValueError(f"shard {name} has changed since {out} was made; give another --out, or --fresh")
    write_atomically(file, json.dumps({**known, **digests}, indent=1) + "\n")
    return digests


def refuse_other_models(out: Path, contestants: Mapping[str, Contestant], identities: Mapping[str, str]) -> None:
    """Note who stands behind each name; ValueError where another model answered under it. A file may change."""
    for name, contestant in contestants.items():
        file = out / "responses" / name / "contestant.json"
        kind = type(contestant).__name__.lower()
        if file.exists():
            known = json.loads(file.read_text(encoding="utf-8"))
            both_recorded = known["kind"] == kind == "recorded"
            if not both_recorded and (known["kind"], known["identity"]) != (kind, identities[name]):
                raise ValueError(
                    f"contestant {name}: another model, or the same with other settings, has answered under this name "
                    f"in {out}; give it another name, another --out, or --fresh"
                )
        if isinstance(contestant, Recorded):
            write_responses(file.parent / "recorded.jsonl", read_responses(contestant.path))
        write_atomically(file, json.dumps({"kind": kind, "identity": identities[name]}) + "\n")


def answer_all(
    config: EvaluateConfig, contestants: Mapping[str, Contestant], shards: Mapping[str, Path],
    digests: Mapping[str, str], identities: Mapping[str, str],
) -> None:  # fmt: skip
    """Ask for every answer that is missing, then judge what has changed. Ray starts only if there is work for it."""
    out = Path(config.out)
    for name, contestant in contestants.items():
        sweep_temporary(out / "responses" / name)
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
                answer_on_ray(config, name, answering(contestant, config), todo, identities[name])
        if unjudged := stale(out, shards, digests, files, judges):
            judge_on_ray(config, files, {name: shards[name] for name in unjudged}, unjudged)


def answers_of(out: Path, name: str, contestant: Contestant) -> Path:
    """The files of a contestant's answers, with "{shard}" for the shard's name."""
    return (
        out.resolve() / "responses" / name / ("recorded.jsonl" if isinstance(contestant, Recorded) else "{shard}.jsonl")
    )


def ask_endpoint(config: EvaluateConfig, name: str, endpoint: Endpoint, shards: Mapping[str, Path]) -> None:
    """From this process, as the network is what one waits for: the key stays here."""
    contestant = EndpointContestant(
        endpoint.model, endpoint.url, max_tokens=config.evaluation.max_tokens, config=config.evaluation.server
    )
    asked = 0
    for shard, path in shards.items():
        file = Path(config.out) / "responses" / name / f"{shard}.jsonl"
        known = read_responses(file) if file.exists() else {}
        samples = [first_turn(row) for row in read_shard(path) if isinstance(row, Sample)]
        missing = [sample for sample in samples if not isinstance(known.get(sample.key), str)]
        if not missing:
            continue
        asked += len(missing)
        for sample, answer in zip(missing, contestant.answer(missing), strict=True):
            if answer is not None:
                known[sample.key] = answer
        write_responses(file, known)
        if contestant.down is not None:
            raise contestant.down
    if asked:
        print(f"{name}: asked for {asked:,} answers")


def answer_on_ray(
    config: EvaluateConfig, name: str, model: RewriterConfig, shards: Mapping[str, Path], identity: str
) -> None:
    """Let a checkpoint answer whole shards on a pool of actors."""
    import ray

    from actors.answering import AnsweringActor, record_answers
    from actors.source import ShardDatasource
    from ray_jobs.pipeline import configure_data, stage

    configure_data()
    pools, layout = config.pools, OutputLayout(root=Path(config.out).resolve() / "responses" / name)
    layout.clear_parts()
    journal.clear(layout.journal)
    print(f"{name}: answers {len(shards):,} shards")
    recorded = (
        ray.data.read_datasource(
            ShardDatasource(shards, identity), override_num_blocks=len(shards), num_cpus=pools.task_cpus
        )
        .map_batches(**stage(AnsweringActor, model, pools.rewriting, pools, layout))
        .map_batches(
            record_answers, fn_kwargs={"folder": str(layout.root)}, batch_size=None, batch_format="pyarrow",
            num_cpus=pools.task_cpus,
        )
    )  # fmt: skip
    with console.progress(len(shards), lambda: journal.rows_done(layout.journal, "rewriting")) as advance:
        for shard in recorded.iter_rows():
            advance(1, shard["rows_in"])
    missing = sorted(set(shards) - set(names_in(layout.root, ".jsonl")))
    assert not missing, f"shards were not answered: {console.names_of(missing)}"


def judge_identity(config: EvaluateConfig) -> str:
    """What decides the numbers of given answers."""
    from polite_flamingo.hub import fingerprint

    models = [fingerprint(name) for name in (config.scoring.nli, config.scoring.sts, config.scoring.reward)]
    return short_hash([models, config.evaluation.by])


def stale(
    out: Path, shards: Mapping[str, Path], digests: Mapping[str, str], files: Mapping[str, str], judges: str
) -> dict[str, str]:
    """The shards whose numbers are missing or of other answers, with what they depend on."""
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
    config: EvaluateConfig, files: Mapping[str, str], shards: Mapping[str, Path], identities: Mapping[str, str]
) -> None:
    """Judge whole shards on a pool of actors."""
    import ray

    from actors.answering import Judging, JudgingActor
    from actors.source import ShardDatasource
    from ray_jobs.pipeline import configure_data, stage

    configure_data()
    pools, layout = config.pools, OutputLayout(root=Path(config.out).resolve())
    layout.clear_parts()
    journal.clear(layout.journal)
    judging = Judging(
        scoring=config.scoring, out=str(layout.root), contestants=files, identities=identities, by=config.evaluation.by
    )
    judged = ray.data.read_datasource(
        ShardDatasource(shards, ""), override_num_blocks=len(shards), num_cpus=pools.task_cpus
    ).map_batches(**stage(JudgingActor, judging, pools.scoring, pools, layout))
    print(f"judging {len(shards):,} shards")
    with console.progress(len(shards), lambda: journal.rows_done(layout.journal, "judging")) as advance:
        for shard in judged.iter_rows():
            advance(1, shard["rows_in"])


def conclude(config: EvaluateConfig, contestants: Mapping[str, Contestant], shards: Mapping[str, Path]) -> Results:
    """Numbers of every shard -> OUT/results.json, results.md and report.html.

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
    """Role -> name and fingerprint of the judges."""
    from polite_flamingo.hub import fingerprint

    names = {"nli": config.scoring.nli, "sts": config.scoring.sts, "reward": config.scoring.reward}
    return {role: {"name": name, "fingerprint": fingerprint(name)} for role, name in names.items()}


def collect_examples(
    config: EvaluateConfig, contestants: Mapping[str, Contestant], shards: Mapping[str, Path],
    parts: Mapping[str, Judged], judged: Judged,
) -> list[Example]:  # fmt: skip
    """The samples that the page shows; only the shards that hold one are read."""
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


def print_summary(results: Results, out: Path) -> None:
    """The table at the end of the job."""
    rows: list[tuple[str, str]] = [("samples", f"{results.samples:,} in {len(results.tasks)} tasks")]
    for name in results.contestants:
        given, rate = results.answers[name], results.wins.rates.get(name, {}).get(RAW)
        parts: list[Any] = [f"reward {shown('reward', results.reward[name].value)}"]
        if rate is not None:
            parts.append(f"preferred to the raw annotation {shown('accuracy', rate.value)}")
        if given.answered < results.samples:
            parts.append(f"{results.samples - given.answered:,} samples without an answer")
        rows.append((name, ", ".join(parts)))
    for name, tax in results.tax.get("reward", {}).items():
        rows.append((f"tax of {name}", f"{shown('reward', tax.total.value, sign=True)} (reward, all tasks)"))
    rows.append(("report", str(out / "report.html")))
    print(console.table(rows, f"{out}"))


def main() -> None:
    """The command."""
    description = "Let models answer, and measure accuracy, politeness and the alignment tax."
    console.run("evaluate", description, EvaluateConfig, evaluate)


if __name__ == "__main__":
    main()
