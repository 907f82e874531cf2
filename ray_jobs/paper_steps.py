"""The steps of `make paper`: plain functions. Each returns JSON, which `paper.py` writes last: then the step is done.

    OUT/seed-0/data/       shards: llava, text, annotations, evaluation; complete.json
    OUT/seed-0/pairs/      distorted responses with their originals; stats.json
    OUT/seed-0/pf1m/       what build_pf1m leaves
    OUT/seed-0/runs/NAME/  one stage of training: checkpoints/, model/, tally.json
    OUT/seed-0/answers/NAME.json, generations/NAME.json, judged.json

Nothing here starts Ray: `paper.py` decides what runs where, and in which order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import FlamingoConfig, RewriterConfig
from polite_flamingo.ingest.ingest import IngestConfig, ingest
from polite_flamingo.sample import BadSample, Quarantined, Sample
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.location import location
from polite_flamingo.storage.shards import read_shard, write_shard
from polite_flamingo.testbed.paper.results import ROLES
from training.data import Ingredient
from training.stages import StageName, TrainingConfig

SAMPLES_A_SHARD = 100
TEN_PERCENT = 0.1
"""Share of PF-1M in stages 1 and 3 ([PF], section 4)."""

TEXT_EPOCHS = 3
"""Epochs of the model that the alignment tax is measured against: text is a third of stage 1's mixture, and a model
that has learnt less than the others would hide their tax."""

CAPTIONS_AND_BOXES = 100.0
"""Share of this kind of distortion, beside 209 and 77 of the others. It fits only detailed descriptions, a fifth of the
responses, so that it makes one pair in twenty, as in the paper (14,000 of 255,000)."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Number of samples of each kind.

    Attributes:
        annotations: raw samples of each of the seven datasets that become PF-mini.
        conversations: good responses of each of five sources.
        evaluation: unseen samples of each evaluation set.
        generations: annotations that both generations of the rewriter rewrite.
    """

    annotations: int = 300
    conversations: int = 300
    evaluation: int = 45
    generations: int = 250


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training run in the plan.

    Attributes:
        name: the run's name.
        stage: the training stage whose configuration it uses.
        start: the run whose model it starts from; "" is the base.
        data: the mixture.
        changes: changes to the stage's configuration.
    """

    name: str
    stage: StageName
    start: str
    data: Mapping[str, Ingredient]
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answers(self) -> bool:
        """Whether the model answers the held-out sets, because it appears in the paper's tables."""
        return self.name in ROLES


def plan(seed_folder: Path, training: TrainingConfig) -> list[Training]:
    """List every run of a seed, each after the one that it starts from."""
    data, pf = seed_folder / "data", str(seed_folder / "pf1m" / "pf1m")
    text = Ingredient(shards=str(data / "text"))
    llava = Ingredient(shards=str(data / "llava"))

    def chat(response: Any) -> dict[str, Ingredient]:
        return {"text": text, "llava": llava, "pf": Ingredient(shards=pf, fraction=TEN_PERCENT, response=response)}

    def annotated(response: Any) -> dict[str, Ingredient]:
        return {"pf": Ingredient(shards=pf, response=response)}

    pairs = {"pairs": Ingredient(shards=str(seed_folder / "pairs"), protocol="rewriting")}
    polite, raw = chat("rewritten"), chat("raw")
    second = training.stages.clever_2
    return [
        Training(name="polite", stage="polite", start="", data=pairs),
        Training(
            name="text_only", stage="clever-1", start="", data={"text": text},
            changes={"epochs": TEXT_EPOCHS * training.stages.clever_1.epochs},
        ),
        Training(name="stage_1", stage="clever-1", start="", data=polite),
        Training(name="stage_2", stage="clever-2", start="stage_1", data=annotated("rewritten")),
        Training(name="clever", stage="clever-3", start="stage_2", data=polite),
        Training(name="raw_1", stage="clever-1", start="", data=raw),
        Training(name="raw_2", stage="clever-2", start="raw_1", data=annotated("raw")),
        Training(name="raw", stage="clever-3", start="raw_2", data=raw),
        Training(name="direct_2", stage="clever-2", start="", data=annotated("rewritten")),
        Training(name="direct", stage="clever-3", start="direct_2", data=polite),
        Training(
            name="unfrozen_2", stage="clever-2", start="stage_1", data=annotated("rewritten"),
            changes={"tune": ("lora", *second.tune)},
        ),
        Training(name="unfrozen", stage="clever-3", start="unfrozen_2", data=polite),
        Training(
            name="twice_2", stage="clever-2", start="stage_1", data=annotated("rewritten"),
            changes={"epochs": 2 * second.epochs},
        ),
        Training(name="twice", stage="clever-3", start="twice_2", data=polite),
        Training(name="polite_gen2", stage="polite-gen2", start="clever", data=pairs),
    ]  # fmt: skip


