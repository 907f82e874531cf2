"""Polite Flamingo at work: samples in, one polite text each out.

A sample becomes the prompt of the rewriting protocol and its images; prompts of like length are decoded together. What
fails alone (a broken image, a text longer than the model reads) comes back as that sample's `BadSample` and spoils
nobody else's; a model that fails raises.

Deterministic for a given list of samples: batches are formed within the list, by length; sampling is seeded by keys
(see `GenerationConfig`). Greedy texts depend on neither the list nor the batch size, but for rounding.

Plain batched `generate` of transformers does the decoding, each image encoded once a call; the engine that replaces it
keeps this interface.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from polite_flamingo import images
from polite_flamingo.flamingo.checkpoint import load_flamingo
from polite_flamingo.flamingo.config import GenerationConfig, RewriterConfig
from polite_flamingo.prompts import rewriting_prompt
from polite_flamingo.sample import BadSample, Sample

# isort: split
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

_IMAGES_AT_ONCE = 16
"""Images pushed through the vision tower together: bounds the memory whatever the length of the list."""


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    """A sample made ready: its place in the list, token ids, and digests of its images in order."""

    place: int
    key: str
    ids: list[int]
    images: tuple[str, ...]


class Rewriter:
    """Loads the model once; `rewrite` may be called any number of times.

    Attributes:
        config: what it was built from.
        model: the `FlamingoModel`, LoRA merged.
    """

    def __init__(self, config: RewriterConfig):
        """Load the models that `config` names; ValueError with a remedy where they do not fit each other."""
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config = config
        self.device = choose_device(config.device)
        self.model = load_flamingo(config.flamingo, dtype=getattr(torch, config.dtype), device=self.device)
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._tokenizer = self.model.tokenizer
        language = self.model.lang_encoder.config
        self.positions: int = getattr(language, "max_position_embeddings", None) or language.max_seq_len
        # v1 was trained to end at EOS alone; open_flamingo's own models end a text with <|endofchunk|> as well.
        ends = [self._tokenizer.eos_id]
        self._ends = ends if config.flamingo.attention == "v1" else [*ends, self._tokenizer.end_of_chunk_id]

    def rewrite(self, samples: Sequence[Sample]) -> list[str | BadSample]:
        """One entry a sample, in order: its polite text, or the `BadSample` that says why there is none."""
        results: dict[int, str | BadSample] = {}
        prompts: list[_Prompt] = []
        encoded: dict[str, bytes] = {}
        for place, sample in enumerate(samples):
            try:
                prompt = self._prompt(place, sample)
            except BadSample as bad:
                results[place] = bad
                continue
            prompts.append(prompt)
            encoded.update(zip(prompt.images, (image.data for image in sample.images), strict=True))
        latents, broken = self._encode(encoded)
        ready = []
        for prompt in prompts:
            bad_images = [broken[digest] for digest in prompt.images if digest in broken]
            if bad_images:
                results[prompt.place] = BadSample(bad_images[0].reason, f"{prompt.key}: {bad_images[0].detail}")
            else:
                ready.append(prompt)
        ready.sort(key=lambda prompt: (len(prompt.ids), prompt.key, prompt.place))
        for start in range(0, len(ready), self.config.batch_size):
            results |= self._decode(ready[start : start + self.config.batch_size], latents)
        return [results[place] for place in range(len(samples))]

    def _prompt(self, place: int, sample: Sample) -> _Prompt:
        if len(sample.turns) != 1:
            raise BadSample(
                "unsupported", f"{sample.key}: rewriting takes one turn, the sample has {len(sample.turns)}"
            )
        sample.validate()
        ids = self._tokenizer.encode(rewriting_prompt(sample.instruction, sample.response))
        tags = ids.count(self._tokenizer.image_id)
        if tags != len(sample.images):  # an annotation that spells out <image> would shift what every later tag sees
            raise BadSample(
                "bad_field", f"{sample.key}: the prompt shows {tags} images, the sample has {len(sample.images)}"
            )
        new = self.config.generation.max_new_tokens
        if len(ids) + new > self.positions:
            raise BadSample(
                "text_too_long",
                f"{sample.key}: {len(ids)} prompt tokens and {new} new ones exceed the {self.positions} positions",
            )
        digests = tuple(hashlib.sha256(image.data).hexdigest() for image in sample.images)
        return _Prompt(place=place, key=sample.key, ids=ids, images=digests)

    def _encode(self, encoded: dict[str, bytes]) -> tuple[dict[str, torch.Tensor], dict[str, BadSample]]:
        """Perceiver latents (L, D) by digest, each distinct image once; and why the others have none."""
        latents: dict[str, torch.Tensor] = {}
        broken: dict[str, BadSample] = {}
        digests = list(encoded)
        for start in range(0, len(digests), _IMAGES_AT_ONCE):
            pixels = {}
            for digest in digests[start : start + _IMAGES_AT_ONCE]:
                try:
                    pixels[digest] = self.model.preprocess(
                        images.without_extreme_aspect(images.decode(encoded[digest]))
                    )
                except BadSample as bad:
                    broken[digest] = bad
            if pixels:
                stacked = torch.stack(list(pixels.values())).to(self.device, self._dtype)
                with torch.no_grad():
                    tokens_NVD = self.model.patch_tokens(stacked)
                    found = self.model.latents(tokens_NVD[:, None, None])[:, 0]
                latents.update(zip(pixels, found, strict=True))
        return latents, broken

    def _decode(self, batch: list[_Prompt], latents: dict[str, torch.Tensor]) -> dict[int, str | BadSample]:
        """Texts by place; a batch that does not fit the memory is halved."""
        out_of_memory = False
        try:
            texts = self._generate(batch, latents)
            return {prompt.place: text for prompt, text in zip(batch, texts, strict=True)}
        except torch.OutOfMemoryError:
            out_of_memory = True  # handled outside, where the traceback no longer holds the tensors
        assert out_of_memory
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        if len(batch) == 1:
            detail = f"{batch[0].key}: {len(batch[0].ids)} prompt tokens do not fit the memory of {self.device} alone"
            return {batch[0].place: BadSample("rewriting_failed", detail)}
        half = len(batch) // 2
        return self._decode(batch[:half], latents) | self._decode(batch[half:], latents)

    def _generate(self, batch: list[_Prompt], latents: dict[str, torch.Tensor]) -> list[str]:
        width = max(len(prompt.ids) for prompt in batch)
        ids_BT = torch.full((len(batch), width), self._tokenizer.pad_id)
        mask_BT = torch.zeros_like(ids_BT)
        slots = max(1, *(len(prompt.images) for prompt in batch), 1)
        # Slots without a tag are never looked at. So zeros stand for them, and for the black image that the reference
        # shows with text-only prompts: both give the same text to the last bit.
        vision = torch.zeros(len(batch), slots, *self.model.latents_shape, dtype=self._dtype, device=self.device)
        for row, prompt in enumerate(batch):
            ids_BT[row, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
            mask_BT[row, width - len(prompt.ids) :] = 1
            for slot, digest in enumerate(prompt.images):
                vision[row, slot] = latents[digest]
        arguments = decoding_arguments(self.config.generation, [prompt.key for prompt in batch])
        with torch.random.fork_rng(devices=[self.device] if self.device.startswith("cuda") else []):
            torch.manual_seed(seed_of(self.config.generation.seed, *(prompt.key for prompt in batch)))
            out_BT = self.model.generate(
                vision,
                ids_BT.to(self.device),
                mask_BT.to(self.device),
                eos_token_id=self._ends,
                pad_token_id=self._tokenizer.pad_id,
                # A generated <image> would change what all rows see (v2); no answer ever contains one.
                suppress_tokens=[self._tokenizer.image_id],
                **arguments,
            )
        return [self._text(row) for row in out_BT[:, width:].tolist()]

    def _text(self, ids: list[int]) -> str:
        end = next((place for place, i in enumerate(ids) if i in self._ends), len(ids))
        return self._tokenizer.decode(ids[:end]).strip()


class SeededSampling(LogitsProcessor):
    """Adds Gumbel noise from a generator of each row, so that the largest score is a draw from the row's distribution.

    Which rows share a batch thus changes no draw. Stands last, after temperature, top-k and top-p; decoding is greedy.
    """

    def __init__(self, seeds: Sequence[int]):
        """Args: seeds: one a row."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, vocabulary) plus noise."""
        uniform = torch.stack(
            [torch.rand(scores.shape[-1], generator=g, dtype=torch.float64) for g in self._generators]
        )
        gumbel = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
        return scores.float() + gumbel.to(scores.device, torch.float32)


