"""The Polite Flamingo rewriter: samples in, one polite text per sample out.

A sample becomes a request: the prompt of the rewriting protocol and the sample's images. The engine continues it
(`engine.py`), or beam search does if the settings ask for it (`beam_search.py`). A sample that fails alone (a broken
image, a text longer than the model's context) returns its own `BadSample` and affects no other; a failing model raises.

Deterministic for a given list of samples; sampling is seeded by keys (see `GenerationConfig`). Greedy texts depend
neither on the list, nor on the number of slots, nor on what was rewritten before, except for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch

from polite_flamingo.conversations import parts_of
from polite_flamingo.endpoints.answers import ending
from polite_flamingo.flamingo.config import GenerationConfig, RewriterConfig
from polite_flamingo.flamingo.engine.beam_search import BeamSearch
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.engine_pool import EnginePool
from polite_flamingo.flamingo.engine.metrics import merged
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.sampling import SamplingParams, seed_of
from polite_flamingo.flamingo.model.checkpoint import load_flamingo
from polite_flamingo.flamingo.model.decoder import Decoder
from polite_flamingo.flamingo.model.tokenization import Tokenizer
from polite_flamingo.packing.chat_turns import conversation_ids, exchanges
from polite_flamingo.prompts import chat_prompt, rewriting_prompt
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.usage import Usage

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

Prompt = Callable[[str, str], str]
"""(instruction, raw annotation) -> the text to continue."""

rewriting: Prompt = rewriting_prompt
"""Polite Flamingo's prompt: revise the annotation."""


def chatting(instruction: str, raw: str) -> str:
    """Return Clever Flamingo's prompt: answer the instruction, without seeing the annotation."""
    return chat_prompt(instruction)


class Rewriter:
    """Loads the model once; `rewrite` may be called any number of times, and the image cache lasts across calls.

    Attributes:
        config: the configuration as given.
        model: the `FlamingoModel`, with LoRA merged.
        engine: an engine, a pool of engines, or beam search.
        positions: maximum length of prompt and answer together, in tokens.
    """

    def __init__(self, config: RewriterConfig, model: FlamingoModel | None = None, prompt: Prompt = rewriting):
        """Load the models that `config` names. Raises ValueError with a remedy if they do not fit each other.

        Args:
            config: the rewriter's configuration.
            model: the model that `config.flamingo` describes, if it is already loaded.
            prompt: `rewriting`, or `chatting` for a model that answers without the annotation.
        """
        self.prompt = prompt
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config = config
        device = choose_device(config.device)
        self.model = model or load_flamingo(config.flamingo, dtype=choose_dtype(config.dtype, device), device=device)
        language = self.model.lang_encoder.config
        self.positions: int = getattr(language, "max_position_embeddings", None) or language.max_seq_len
        self.engine = create_engine(self.model, config, prompt)

    def rewrite(self, samples: Sequence[Sample], usage: Usage) -> list[list[str | BadSample | None]]:
        """Return for each sample, in order, one text per turn, or why there is none; None for a turn without a part.

        Each turn is rewritten by itself, as the model was trained. Adds to `usage`.
        """
        parts = [parts_of(sample) for sample in samples]
        texts = iter(self.texts([part for found in parts for part in found.values()], usage))
        return [
            [next(texts) if number in found else None for number in range(len(sample.turns))]
            for sample, found in zip(samples, parts, strict=True)
        ]

    def texts(self, samples: Sequence[Sample], usage: Usage | None = None) -> list[str | BadSample]:
        """Return for each sample, in order, its text, or the `BadSample` that says why there is none.

        A rewriter takes samples of one turn. A model that chats answers the last turn of a conversation, after the
        responses of those before.

        A text that was cut by the token limit is an `answers.Unfinished`.
        """
        asked: list[Request | BadSample] = []
        for sample in samples:
            try:
                asked.append(self._request(sample))
            except BadSample as bad:
                asked.append(bad)
        requests = [one for one in asked if isinstance(one, Request)]
        self.engine.generate(requests)
        if usage is not None:
            _add_usage(usage, requests)
        return [self._outcome(sample, one) for sample, one in zip(samples, asked, strict=True)]

    def metrics(self) -> dict[str, float]:
        """Return the engines' metrics so far (`metrics.merged`) and their number; empty for beam search."""
        if isinstance(self.engine, BeamSearch):
            return {}
        engines = self.engine.engines if isinstance(self.engine, EnginePool) else [self.engine]
        return merged(engine.metrics for engine in engines).summary() | {"engines": len(engines)}

    def _request(self, sample: Sample) -> Request:
        if len(sample.turns) != 1 and self.prompt is not chatting:
            raise BadSample(
                "unsupported", f"{sample.key}: rewriting takes one turn, the sample has {len(sample.turns)}"
            )
        sample.validate()
        tokenizer, generation = self.model.tokenizer, self.config.generation
        if len(sample.turns) > 1:
            ids = conversation_ids(exchanges(sample), tokenizer)
        else:
            ids = tokenizer.encode(self.prompt(sample.instruction, sample.response))
        tags = ids.count(tokenizer.image_id)
        if tags != len(sample.images):  # an annotation that contains "<image>" would shift what later tags see
            raise BadSample(
                "bad_field",
                f"{sample.key}: the prompt has {tags} image tags, but the sample has {len(sample.images)} images",
            )
        new = generation.max_new_tokens
        if len(ids) + new > self.positions:
            raise BadSample(
                "text_too_long",
                f"{sample.key}: {len(ids)} prompt tokens and {new} new ones exceed the {self.positions} positions",
            )
        return Request(
            ids=ids, images=[image.data for image in sample.images], params=sampling_params(generation, sample)
        )

    def _outcome(self, sample: Sample, asked: Request | BadSample) -> str | BadSample:
        if isinstance(asked, BadSample):
            return asked
        if asked.error is not None:
            return BadSample(asked.error.reason, f"{sample.key}: {asked.error.detail}")
        return ending(asked.text.strip(), asked.finish_reason)


