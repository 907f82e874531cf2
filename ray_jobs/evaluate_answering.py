"""The first half of an evaluation: every contestant answers, once.

    OUT/responses/NAME/SHARD.jsonl     its answers, or why there is none
    OUT/responses/NAME/contestant.json the model behind the name

Models answer on Ray, endpoints are called from this process, and files are copied. Nothing here judges an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from polite_flamingo.endpoints.client import EndpointDown
from polite_flamingo.evaluation.contestants import Checkpoint, Contestant, Endpoint, Recorded, wanted_by
from polite_flamingo.evaluation.endpoint_contestant import EndpointContestant
from polite_flamingo.evaluation.judging import Answer, first_turn
from polite_flamingo.evaluation.responses import known_responses, read_responses, write_responses
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.flamingo.model.saved import opened
from polite_flamingo.preference.steerlm import attribute_line, with_attributes
from polite_flamingo.rewriters.config import decoding
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.shards import read_shard
from ray_jobs.evaluate_config import EvaluateConfig
from ray_jobs.fingerprint import answering_hash, by_name, fingerprints, short_hash
from ray_jobs.progress import counted


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation under way.

    Attributes:
        config: the job's config.
        contestants: name -> contestant.
        shards: name -> path.
        identities: name of a contestant -> hash of what decides its answers.
    """

    config: EvaluateConfig
    contestants: Mapping[str, Contestant]
    shards: Mapping[str, Location]
    identities: Mapping[str, str]

    @property
    def out(self) -> Location:
        """The output folder."""
        return location(self.config.out)

    def answers_of(self, name: str, shard: str = "{shard}") -> Location:
        """Return the place of a contestant's answers; without `shard` it holds "{shard}" for the shard's name."""
        recorded = isinstance(self.contestants[name], Recorded)
        return self.out.absolute() / "responses" / name / ("recorded.jsonl" if recorded else f"{shard}.jsonl")

    def missing(self, name: str) -> Iterator[tuple[Location, dict[str, Answer], list[Sample]]]:
        """Yield for each shard with missing answers: the file of answers, its content, and the samples without one."""
        for shard, path in self.shards.items():
            file = self.answers_of(name, shard)
            known = known_responses(file)
            samples = [first_turn(row) for row in read_shard(path) if isinstance(row, Sample)]
            if missing := [sample for sample in samples if not isinstance(known.get(sample.key), str)]:
                yield file, known, missing


def identity(contestant: Contestant, config: EvaluateConfig) -> str:
    """Return a hash of what decides a contestant's answers.

    Raises:
        ValueError: it is a model, and there is no profile.
    """
    ratings = wanted_by(contestant)
    asked = [attribute_line(ratings)] if ratings else []
    if isinstance(contestant, Checkpoint):
        found = answering_hash(answering_config(contestant, config), config.pools.rewriting.rows_per_call)
        return short_hash([found, *asked]) if asked else found
    if isinstance(contestant, Endpoint):
        return short_hash(["endpoint", contestant.model, contestant.url, config.evaluation.max_tokens, *asked])
    return short_hash(["recorded", contestant.place.read_bytes().decode(errors="replace")])


def answering_config(contestant: Checkpoint, config: EvaluateConfig) -> RewriterConfig:
    """Return the profile's rewriter section with the contestant as its model."""
    if config.rewriter is None:
        raise ValueError("a contestant is a model: give --profile FILE, whose section `rewriter` says how it decodes")
    return RewriterConfig(flamingo=contestant.flamingo, **decoding(config.rewriter))


def check_contestants(evaluation: Evaluation) -> None:
    """Record the model behind each name; raise `ValueError` if it was another one. Recorded files may change."""
    for name, contestant in evaluation.contestants.items():
        file = evaluation.out / "responses" / name / "contestant.json"
        found = {"kind": type(contestant).__name__.lower(), "identity": evaluation.identities[name]}
        known = json.loads(file.read_text()) if file.exists() else found
        if known != found and not known["kind"] == found["kind"] == "recorded":
            raise ValueError(
                f"contestant {name}: another model, or the same with other settings, has answered under this name "
                f"in {evaluation.out}; give it another name, another --out, or --fresh"
            )
        if isinstance(contestant, Recorded):
            write_responses(evaluation.answers_of(name), read_responses(contestant.place))
        file.put(json.dumps(found) + "\n")


def contestant_at(config: EvaluateConfig, endpoint: Endpoint) -> EndpointContestant:
    """Return the client of an endpoint; nothing is sent yet."""
    evaluation = config.evaluation
    return EndpointContestant(endpoint.model, endpoint.url, max_tokens=evaluation.max_tokens, config=evaluation.server)


def try_out_endpoint(evaluation: Evaluation, name: str, endpoint: Endpoint) -> None:
    """Get and keep the first missing answer. This comes before any work, so that a wrong address costs only seconds.

    Raises:
        EndpointDown: the server does not answer as it should.
    """
    for file, known, missing in evaluation.missing(name):
        try:
            asked = with_attributes(missing[0], wanted_by(endpoint))
            known[missing[0].key] = contestant_at(evaluation.config, endpoint).try_out(asked)
        except EndpointDown as down:
            raise EndpointDown(f"contestant {name}: {down}", down.status) from None
        write_responses(file, known)
        return


def answer_from_endpoint(evaluation: Evaluation, name: str, endpoint: Endpoint) -> None:
    """Get the missing answers from this process: the network is the bottleneck, and the key stays here."""
    contestant, requested = contestant_at(evaluation.config, endpoint), 0
    for file, known, missing in evaluation.missing(name):
        requested += len(missing)
        asked = [with_attributes(sample, wanted_by(endpoint)) for sample in missing]
        for sample, answer in zip(missing, contestant.answer(asked), strict=True):
            if answer is not None:
                known[sample.key] = answer
        write_responses(file, known)
        if contestant.down is not None:
            raise contestant.down
    if requested:
        print(f"{name}: requested {counted(requested, 'answer')}")


def answer_on_ray(
    evaluation: Evaluation, name: str, contestant: Checkpoint, shards: Mapping[str, Location], actor: type | None
) -> None:
    """Let a checkpoint answer whole shards on a pool of actors: `AnsweringActor`, or a test's replacement."""
    from actors.answering import AnsweringActor, record_answers
    from ray_jobs.pipeline import ActorPool, run_shards

    pools = evaluation.config.pools
    model = answering_config(contestant, evaluation.config)
    layout = OutputLayout(root=evaluation.answers_of(name).parent)
    models = fingerprints({piece: piece for piece in opened(model.flamingo).model_names()})
    pool = ActorPool(actor or AnsweringActor, model, pools.rewriting, by_name(models))
    print(f"{name}: answering {counted(len(shards), 'shard')}")
    record = partial(record_answers, folder=layout.root)
    identity = evaluation.identities[name]
    ask = partial(asking, ratings=wanted_by(contestant)) if wanted_by(contestant) else None
    for _ in run_shards(shards, [pool], record, layout=layout, pools=pools, config_hash=identity, prepare=ask):
        pass


def asking(rows: list[Sample | Quarantined], *, ratings: Mapping[str, float]) -> list[Sample | Quarantined]:
    """Add the line of attributes to the first turn of every sample, which is the one that a contestant answers."""
    return [with_attributes(first_turn(row), ratings) if isinstance(row, Sample) else row for row in rows]
