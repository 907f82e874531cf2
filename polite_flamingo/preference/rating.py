"""Rate the answers of samples by one judge: load it, refuse one that judges itself, count what it did and cost.

Every rating stays: a job that rates shards which another judge has rated adds its own. Pairs are made later.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from polite_flamingo.candidates import Rating
from polite_flamingo.cost import Prices
from polite_flamingo.endpoints.answer_store import read_stored
from polite_flamingo.filters.models import ScoringConfig, load_models
from polite_flamingo.preference.judges.base import Judge, check_candidates, same_model
from polite_flamingo.preference.judges.config import JudgeSection
from polite_flamingo.preference.judges.endpoint import EndpointJudge
from polite_flamingo.preference.judges.reading import FAULTS
from polite_flamingo.preference.judges.reward import RewardJudge
from polite_flamingo.preference.judges.rule import RuleJudge, load_rule
from polite_flamingo.preference.judges.servers import NAME, Budget, price_of
from polite_flamingo.sample import BadSample, Quarantined, Sample
from polite_flamingo.storage.ledger import OutputLayout, read_manifest


def load_judge(config: JudgeSection, budget: Budget, named: str = "") -> Judge:
    """Load the judge, or connect to its servers; nothing is sent yet.

    Args:
        config: of the profile.
        budget: counts what a chat model is paid for.
        named: how the chat model has named itself before; "" if it has not answered yet.

    Raises:
        ValueError: the rule or the reward model is none.
    """
    if config.kind == "rule":
        return RuleJudge(load_rule(config.rule))
    if config.kind == "endpoint":
        return EndpointJudge(config, budget, named)
    scoring = ScoringConfig(
        reward=config.reward, batch_size=config.batch_size, device=config.device, threads=config.threads
    )
    [model] = load_models(scoring, ("reward",))
    return RewardJudge(model)


def check_rateable(sample: Sample, config: JudgeSection, named: str = "") -> None:
    """Raise `BadSample` for a sample without answers, or with answers of the judge itself unless that is allowed.

    Args:
        sample: to be rated.
        config: of the judge.
        named: how its model names itself.
    """
    check_candidates(sample)
    if config.kind != "endpoint" or config.allow_same_model:
        return
    for model in {one.model for one in sample.candidates}:
        if same_model(model, config.endpoint.model) or same_model(model, named):
            raise BadSample(
                "unsupported",
                f"{sample.key}: {model} would judge its own answers, which it prefers: choose another judge, or set "
                "judge.allow_same_model",
            )


def spent_so_far(layout: OutputLayout, prices: Prices) -> float:
    """Return what the judge has cost: of finished shards, and of answers that wait for their shard."""
    usage = Counter[str]()
    for name in layout.finished():
        found = read_manifest(layout.manifest(name)).usage
        usage.update({what.removeprefix(f"{NAME}."): n for what, n in found.items() if what.startswith(f"{NAME}.")})
    for answer in read_stored(layout.answers):
        usage.update(answer.usage)
    return price_of(usage, prices)


def count_ratings(rows: Sequence[Sample | Quarantined]) -> dict[str, dict[str, float]]:
    """Count a shard's ratings for its manifest.

    Returns:
        ratings: prompts, answers, ratings; requests, how many were asked again, and how many replies were read
        leniently. faults: kind -> requests in which it occurred. not_rated: fault, or reason -> samples without
        ratings.
        sums, numbers: "JUDGE: ATTRIBUTE" -> sum and number of ratings with the true picture.
    """
    ratings, faults, not_rated = Counter[str](), Counter[str](), Counter[str]()
    sums, numbers = defaultdict[str, float](float), Counter[str]()
    rated: list[Rating] = []
    for row in rows:
        if not isinstance(row, Sample):
            fault = row.detail.partition(":")[0]
            not_rated[fault if fault in FAULTS else row.reason] += 1
            continue
        ratings.update({"prompts": 1, "answers": len(row.candidates)})
        for noted in row.scores.get("judging", {}).values():
            ratings.update({name: noted[name] for name in ("asked", "asked_again", "lenient")})
            faults.update(noted.get("faults", {}))
        rated += [rating for one in row.candidates for rating in one.ratings]
    ratings["ratings"] = len(rated)
    for rating in rated:
        for name, value in () if rating.blind else rating.values.items():
            sums[f"{rating.judge}: {name}"] += value
            numbers[f"{rating.judge}: {name}"] += 1
    counted: dict[str, Mapping[str, float]] = {
        "ratings": ratings,
        "faults": faults,
        "not_rated": not_rated,
        "sums": sums,
        "numbers": numbers,
    }
    return {name: dict(sorted(found.items())) for name, found in counted.items()}