def decoding_arguments(generation: GenerationConfig, keys: Sequence[str]) -> dict[str, Any]:
    """`generation` as arguments of transformers' `generate`, for a batch of samples with these keys."""
    arguments: dict[str, Any] = {
        "max_new_tokens": generation.max_new_tokens,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "num_beams": generation.num_beams,
        "do_sample": False,
    }
    if generation.num_beams > 1:
        arguments["length_penalty"] = generation.length_penalty
        if generation.do_sample:
            arguments |= {
                "do_sample": True,
                "temperature": generation.temperature,
                "top_k": generation.top_k,
                "top_p": generation.top_p,
            }
    elif generation.do_sample:
        warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(generation.temperature))]
        if generation.top_k:
            warpers.append(TopKLogitsWarper(generation.top_k))
        if generation.top_p < 1:
            warpers.append(TopPLogitsWarper(generation.top_p))
        warpers.append(SeededSampling([seed_of(generation.seed, key) for key in keys]))
        arguments["logits_processor"] = LogitsProcessorList(warpers)
    return arguments


def seed_of(seed: int, *keys: str) -> int:
    """A 63-bit seed from the run's seed and the keys, the same on every machine."""
    digest = hashlib.sha256("\0".join((str(seed), *keys)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def choose_device(device: str) -> str:
    """ "auto" becomes "cuda" where torch sees a GPU, else "cpu"."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