def make_data(folder: Path, sizes: Sizes, seed: int) -> dict[str, list[str]]:
    """Generate Shapes data and ingest it by the real datasets' adapters, into folder/{llava,text,…}/*.tar.

    Returns:
        Where the annotations for captions and boxes are.
    """
    from polite_flamingo.testbed.shapes.evaluation_sets import HELD_OUT, write_evaluation
    from polite_flamingo.testbed.shapes.instruct import write_instruct
    from polite_flamingo.testbed.shapes.write import write_raw

    said = write_instruct(folder / "raw" / "instruct", samples=sizes.conversations, seed=seed, held_out=HELD_OUT)
    for name, options in said.sources.items():
        _ingest(name, options, folder / ("llava" if name.startswith("llava") else "text"))
    raw = write_raw(folder / "raw" / "annotations", samples=sizes.annotations, seed=seed, held_out=HELD_OUT)
    for name, options in raw.items():
        _ingest(name, options, folder / "annotations")
    unseen = write_evaluation(folder / "raw" / "evaluation", samples=sizes.evaluation, seed=seed)
    for name, found in unseen.items():
        _ingest(name, found.options, folder / "evaluation")
    return {"annotations": [str(said.captions), str(said.instances)]}


def _ingest(source: str, options: SourceOptions, out: Path) -> None:
    ingest(IngestConfig(source=source, options=options, out=out, samples_per_shard=SAMPLES_A_SHARD, fresh=True))


def make_pairs(seed_folder: Path, config: DistortionConfig, seed: int) -> dict[str, Any]:
    """Distort every good response into seed_folder/pairs/*.tar; return their numbers."""
    from polite_flamingo.distortion.pairs import distort

    annotations = json.loads((seed_folder / "data" / "complete.json").read_text())["annotations"]
    config = replace(
        config,
        seed=seed,
        shares=replace(config.shares, captions_and_boxes=CAPTIONS_AND_BOXES),
        retrieval=replace(config.retrieval, annotations=tuple(annotations)),
    )
    rows = [row for name in ("llava", "text") for row in _rows(seed_folder / "data" / name)]
    made = distort(rows, config)
    pairs = [row for row in made if isinstance(row, Sample)]
    for number, start in enumerate(range(0, len(pairs), SAMPLES_A_SHARD)):
        write_shard(seed_folder / "pairs" / f"pairs-{number:03d}.tar", pairs[start : start + SAMPLES_A_SHARD])
    kinds = Counter(pair.provenance["distortion"]["kind"] for pair in pairs)
    return {"pairs": len(pairs), "failed": len(made) - len(pairs), "kinds": kinds}


def _rows(folder: Path) -> list[Sample | Quarantined]:
    return [row for path in shard_names(str(folder)).values() for row in read_shard(path)]


def samples_of(folder: Path) -> list[Sample]:
    """Read the samples in a folder of shards, skipping what cannot be read."""
    return [row for row in _rows(folder) if isinstance(row, Sample)]


def train(seed_folder: Path, run: Training, config: TrainingConfig, seed: int) -> dict[str, Any]:
    """Train one run into seed_folder/runs/NAME, from its last checkpoint if it was interrupted; return its totals."""
    from training.run_stage import train_stage

    stages = replace(config.stages, **{run.stage.replace("-", "_"): replace(config.stage(run.stage), **run.changes)})
    config = replace(config, stages=stages, seed=seed)
    start = model_of(seed_folder, run.start) if run.start else config.base
    return train_stage(config, run.stage, start, run.data, location(seed_folder / "runs" / run.name)).to_json()


def model_of(seed_folder: Path, name: str) -> FlamingoConfig:
    """Return the model that a run has trained."""
    return FlamingoConfig(folder=str(seed_folder / "runs" / name / "model"))


def answer(seed_folder: Path, config: RewriterConfig) -> dict[str, str]:
    """Let a model answer every evaluation sample; return key -> text."""
    from polite_flamingo.rewriters.flamingo import Rewriter, chatting

    samples = samples_of(seed_folder / "data" / "evaluation")
    texts = Rewriter(config, prompt=chatting).texts(samples)
    answered = zip(samples, texts, strict=True)
    return {sample.key: text for sample, text in answered if not isinstance(text, BadSample)}


def read_answers(seed_folder: Path, name: str) -> dict[str, str]:
    """Read what `answer` returned for a model."""
    answers: dict[str, str] = json.loads((seed_folder / "answers" / f"{name}.json").read_text(encoding="utf-8"))
    return answers


def judge_answers(seed_folder: Path, names: Sequence[str], scoring: ScoringConfig) -> dict[str, Any]:
    """Score the answers of these models; return `Judged` as JSON types."""
    from polite_flamingo.evaluation.judging import Judges, judge

    samples = samples_of(seed_folder / "data" / "evaluation")
    responses = {name: read_answers(seed_folder, name) for name in names}
    return judge(samples, responses, Judges(scoring), by="dataset").to_json()


def rewrite_sample(
    seed_folder: Path, sizes: Sizes, config: RewriterConfig, scoring: ScoringConfig
) -> list[dict[str, Any]]:
    """Rewrite and score some annotations with a generation of the rewriter; return a record for each."""
    from polite_flamingo.filters.scorer import Scorer
    from polite_flamingo.rewriters.flamingo import Rewriter

    every = samples_of(seed_folder / "data" / "annotations")
    samples = every[:: max(1, len(every) // sizes.generations)][: sizes.generations]
    texts = Rewriter(config).texts(samples)
    rewritten = [replace(s, rewritten=t) for s, t in zip(samples, texts, strict=True) if not isinstance(t, BadSample)]
    scored = Scorer(scoring).score(rewritten)
    return [
        {"key": s.key, "dataset": s.dataset, "task": s.task, "raw": s.response, "rewritten": s.rewritten, **found}
        for s, found in zip(rewritten, scored, strict=True)
        if not isinstance(found, BadSample)
    ]
