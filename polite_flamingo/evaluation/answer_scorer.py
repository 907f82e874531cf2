"""Log-probabilities of given answers by a checkpoint, under its chat prompt: an `AnswerScorer`.

Questions with their answers are packed into rows without padding, as in training: in a row each is a segment with its
own positions and attention, so that it scores as it would alone. Each distinct picture is encoded once.

Shapes: S tokens of a row, N of them answers' tokens, T images, G segments.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polite_flamingo.evaluation.multiple_choice import LogProb
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.flamingo.engine.image_cache import EncodedImages, digest, encode, first_broken
from polite_flamingo.flamingo.model.attention import isolation
from polite_flamingo.flamingo.model.checkpoint import load_flamingo
from polite_flamingo.packing.pack import PackedRow, PackingConfig, pack
from polite_flamingo.packing.pairs import answered
from polite_flamingo.preference.log_probs import sums, token_scores
from polite_flamingo.rewriters.flamingo import choose_device, choose_dtype
from polite_flamingo.sample import BadSample, Sample

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

MAX_IMAGES = 32
"""Images per row, unless one sample has more: cross-attention compares each token with all images of its row."""


class FlamingoScorer:
    """Loads a model once; `log_probs` may be called any number of times.

    Attributes:
        model: the `FlamingoModel`, with LoRA merged.
        positions: maximum length of question and answer together, in tokens; also the length of a row.
    """

    def __init__(self, config: RewriterConfig, model: FlamingoModel | None = None):
        """Load the model that `config` names. Raises ValueError with a remedy if its parts do not fit each other.

        Args:
            config: as of a rewriter; generation settings do not matter.
            model: the model that `config.flamingo` describes, if it is already loaded.
        """
        if config.threads:
            torch.set_num_threads(config.threads)
        device = choose_device(config.device)
        self.model = model or load_flamingo(config.flamingo, dtype=choose_dtype(config.dtype, device), device=device)
        self.model.eval()
        language = self.model.lang_encoder.config
        self.positions: int = getattr(language, "max_position_embeddings", None) or language.max_seq_len
        self._latents = EncodedImages(self._encode, config.engine.media_bytes)

    def log_probs(self, asked: Sequence[tuple[Sample, str]], *, alone: bool = False) -> list[LogProb | BadSample]:
        """Return for each pair the log-probability of the text as the answer to the sample's last instruction.

        Args:
            asked: samples, each with a text. What the annotations say does not matter, except in earlier turns.
            alone: give each pair a row of its own.

        Returns:
            Sum of the log-probabilities of the text's tokens and its end, and their number; or why there is none: a
            broken picture, or a text longer than the model's context, which is not cut.
        """
        found: dict[int, LogProb | BadSample] = {}
        texts = [replace(answered(sample, text), key=str(number)) for number, (sample, text) in enumerate(asked)]
        config = PackingConfig(
            window=self.positions, join="isolated", fill="alone" if alone else "best_fit",
            max_images=max([MAX_IMAGES, *(len(sample.images) for sample in texts)]),
        )  # fmt: skip
        packed = pack(texts, self.model.tokenizer, config, self.model.attention, random.Random(0))
        for one in packed.skipped:
            found[int(one.key)] = BadSample(one.reason, one.detail)  # type: ignore[arg-type]
        for key in packed.cut:
            found[int(key)] = BadSample("text_too_long", f"question and answer exceed the {self.positions} positions")
        for row in packed.rows:
            for key, score in zip(row.keys, self._row(row), strict=True):
                found.setdefault(int(key), score)
        keys = [sample.key for sample, _ in asked]
        return [_named(key, found[number]) for number, key in enumerate(keys)]

    @torch.inference_mode()
    def _row(self, row: PackedRow) -> list[LogProb | BadSample]:
        """Return the score of each segment of a row."""
        names = [digest(data) for data in row.images]
        known = self._latents.get(dict(zip(names, row.images, strict=True)))
        images = [known[name] for name in names]
        weight = next(self.model.lang_encoder.parameters())
        empty = torch.zeros(self.model.latents_shape, dtype=weight.dtype, device=weight.device)
        vision_T = [empty if isinstance(one, BadSample) else one for one in images] or [empty]
        ids, learned, numbers, segment = (
            torch.tensor([values], device=weight.device)
            for values in (row.ids, row.loss_mask, row.image_numbers, row.sample_index)
        )
        mask, positions = isolation(segment, weight.dtype)
        states_BSD = self.model.hidden(
            torch.stack(vision_T)[None], ids, numbers, attention_mask=mask, position_ids=positions
        )
        answers = learned[:, 1:]
        head = self.model.lang_encoder.get_output_embeddings()
        scores = token_scores(states_BSD[:, :-1][answers], head, ids[:, 1:][answers])
        segment_N: Tensor = segment[:, 1:][answers]
        sums_G = sums(scores.log_probs.double(), segment_N, len(row.keys)).tolist()
        counts_G = torch.bincount(segment_N, minlength=len(row.keys)).tolist()
        found: list[LogProb | BadSample] = list(zip(sums_G, counts_G, strict=True))
        for index in range(len(row.keys)):
            shown = {n for n, at in zip(row.image_numbers, row.sample_index, strict=True) if at == index and n}
            if broken := first_broken(images[number - 1] for number in sorted(shown)):
                found[index] = broken
        return found

    def _encode(self, encoded: Mapping[str, bytes]) -> dict[str, Tensor | BadSample]:
        latents, broken = encode(self.model, encoded)
        return {**broken, **latents}


def _named(key: str, found: LogProb | BadSample) -> LogProb | BadSample:
    """Put the sample's key, which packing does not know, into why it has no score."""
    return BadSample(found.reason, f"{key}: {found.detail}") if isinstance(found, BadSample) else found
