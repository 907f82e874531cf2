"""The part of an evaluation that asks models multiple-choice questions (`evaluation/multiple_choice.py`).

    OUT/choices/NAME/SHARD.json     what NAME makes of each choice, and a hash of what the numbers depend on

Only models that run here have log-probabilities. Other contestants are left out, and the results say so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import partial

from polite_flamingo.evaluation.choice_records import ChoiceRecords
from polite_flamingo.evaluation.contestants import Checkpoint, wanted_by
from polite_flamingo.evaluation.multiple_choice import MultipleChoice, Scored, choice_results
from polite_flamingo.flamingo.model.saved import opened
from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import Location
from ray_jobs.evaluate_answering import Evaluation, answering_config
from ray_jobs.evaluate_judging import SHARDS_AT_ONCE
from ray_jobs.fingerprint import by_name, fingerprints, short_hash
from ray_jobs.progress import counted

CHOSEN = 1
"""Increment when the code computes other numbers from the same model and sample."""


def unasked(evaluation: Evaluation, digests: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return contestant -> the shards that it has to be asked about, each with the hash of what its numbers depend on.

    Args:
        evaluation: the evaluation under way.
        digests: shard -> digest of its content.
    """
    choices = evaluation.config.evaluation.choices
    if choices.by == "off":
        return {}
    found: dict[str, dict[str, str]] = {}
    for name in _asked(evaluation):
        asked = [CHOSEN, evaluation.identities[name], choices.by == "letter", choices.field]
        wanted = {shard: short_hash([*asked, digests[shard]]) for shard in evaluation.shards}
        known = {*_folder(evaluation, name).names(".json")}

        def missing(shard: str, name: str = name, wanted: Mapping[str, str] = wanted, known: set[str] = known) -> bool:
            return shard not in known or json.loads(_file(evaluation, name, shard))["identity"] != wanted[shard]

        flags = zip(wanted, in_order(missing, evaluation.shards, SHARDS_AT_ONCE), strict=True)
        if todo := {shard: wanted[shard] for shard, flag in flags if flag}:
            found[name] = todo
    return found


def choose_on_ray(evaluation: Evaluation, name: str, identities: Mapping[str, str], actor: type | None) -> None:
    """Ask a contestant about whole shards on a pool of actors: `ChoosingActor`, or a test's replacement.

    Args:
        evaluation: the evaluation under way.
        name: a contestant that is a checkpoint.
        identities: from `unasked`.
        actor: replaces `ChoosingActor`.
    """
    from actors.choosing import ChoosingActor, ChoosingConfig
    from ray_jobs.pipeline import ActorPool, run_shards

    contestant = _asked(evaluation)[name]
    model, pools = answering_config(contestant, evaluation.config), evaluation.config.pools
    layout = OutputLayout(root=_folder(evaluation, name))
    choosing = ChoosingConfig(
        model=model, choices=evaluation.config.evaluation.choices, ratings=wanted_by(contestant), folder=layout.root,
        identities=identities,
    )  # fmt: skip
    models = fingerprints({piece: piece for piece in opened(model.flamingo).model_names()})
    pool = ActorPool(actor or ChoosingActor, choosing, pools.rewriting, by_name(models))
    print(f"{name}: multiple choice in {counted(len(identities), 'shard')}")
    shards = {shard: evaluation.shards[shard] for shard in identities}
    for _ in run_shards(shards, [pool], None, layout=layout, pools=pools):
        pass


def multiple_choice(evaluation: Evaluation) -> MultipleChoice | None:
    """Return what all contestants pick; None if nobody was asked."""
    choices = evaluation.config.evaluation.choices
    if choices.by == "off":
        return None
    asked = _asked(evaluation)
    read: list[ChoiceRecords] = []
    scored: dict[str, dict[str, Scored]] = {}
    for name in asked:
        texts = in_order(partial(_file, evaluation, name), evaluation.shards, SHARDS_AT_ONCE)
        read = [ChoiceRecords.from_json(text) for text in texts]
        scored[name] = {key: one for records in read for key, one in records.scored.items()}
    options = {key: one for records in read for key, one in records.options.items()}  # the same for all
    results = choice_results(
        list(options.values()), {name: [found[key] for key in options] for name, found in scored.items()},
        choices.by, evaluation.config.evaluation.resampling,
    ) if options else {}  # fmt: skip
    return MultipleChoice(
        by=choices.by,
        results=results,
        left_out=tuple(name for name in evaluation.contestants if name not in asked),
        refused=dict(Counter(bad.reason for records in read for bad in records.refused.values())),
    )


def _asked(evaluation: Evaluation) -> dict[str, Checkpoint]:
    return {name: one for name, one in evaluation.contestants.items() if isinstance(one, Checkpoint)}


def _folder(evaluation: Evaluation, name: str) -> Location:
    return evaluation.out.absolute() / "choices" / name


def _file(evaluation: Evaluation, name: str, shard: str) -> str:
    return (_folder(evaluation, name) / f"{shard}.json").read_text()
