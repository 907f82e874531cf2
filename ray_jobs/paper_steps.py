"""The steps of `make paper`: plain functions. Each returns JSON, which `paper.py` writes last: then the step is done.

    OUT/shared/exam/, annotations/  what every seed's models are asked, and rewrite; exam.json, annotations.json
    OUT/shared/base.json, template.json, judged.json  what no seed changes: the base's answers, the templates' texts
    OUT/seed-0/data/       shards: llava, text, annotations; complete.json
    OUT/seed-0/pairs/      distorted responses with their originals; stats.json
    OUT/seed-0/pf1m/       what build_pf1m leaves
    OUT/seed-0/variants/   shards: coarse pictures of both, PF-mini's annotations by template; complete.json
    OUT/seed-0/runs/NAME/  one stage of training: checkpoints/, model/, tally.json
    OUT/seed-0/answers/NAME.json, generations/NAME.json, judged.json

Nothing here starts Ray: `paper.py` decides what runs where, and in which order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.evaluation.judging import RAW
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import FlamingoConfig, RewriterConfig
from polite_flamingo.ingest.ingest import IngestConfig, ingest
from polite_flamingo.sample import BadSample, Quarantined, Sample
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.location import location
from polite_flamingo.storage.shards import read_shard, write_shard
from polite_flamingo.testbed.paper.results import ROLES, Role
from polite_flamingo.testbed.paper.variants import by_template, coarse, first_picture
from polite_flamingo.testbed.shapes.exam import Part, exam
from training.data import Ingredient
from training.stages import StageName, TrainingConfig

SAMPLES_A_SHARD = 100
TEN_PERCENT = 0.1
"""Share of PF-1M in stages 1 and 3 ([PF], section 4)."""

CAPTIONS_AND_BOXES = 100.0
"""Share of this kind of distortion, beside 209 and 77 of the others. It fits only detailed descriptions, a fifth of the
responses, so that it makes one pair in twenty, as in the paper (14,000 of 255,000)."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Number of samples of each kind.

    Attributes:
        annotations: raw samples of each of the seven datasets that become PF-mini.
        conversations: good responses of each of five sources.
        questions: unseen questions of each set that models answer: in domain, out of domain, without a picture.
        changes: unseen pairs of pictures.
        descriptions: unseen pictures to describe.
        rewritten: unseen annotations of each of the seven datasets that both generations of the rewriter rewrite.
    """

    annotations: int = 120
    conversations: int = 160
    questions: int = 1000
    changes: int = 200
    descriptions: int = 100
    rewritten: int = 40

    def __post_init__(self) -> None:
        """Raise ValueError for a size that is too small."""
        for name, least in (("annotations", 9), ("rewritten", 9), ("conversations", 1), ("questions", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"sizes.{name} must be at least {least}, not {getattr(self, name)}")

    def parts(self) -> dict[Part, int]:
        """Return the number of items of each part of the exam."""
        return {
            "in": self.questions, "out": self.questions, "text": self.questions, "changes": self.changes,
            "described": self.descriptions,
        }  # fmt: skip


PARTS_OF: dict[Role, tuple[Part, ...]] = {
    "base": ("in", "out", "text", "changes", "described"),
    "text_only": ("text",),
    "stage_1": ("in", "out", "text"),
    "stage_2": ("in", "out"),
    "clever": ("in", "out", "text", "changes", "described"),
    "first_only": ("changes",),
    "raw": ("in", "out", "text", "changes", "described"),
    "direct": ("in", "out"),
    "unfrozen": ("in", "out"),
    "twice": ("in", "out"),
    "tower": ("in", "out"),
    "coarse": ("in", "out"),
    "template": ("in", "out", "described"),
}
"""What each model is asked: what its claims and its row of a table need."""


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
    def roles(self) -> tuple[Role, ...]:
        """The roles in which the model answers the exam."""
        played: tuple[Role, ...] = tuple(role for role in ROLES if role == self.name)
        return (*played, "first_only") if self.name == "clever" else played


def plan(seed_folder: Path, training: TrainingConfig) -> list[Training]:
    """List every run of a seed, each after the one that it starts from."""
    data, pf = seed_folder / "data", str(seed_folder / "pf1m" / "pf1m")
    text = Ingredient(shards=str(data / "text"))
    llava = Ingredient(shards=str(data / "llava"))

    variants = seed_folder / "variants"

    def chat(response: Any, pf: str = pf, llava: Ingredient = llava) -> dict[str, Ingredient]:
        return {"text": text, "llava": llava, "pf": Ingredient(shards=pf, fraction=TEN_PERCENT, response=response)}

    def annotated(response: Any, pf: str = pf) -> dict[str, Ingredient]:
        return {"pf": Ingredient(shards=pf, response=response)}

    pairs = {"pairs": Ingredient(shards=str(seed_folder / "pairs"), protocol="rewriting")}
    polite, raw = chat("rewritten"), chat("raw")
    coarse, by_template = str(variants / "coarse_pf"), str(variants / "template")
    coarse_chat = chat("rewritten", coarse, Ingredient(shards=str(variants / "coarse_llava")))
    second = training.stages.clever_2

    def ablation(
        name: str, start: str, data: dict[str, Ingredient], last: Any = polite, **changes: Any
    ) -> list[Training]:
        """Return stages 2 and 3 with something changed."""
        return [
            Training(name=f"{name}_2", stage="clever-2", start=start, data=data, changes=changes),
            Training(name=name, stage="clever-3", start=f"{name}_2", data=last),
        ]

    rewritten = annotated("rewritten")
    return [
        Training(name="polite", stage="polite", start="", data=pairs),
        # the alignment tax is measured against a model that has seen the same texts as often
        Training(name="text_1", stage="clever-1", start="", data={"text": text}),
        Training(name="text_only", stage="clever-3", start="text_1", data={"text": text}),
        Training(name="stage_1", stage="clever-1", start="", data=polite),
        Training(name="stage_2", stage="clever-2", start="stage_1", data=rewritten),
        Training(name="clever", stage="clever-3", start="stage_2", data=polite),
        Training(name="raw_1", stage="clever-1", start="", data=raw),
        *ablation("raw", "raw_1", annotated("raw"), raw),
        *ablation("direct", "", rewritten),
        *ablation("unfrozen", "stage_1", rewritten, tune=("lora", *second.tune)),
        *ablation("twice", "stage_1", rewritten, epochs=2 * second.epochs),
        *ablation("tower", "stage_1", rewritten, tune=("vision_encoder", *second.tune)),
        *ablation("coarse", "stage_1", annotated("rewritten", coarse), coarse_chat),
        Training(name="template_1", stage="clever-1", start="", data=chat("rewritten", by_template)),
        *ablation("template", "template_1", annotated("rewritten", by_template), chat("rewritten", by_template)),
        Training(name="polite_gen2", stage="polite-gen2", start="clever", data=pairs),
    ]


def make_data(folder: Path, sizes: Sizes, seed: int) -> dict[str, list[str]]:
    """Generate Shapes data and ingest it by the real datasets' adapters, into folder/{llava,text,…}/*.tar.

    Returns:
        Where the annotations for captions and boxes are.
    """
    from polite_flamingo.testbed.shapes.evaluation_sets import HELD_OUT
    from polite_flamingo.testbed.shapes.instruct import write_instruct
    from polite_flamingo.testbed.shapes.write import write_raw

    said = write_instruct(folder / "raw" / "instruct", samples=sizes.conversations, seed=seed, held_out=HELD_OUT)
    for name, options in said.sources.items():
        ingest_into(name, options, folder / ("llava" if name.startswith("llava") else "text"))
    raw = write_raw(folder / "raw" / "annotations", samples=sizes.annotations, seed=seed, held_out=HELD_OUT)
    for name, options in raw.items():
        ingest_into(name, options, folder / "annotations")
    return {"annotations": [str(said.captions), str(said.instances)]}


def ingest_into(source: str, options: SourceOptions, out: Path) -> None:
    """Ingest a generated dataset by its adapter, into out/*.tar."""
    ingest(IngestConfig(source=source, options=options, out=out, samples_per_shard=SAMPLES_A_SHARD, fresh=True))


def make_exam(folder: Path, sizes: Sizes) -> dict[str, int]:
    """Write what every seed's models are asked into folder/*.tar; return the number of items of each part."""
    for part, size in sizes.parts().items():
        save_samples(folder, part, [item.sample for item in exam(part, size)])
    return {str(part): size for part, size in sizes.parts().items()}


def make_annotations(folder: Path, sizes: Sizes) -> dict[str, int]:
    """Write the unseen annotations that every seed's rewriters rewrite into folder/*.tar."""
    from polite_flamingo.testbed.shapes.evaluation_sets import HELD_OUT
    from polite_flamingo.testbed.shapes.write import write_raw

    raw = write_raw(
        folder / "raw", samples=sizes.rewritten, seed="annotations for all", damage=False, held_out=HELD_OUT
    )
    for name, options in raw.items():
        ingest_into(name, options, folder)
    return {"annotations": len(samples_of(folder))}


def make_variants(seed_folder: Path) -> dict[str, int]:
    """Write coarse pictures of PF-mini and of the conversations, and PF-mini's annotations by template."""
    kept = samples_of(seed_folder / "pf1m" / "pf1m")
    folder = seed_folder / "variants"
    save_samples(folder / "coarse_pf", "pf", map(coarse, kept))
    save_samples(folder / "coarse_llava", "llava", map(coarse, samples_of(seed_folder / "data" / "llava")))
    save_samples(folder / "template", "pf", (replace(sample, rewritten=by_template(sample)) for sample in kept))
    return {"PF-mini": len(kept)}


def save_samples(folder: Path, name: str, samples: Iterable[Sample]) -> None:
    """Write folder/NAME-000.tar, NAME-001.tar …"""
    rows = list(samples)
    for number, start in enumerate(range(0, len(rows), SAMPLES_A_SHARD)):
        write_shard(folder / f"{name}-{number:03d}.tar", rows[start : start + SAMPLES_A_SHARD])


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
    save_samples(seed_folder / "pairs", "pairs", pairs)
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


def answer(exam_folder: Path, role: Role, config: RewriterConfig) -> dict[str, str]:
    """Let a model answer the parts of the exam that its role needs; return key -> text."""
    from polite_flamingo.rewriters.flamingo import Rewriter, chatting

    seen: Callable[[Sample], Sample] = {"coarse": coarse, "first_only": first_picture}.get(role, lambda sample: sample)
    samples = [seen(sample) for sample in samples_of(exam_folder) if sample.dataset in PARTS_OF[role]]
    texts = Rewriter(config, prompt=chatting).texts(samples)
    answered = zip(samples, texts, strict=True)
    return {sample.key: text for sample, text in answered if not isinstance(text, BadSample)}


def read_answers(seed_folder: Path, role: Role) -> dict[str, str]:
    """Read what `answer` returned for a role; no seed changes the base."""
    file = seed_folder.parent / "shared" / "base.json" if role == "base" else seed_folder / "answers" / f"{role}.json"
    answers: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return answers


def judge_answers(seed_folder: Path, sizes: Sizes, scoring: ScoringConfig) -> dict[str, Any]:
    """Score all answers; return `Judged` as JSON types, with the exact check as the metric "right"."""
    from polite_flamingo.evaluation.judging import Judges, judge

    items = [item for part, size in sizes.parts().items() for item in exam(part, size)]
    responses: dict[str, dict[str, str]] = {role: read_answers(seed_folder, role) for role in ROLES}
    judged = judge([item.sample for item in items], responses, Judges(scoring), by="dataset")
    for name, texts in ({RAW: {item.sample.key: item.sample.response for item in items}} | responses).items():
        judged.scores[name]["right"] = [
            float(item.right(texts[item.sample.key])) if item.sample.key in texts else None for item in items
        ]
    return judged.to_json()


def rewrite_annotations(folder: Path, config: RewriterConfig, scoring: ScoringConfig) -> list[dict[str, Any]]:
    """Let a generation of the rewriter rewrite the unseen annotations, and score them; return a record for each."""
    from polite_flamingo.rewriters.flamingo import Rewriter

    samples = samples_of(folder)
    return _scored(samples, Rewriter(config).texts(samples), scoring)


def fill_templates(folder: Path, scoring: ScoringConfig) -> list[dict[str, Any]]:
    """Write the unseen annotations by template, and score them like `rewrite_annotations`."""
    samples = samples_of(folder)
    return _scored(samples, [by_template(sample) for sample in samples], scoring)


def _scored(
    samples: Sequence[Sample], texts: Sequence[str | BadSample], scoring: ScoringConfig
) -> list[dict[str, Any]]:
    from polite_flamingo.filters.scorer import Scorer

    rewritten = [replace(s, rewritten=t) for s, t in zip(samples, texts, strict=True) if not isinstance(t, BadSample)]
    return [
        {"key": s.key, "dataset": s.dataset, "task": s.task, "raw": s.response, "rewritten": s.rewritten, **found}
        for s, found in zip(rewritten, Scorer(scoring).score(rewritten), strict=True)
        if not isinstance(found, BadSample)
    ]
