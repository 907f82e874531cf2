"""The terse robot as a causal language model (transformers) in this process.

Texts are generated in batches, shortest prompt first, and each stops at its closing quotation mark. Each has its own
random generator, seeded by its request, so sampling does not depend on the rest of the batch (whose padding can still
change the last digits of a logit). The model must fit the device; it is not quantised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from polite_flamingo import hub
from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.distortion.llm_prompts import (
    CLOSING,
    continuation_messages,
    parse_continuation,
    plain_prompt,
)
from polite_flamingo.distortion.speakers import CHAT_WORDINGS, TRIAL, SpeakerRequest, Wording
from polite_flamingo.endpoints.answers import Unfinished, without_reasoning
from polite_flamingo.prompts import SYSTEM
from polite_flamingo.sample import BadSample
from polite_flamingo.seeds import seed_number
from polite_flamingo.torchvision_repair import repair_torchvision


class LocalSpeaker:
    """A causal language model as a speaker; see `speakers.Speaker`.

    Raises:
        ValueError: the model cannot be loaded.
    """

    commands = tuple(COMMANDS)

    def __init__(self, config: DistortionConfig):
        local = config.local
        if local.threads:
            torch.set_num_threads(local.threads)
        self.name = local.model
        self._config = config
        device = local.device if local.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        path = hub.resolve(local.model)
        repair_torchvision()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
            self._model = AutoModelForCausalLM.from_pretrained(path, dtype=local.dtype).to(device).eval()
        except OSError as error:
            raise ValueError(f"distortion.local.model {local.model!r} cannot be loaded: {error}") from None
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._closing = closing_tokens(self._tokenizer).to(device)
        self.wording = _wording(self._tokenizer, local.model)
        self._window = getattr(self._model.config, "max_position_embeddings", None)

    def say(self, requests: Sequence[SpeakerRequest]) -> list[str | BadSample]:
        """Generate all texts, batch by batch; a prompt that does not fit the model's window is refused."""
        said: list[str | BadSample] = [""] * len(requests)
        prompts = [self._ids(request) for request in requests]
        room = (self._window or 1 << 62) - self._config.max_new_tokens
        fitting = []
        for place, ids in enumerate(prompts):
            if len(ids) <= room:
                fitting.append(place)
            else:
                said[place] = BadSample("text_too_long", f"{len(ids)} tokens; the speaker takes {room}")
        fitting.sort(key=lambda place: (len(prompts[place]), place))
        for start in range(0, len(fitting), self._config.local.batch):
            places = fitting[start : start + self._config.local.batch]
            texts = self._continued([prompts[place] for place in places], [requests[place].seed for place in places])
            for place, text in zip(places, texts, strict=True):
                found, closed = parse_continuation(without_reasoning(text), requests[place].command)
                said[place] = found if closed else Unfinished("", "length")
        return said

    def _ids(self, request: SpeakerRequest) -> list[int]:
        """Return the prompt as token ids, by the model's chat template if it has one."""
        if self.wording == "completion":
            return list(self._tokenizer(plain_prompt(request))["input_ids"])
        text = _chat(self._tokenizer, request, self.wording)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def _continued(self, prompts: Sequence[list[int]], seeds: Sequence[str]) -> list[str]:
        padded = self._tokenizer.pad({"input_ids": list(prompts)}, return_tensors="pt").to(self._model.device)
        made = self._model.generate(
            **padded,
            max_new_tokens=self._config.max_new_tokens,
            do_sample=False,
            num_beams=1,
            logits_processor=LogitsProcessorList(self._sampling_processors(seeds)),
            stopping_criteria=StoppingCriteriaList([_StopAtClosingMark(self._closing)]),
            pad_token_id=self._tokenizer.pad_token_id,
        )
        new = made[:, padded["input_ids"].shape[1] :]
        return list(self._tokenizer.batch_decode(new, skip_special_tokens=True))

    def _sampling_processors(self, seeds: Sequence[str]) -> list[Any]:
        """Return the logits processors that sample; none at temperature 0."""
        if not self._config.temperature:
            return []
        warpers = [TemperatureLogitsWarper(self._config.temperature), TopPLogitsWarper(self._config.top_p)]
        return [*warpers, _SeededGumbelNoise(seeds)]


def _wording(tokenizer: Any, model: str) -> Wording:
    """Choose how to use the model's chat template, if it has one: some refuse a system message, others drop it.

    Raises:
        ValueError: it is unusable.
    """
    if not tokenizer.chat_template:
        return "completion"
    problem = ""
    for wording in CHAT_WORDINGS:
        try:
            if SYSTEM in _chat(tokenizer, TRIAL, wording):
                return wording
        except (TemplateError, ValueError) as error:  # raised by the template, or by transformers for a bad one
            problem = problem or str(error)
    raise ValueError(
        f"distortion.local.model {model!r}: its chat template cannot be used ({problem or 'it drops messages'}); "
        "give a chat model, or one without a template"
    )


def _chat(tokenizer: Any, request: SpeakerRequest, wording: Wording) -> str:
    chat = continuation_messages(request, system=wording == "begun turn")
    return str(tokenizer.apply_chat_template(chat, tokenize=False, continue_final_message=True))


class _SeededGumbelNoise(LogitsProcessor):
    """Adds Gumbel noise to the logits (B, V) from each row's generator, so that the largest is a softmax sample."""

    def __init__(self, seeds: Sequence[str]):
        self._generators = [torch.Generator().manual_seed(seed_number(seed)) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = [torch.rand(scores.shape[1], generator=generator) for generator in self._generators]
        uniform = torch.stack(rows).clamp_(1e-20, 1 - 1e-7)
        return scores.float() - torch.log(-torch.log(uniform)).to(scores.device)


class _StopAtClosingMark(StoppingCriteria):
    """Stops a row at the first token that contains a closing quotation mark."""

    def __init__(self, closing: Tensor):
        self._closing = closing

    def __call__(self, input_ids: Tensor, scores: Tensor, **rest: object) -> Tensor:
        return torch.isin(input_ids[:, -1], self._closing)


def closing_tokens(tokenizer: Any) -> Tensor:
    """Return the ids of all tokens whose text contains a closing mark."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return torch.tensor([token for token, text in enumerate(texts) if any(mark in text for mark in CLOSING)])
