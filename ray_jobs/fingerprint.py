"""Hashes of everything that decides a result: two runs with the same hash may share an output folder.

They cover the models (their files, not their paths), prompts and generation settings. They leave out thresholds, which
are applied later, and how the work is divided: pool sizes, devices, threads, the engine's slots and caches, rows per
call. Which prompts share a beam search does count, because it seeds their sampling.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from polite_flamingo import prompts
from polite_flamingo.filters.endpoint_config import FilterEndpoint
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import FlamingoConfig, RewriterConfig
from polite_flamingo.flamingo.model.saved import opened
from polite_flamingo.rewriters import chat_prompt
from polite_flamingo.rewriters.config import ChatConfig, RewriterSection
from polite_flamingo.storage.input_files import size_of
from polite_flamingo.storage.location import Location
from training.data import Ingredient
from training.stages import StageName, TrainingConfig

RESULTS_VERSION = 3
"""Increment when the code gives other results from the same models and settings."""

UNSEEN = "name:"
"""Begins the fingerprint of a model whose files are elsewhere (see `hub.refuse_other_models`)."""

_WHERE_VLLM = (
    "tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend", "gpu_memory_utilization",
    "max_num_seqs", "max_num_batched_tokens", "enforce_eager", "enable_prefix_caching", "swap_space", "load_format",
)  # fmt: skip
"""Options of vLLM's engine that say how it uses the machine."""

_WHERE = ("device", "threads", "engine")


def model_fingerprints(rewriter: RewriterSection, scoring: ScoringConfig) -> dict[str, dict[str, str]]:
    """Return role -> name and fingerprint of every model.

    Raises:
        FileNotFoundError: a `zoo:` or `package:` name leads nowhere.
        ValueError: a folder that should hold a trained model does not.
    """
    named: dict[str, dict[str, str]] = {}
    names: dict[str, str | FilterEndpoint] = {}
    if rewriter.kind == "flamingo":
        pieces = opened(rewriter.of_flamingo().flamingo).model_names()
        names = {f"rewriter {number}": name for number, name in enumerate(pieces, 1)}
    elif rewriter.kind == "endpoint":
        named = {"rewriter": {"name": rewriter.endpoint.model, "fingerprint": f"{UNSEEN}{rewriter.endpoint.model}"}}
    elif rewriter.kind == "vllm":
        names = {"rewriter 1": rewriter.vllm.model, "rewriter 2": rewriter.vllm.lora}
    return named | fingerprints(names | scoring.models(compare=rewriter.kind != "none"))


def fingerprints(models: Mapping[str, str | FilterEndpoint]) -> dict[str, dict[str, str]]:
    """Return role -> name and fingerprint for the models that have a name.

    Args:
        models: role -> name in the profile, or servers.

    Raises:
        FileNotFoundError: a `zoo:` or `package:` name or an address leads nowhere.
    """
    from polite_flamingo.hub import fingerprint

    found = {}
    for role, one in models.items():
        if isinstance(one, FilterEndpoint):
            found[role] = {"name": one.model, "fingerprint": f"{UNSEEN}{one.model}"}
        elif one:
            found[role] = {"name": one, "fingerprint": fingerprint(one)}
    return found