def _add_usage(usage: Usage, requests: Sequence[Request]) -> None:
    usage["requests"] += len(requests)
    usage["prompt_tokens"] += sum(len(request.ids) for request in requests)
    usage["generated_tokens"] += sum(len(request.tokens) for request in requests)
    usage["images"] += sum(len(request.images) for request in requests)


def create_engine(
    model: FlamingoModel, config: RewriterConfig, prompt: Prompt = rewriting
) -> Engine | EnginePool | BeamSearch:
    """Create an engine, a pool of engines or beam search, as `config` asks."""
    tokenizer = model.tokenizer
    # v1 was trained to end at EOS only; open_flamingo's own models also end a text with <|endofchunk|>.
    stop_token_ids = [tokenizer.eos_id] if model.attention == "v1" else [tokenizer.eos_id, tokenizer.end_of_chunk_id]
    if config.generation.num_beams > 1:
        return BeamSearch(model, config.generation, stop_token_ids=stop_token_ids, batch=config.beam_batch)
    shared_prefix_ids = shared_prefix(tokenizer, prompt)
    copies = config.engine.copies if model.lang_encoder.device.type == "cpu" else 1
    decoder = Decoder(model)
    engines = [
        Engine(
            model, config.engine, stop_token_ids=stop_token_ids, shared_prefix_ids=shared_prefix_ids, decoder=decoder
        )
        for _ in range(copies)
    ]
    return EnginePool(engines) if copies > 1 else engines[0]


def sampling_params(generation: GenerationConfig, sample: Sample) -> SamplingParams:
    """Derive a sample's sampling parameters; the seed depends on its key."""
    return SamplingParams(
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature if generation.do_sample else 0.0,
        top_k=generation.top_k,
        top_p=generation.top_p,
        no_repeat_ngram_size=generation.no_repeat_ngram_size,
        seed=seed_of(generation.seed, sample.key),
    )


def shared_prefix(tokenizer: Tokenizer, prompt: Prompt = rewriting) -> list[int]:
    """Return the tokens that all prompts start with."""
    first, second = (tokenizer.encode(prompt(instruction, "")) for instruction in ("<image>", "What"))
    return [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))]


def choose_device(device: str) -> str:
    """Resolve "auto" to "cuda" if torch sees a GPU, else to "cpu"."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """Resolve "auto" to bfloat16 if the device multiplies it fast, else to float32."""
    if dtype != "auto":
        return getattr(torch, dtype)
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older versions of torch
    fast = device != "cpu" or any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if fast else torch.float32
