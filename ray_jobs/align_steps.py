"""The steps of `polite-flamingo align`: plain functions. Each returns JSON, which `align.py` writes last.

    OUT/shared/exam/          what every seed's models are asked; exam.json
    OUT/shared/texts/         conversations without pictures; language/: the model tuned on them; texts.json
    OUT/shared/ROLE.json      answers of the models that no seed changes: the start and the language model
    OUT/seed-0/rated/         prompts with the start model's answers, rated by the rule and by the reward model
    OUT/seed-0/pairs/NAME/    what `polite-flamingo pair` leaves, for each variant; pairs.json
    OUT/seed-0/runs/NAME/     one training run: checkpoints/, model/, tally.json
    OUT/seed-0/answers/ROLE.json, judged.json

Nothing here starts Ray: `align.py` decides what runs where, and in which order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polite_flamingo.candidates import Candidate
from polite_flamingo.cost import Prices
from polite_flamingo.evaluation.judging import Judged
from polite_flamingo.flamingo.config import FlamingoConfig, RewriterConfig
from polite_flamingo.preference.judges.config import JudgeSection
from polite_flamingo.preference.judges.rule import load_rule
from polite_flamingo.preference.judges.servers import Budget
from polite_flamingo.preference.pairing import REWARD, PairingConfig
from polite_flamingo.preference.rating import load_judge
from polite_flamingo.preference.sampling import SamplingSection, facts_of, prompt_of, requests_of, with_answers
from polite_flamingo.preference.steerlm import WANTED, with_attributes
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.storage.location import location
from polite_flamingo.testbed.alignment.results import METRICS, Role
from polite_flamingo.testbed.shapes.exam import Part, exam, prompts
from polite_flamingo.usage import Usage
from ray_jobs.pair import PairConfig, write_sets
from ray_jobs.paper_steps import ingest_into, samples_of, save_samples
from training.data import Ingredient
from training.stages import StageName, TrainingConfig

REWARD_MARGIN = 1.0
"""Least difference of two rewards that makes a pair; the reward of a polite answer is some 5 above a bare one's."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Number of samples of each kind.

    Attributes:
        prompts: questions about pictures, of the kinds that tuning shows, that the start model answers several times.
        described: pictures that it describes several times.
        questions: unseen questions of each set that every model answers: in domain, out of domain, without a picture.
        descriptions: unseen pictures that every model describes.
        conversations: conversations of each of two sources of texts, on which the language model is tuned.
    """

    prompts: int = 300
    described: int = 60
    questions: int = 300
    descriptions: int = 60
    conversations: int = 800

    def __post_init__(self) -> None:
        """Raise ValueError for a size that is too small."""
        for name in ("prompts", "described", "questions", "descriptions", "conversations"):
            if getattr(self, name) < 2:
                raise ValueError(f"sizes.{name} must be at least 2")

    @property
    def asked(self) -> dict[Part, int]:
        """Number of items of each part of the exam."""
        return {
            "in": self.questions, "out": self.questions, "text": self.questions, "described": self.descriptions,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """One training run.

    Attributes:
        role: the role of its model.
        stage: the training stage.
        variant: the variant of the pairs.
        part: which of the variant's sets it learns.
    """

    role: Role
    stage: StageName
    variant: str
    part: str = "pairs"

    @property
    def asked_as(self) -> dict[Role, Mapping[str, float]]:
        """The roles in which its model answers, and the attributes that it is asked for."""
        if self.role != "steerlm":
            return {self.role: {}}
        return {"steerlm": WANTED["best"], "steerlm_short": WANTED["short"], "steerlm_none": WANTED["none"]}


PLAN: tuple[Tuning, ...] = (
    Tuning(role="dpo", stage="dpo", variant="all"),
    Tuning(role="steerlm", stage="steerlm", variant="all", part="steerlm"),
    Tuning(role="sft", stage="sft", variant="all", part="sft"),
    Tuning(role="rejection", stage="rejection", variant="all", part="rejection"),
    Tuning(role="by_reward", stage="dpo", variant="by_reward"),
    Tuning(role="flips_25", stage="dpo", variant="flips_25"),
    Tuning(role="flips_50", stage="dpo", variant="flips_50"),
    Tuning(role="flips_75", stage="dpo", variant="flips_75"),
    Tuning(role="scale_75", stage="dpo", variant="scale_75"),
    Tuning(role="scale_50", stage="dpo", variant="scale_50"),
    Tuning(role="scale_25", stage="dpo", variant="scale_25"),
)
"""The longest first, so that no core waits in the end."""


def variants(seed: int) -> dict[str, PairingConfig]:
    """Return how the pairs of each variant are made of the same rated answers."""
    usual = PairingConfig(judge="rule", seed=seed)
    return {
        "all": usual,
        **{f"flips_{share}": replace(usual, flips=share / 100) for share in (25, 50, 75)},
        **{f"scale_{share}": replace(usual, fraction=share / 100) for share in (25, 50, 75)},
        "by_reward": replace(usual, judge=REWARD, margin=REWARD_MARGIN),
    }


def make_exam(folder: Path, sizes: Sizes) -> dict[str, int]:
    """Write what every model is asked into folder/*.tar; return the number of items of each part."""
    for part, size in sizes.asked.items():
        save_samples(folder, part, [item.sample for item in exam(part, size)])
    return {str(part): size for part, size in sizes.asked.items()}


def make_texts(folder: Path, sizes: Sizes) -> dict[str, int]:
    """Write conversations without pictures into folder/texts/*.tar."""
    from polite_flamingo.testbed.shapes.evaluation_sets import HELD_OUT
    from polite_flamingo.testbed.shapes.instruct import write_instruct

    written = write_instruct(folder / "raw", samples=sizes.conversations, seed="texts", held_out=HELD_OUT)
    for name, options in written.sources.items():
        if not name.startswith("llava"):
            ingest_into(name, options, folder / "texts")
    return {"texts": len(samples_of(folder / "texts"))}


def tune_language(shared: Path, stage: StageName, name: str, start: str, config: TrainingConfig) -> dict[str, Any]:
    """Tune the base on the texts alone, into shared/language/NAME. Args: start: an earlier NAME, or "" for the base."""
    model = language_model(shared, start) if start else config.base
    texts = {"texts": Ingredient(shards=str(shared / "texts"))}
    return _train(config, stage, model, texts, shared / "language" / name)


def language_model(shared: Path, name: str) -> FlamingoConfig:
    """Return a model that `tune_language` left."""
    return FlamingoConfig(folder=str(shared / "language" / name / "model"))


def sample_and_rate(
    home: Path, sampling: SamplingSection, judge: JudgeSection, sizes: Sizes, seed: int
) -> dict[str, float]:
    """Let the start model answer new prompts several times, and rate the answers; write home/rated/*.tar.

    Returns:
        Counts, and the share of answers that are right.

    Raises:
        ValueError: a prompt could not be answered or rated, which no generated prompt explains.
    """
    from polite_flamingo.preference.policies import load_policy

    sampling = replace(sampling, seed=seed)
    asked = [*prompts("in", sizes.prompts, f"pairs {seed}"), *prompts("described", sizes.described, f"pairs {seed}")]
    ready = [prompt_of(sample) for sample in asked]
    requests = [requests_of(prompt, sampling.answers) for prompt in ready]
    found = iter(load_policy(sampling).answers([one for each in requests for one in each], Usage()))
    rows: list[Sample | BadSample] = [
        with_answers(prompt, [next(found) for _ in each], sampling.least, facts_of(sampling))
        for prompt, each in zip(ready, requests, strict=True)
    ]
    for kind in ("rule", "reward"):
        rated = load_judge(replace(judge, kind=kind), Budget(Prices())).rate(_good(rows), Usage())
        rows = [*rated]
    samples = _good(rows)
    save_samples(home / "rated", "rated", samples)
    every = [one for sample in samples for one in sample.candidates]
    right = sum(one.ratings[0].values["correctness"] == 4 for one in every)
    return {"prompts": len(samples), "answers": len(every), "answers right, %": round(100 * right / len(every), 1)}


def _good(rows: Sequence[Sample | BadSample]) -> list[Sample]:
    for row in rows:
        if isinstance(row, BadSample):
            raise ValueError(f"{row.reason}: {row.detail}")
    return [row for row in rows if isinstance(row, Sample)]


def make_pairs(home: Path, seed: int) -> dict[str, Any]:
    """Make the pairs of every variant of home/rated, in home/pairs; return its stats by variant."""
    shards = {path.stem: location(path) for path in sorted((home / "rated").glob("*.tar"))}
    made = {}
    for name, pairing in variants(seed).items():
        out = home / "pairs" / name
        counts = write_sets(PairConfig(input=str(home / "rated"), out=str(out), pairing=pairing), shards, location(out))
        made[name] = counts.to_json()
    return made


def tune(home: Path, run: Tuning, config: TrainingConfig, start: FlamingoConfig, seed: int) -> dict[str, Any]:
    """Train one run into home/runs/ROLE, from its last checkpoint if it was interrupted; return its totals."""
    shards = str(home / "pairs" / run.variant / run.part)
    config = replace(config, seed=seed)
    return _train(config, run.stage, start, {"answers": Ingredient(shards=shards)}, home / "runs" / run.role)


def model_of(home: Path, role: Role) -> FlamingoConfig:
    """Return the model that a run has trained."""
    return FlamingoConfig(folder=str(home / "runs" / role / "model"))


def _train(
    config: TrainingConfig, stage: StageName, start: FlamingoConfig, data: dict[str, Ingredient], out: Path
) -> dict[str, Any]:
    from training.run_stage import train_stage

    return train_stage(config, stage, start, data, location(out)).to_json()


def answer(
    exam_folder: Path, parts: Sequence[Part], wanted: Mapping[str, float], model: RewriterConfig
) -> dict[str, str]:
    """Let a model answer parts of the exam, asked for attributes if any are given; return key -> text."""
    from polite_flamingo.rewriters.flamingo import Rewriter, chatting

    samples = [sample for sample in samples_of(exam_folder) if sample.dataset in parts]
    texts = Rewriter(model, prompt=chatting).texts([with_attributes(sample, wanted) for sample in samples])
    answered = zip(samples, texts, strict=True)
    return {sample.key: text for sample, text in answered if not isinstance(text, BadSample)}


def read_answers(home: Path, role: Role) -> dict[str, str]:
    """Read what `answer` returned for a role."""
    shared = home.parent / "shared" / f"{role}.json"
    file = shared if role in ("start", "language") else home / "answers" / f"{role}.json"
    answers: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return answers


def judge_answers(home: Path, roles: Sequence[Role], judge: JudgeSection, sizes: Sizes) -> dict[str, Any]:
    """Score all answers by `METRICS`; return `Judged` as JSON types. An answer that is missing has no numbers."""
    rule = load_rule(judge.rule)
    items = [item for part, size in sizes.asked.items() for item in exam(part, size)]
    rewards = load_judge(replace(judge, kind="reward"), Budget(Prices()))
    scores: dict[str, dict[str, list[float | None]]] = {}
    for role in roles:
        texts = read_answers(home, role)
        there = [item for item in items if item.sample.key in texts]
        rewarded = rewards.rate([_answered(item.sample, texts[item.sample.key]) for item in there], Usage())
        reward = {one.key: one.candidates[0].ratings[0].values["reward"] for one in _good(rewarded)}
        found: dict[str, list[float | None]] = {metric: [] for metric in METRICS}
        for item in items:
            key, text = item.sample.key, texts.get(item.sample.key)
            values = rule(item.sample, text)[0] if text is not None else {}
            numbers = {
                "right": float(item.right(text)),
                "score": float(values["helpfulness"] + values["correctness"] + values["coherence"]),
                "reward": reward[key],
                "words": float(len(text.split())),
            } if text is not None else {}  # fmt: skip
            for metric in METRICS:
                found[metric].append(numbers.get(metric))
        scores[role] = found
    return Judged(
        contestants=tuple(roles), keys=[item.sample.key for item in items],
        tasks=[item.sample.dataset for item in items], scores=scores,
        missing={role: {} for role in roles}, unscored={role: {} for role in roles},
    ).to_json()  # fmt: skip


def _answered(sample: Sample, text: str) -> Sample:
    return replace(sample, candidates=(Candidate(text=text),))