def with_files(models: Mapping[str, Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    """Return the models without those that only a server has."""
    return {role: model for role, model in models.items() if model["fingerprint"] != f"{UNSEEN}{model['name']}"}


def by_name(models: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return name -> fingerprint, for workers to compare with their own files (`hub.refuse_other_models`)."""
    return {model["name"]: model["fingerprint"] for model in models.values()}


def config_hash(
    rewriter: RewriterSection, scoring: ScoringConfig, models: dict[str, dict[str, str]], rows_per_call: int
) -> str:
    """Return a hash that changes when a row's result may change.

    Args:
        rewriter: the rewriter's config.
        scoring: the config of the scoring models.
        models: from `model_fingerprints`.
        rows_per_call: of rewriting; a beam search's batches are made within a call.
    """
    return short_hash(
        {
            "version": RESULTS_VERSION,
            "rewriter": _identity(rewriter, models, rows_per_call),
            "scoring": _scoring(scoring, models),
            "prompt": prompts.rewriting_prompt("<image>instruction", "raw"),
        }
    )


def _identity(rewriter: RewriterSection, models: dict[str, dict[str, str]], rows_per_call: int) -> Any:
    """Return what decides the texts of a rewriter, whatever its kind."""
    if rewriter.kind == "flamingo":
        return _rewriting(rewriter.of_flamingo(), models, rows_per_call)
    if rewriter.kind == "endpoint":
        return {"kind": rewriter.kind, "model": rewriter.endpoint.model, **_chat(rewriter.endpoint)}
    if rewriter.kind == "vllm":
        engine = {name: value for name, value in rewriter.vllm.engine.items() if name not in _WHERE_VLLM}
        names = _settings(rewriter.vllm, models)
        return {"kind": rewriter.kind, "model": names["model"], "lora": names["lora"], "options": engine,
                **_chat(rewriter.vllm)}  # fmt: skip
    return {"kind": rewriter.kind}


def _scoring(scoring: ScoringConfig, models: dict[str, dict[str, str]]) -> Any:
    """Return what decides the scores: of a model behind servers its name, route and labels, not where it runs."""
    served = {role: endpoint.identity() for role, endpoint in scoring.endpoints().items()}
    unset = {name for name in ("judge", "languages") if not getattr(scoring, name)}  # folders from before them open
    return {name: value for name, value in _settings(scoring, models).items() if name not in unset} | served


def _chat(config: ChatConfig) -> dict[str, Any]:
    """Return what a chat model is asked: prompt, sampling, pictures, language; not where it runs, or how fast."""
    return {
        **{one.name: getattr(config, one.name) for one in dataclasses.fields(ChatConfig)},
        "prompt": dataclasses.asdict(config.prompt),
        "wording": chat_prompt.version(config),
    }


def answering_hash(rewriter: RewriterConfig, rows_per_call: int) -> str:
    """Return the same as `config_hash` for a model that answers with the chat prompt and is not scored.

    Raises:
        FileNotFoundError: a `zoo:` or `package:` name leads nowhere.
        ValueError: a folder that should hold a trained model does not.
    """
    models = fingerprints({name: name for name in opened(rewriter.flamingo).model_names()})
    prompt = prompts.chat_prompt("<image>instruction")
    settings = _rewriting(rewriter, models, rows_per_call)
    return short_hash({"version": RESULTS_VERSION, "rewriter": settings, "prompt": prompt})


def short_hash(decides: Any) -> str:
    """Return twelve hex digits of the SHA-256 of JSON types."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def _rewriting(rewriter: RewriterConfig, models: dict[str, dict[str, str]], rows_per_call: int) -> Any:
    """Return the part of a rewriter's config that decides its texts."""
    settings = _settings(dataclasses.replace(rewriter, flamingo=opened(rewriter.flamingo)), models)
    if rewriter.generation.num_beams == 1:
        del settings["beam_batch"]
    else:
        settings["rows_per_call"] = rows_per_call
    return settings


def base_fingerprints(start: FlamingoConfig) -> dict[str, dict[str, str]]:
    """Return role -> name and fingerprint of the parts of the model that training starts from.

    Raises:
        FileNotFoundError: a `zoo:` or `package:` name leads nowhere.
        ValueError: a folder that should hold a trained model does not.
    """
    names = [name for name in opened(start).model_names() if name]
    return fingerprints({f"base {number}": name for number, name in enumerate(names, 1)})


def training_hash(
    training: TrainingConfig, stage: StageName, start: FlamingoConfig, models: dict[str, dict[str, str]],
    mixture: Mapping[str, Ingredient], shards: Sequence[tuple[str, Location]],
) -> str:  # fmt: skip
    """Return a hash that changes when the weights that a stage produces may change.

    It leaves out how a batch is run (micro-batches, checkpointing, caches), where, and by how many workers.
    """
    recipe = dataclasses.asdict(training.stage(stage))
    del recipe["micro_batch"]
    for name, default in (("fresh_lora", False), ("preference", None)):  # so that folders of earlier versions go on
        if recipe[name] == default:
            del recipe[name]
    decides = {
        "version": RESULTS_VERSION,
        "stage": stage,
        "recipe": recipe,
        "start": _settings(opened(start), models),
        "order": [training.seed, training.shards_a_group, training.dtype],
        "mixture": [[name, one.fraction, one.response, one.protocol] for name, one in mixture.items()],
        "shards": [[name, place.name, size_of(place)] for name, place in shards],
    }
    return short_hash(decides)


def _settings(config: Any, models: dict[str, dict[str, str]]) -> Any:
    """Return a config as JSON types, with model names replaced by fingerprints."""
    known = {model["name"]: model["fingerprint"] for model in models.values()}

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items() if key not in _WHERE}
        if isinstance(value, list | tuple):
            return [replaced(item) for item in value]
        return known.get(value, value) if isinstance(value, str) and value else value

    return replaced(dataclasses.asdict(config))
