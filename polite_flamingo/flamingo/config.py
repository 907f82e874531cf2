"""What a Flamingo is made of and how it writes: frozen dataclasses, no torch import, so that `--help` stays fast.

Defaults are those of the reference (open_flamingo's sizes, Polite Flamingo's generation settings). A profile fills the
rest. Nothing here loads a model (`model/`) or touches a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

IMAGE_TOKEN = "<image>"
END_OF_CHUNK_TOKEN = "<|endofchunk|>"
PAD_TOKEN = "<PAD>"

Part = Literal["vision_encoder", "perceiver", "cross_attention", "embeddings", "language_model", "lora"]
"""The pieces of a Flamingo that a checkpoint covers wholly or not at all. `embeddings` are the LM's input embeddings
(with the added tokens); `language_model` is the rest of the LM, its output head included unless tied."""

PUBLISHED_LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Self-attention and FFN of LLaMA: what QLoRA-Guanaco and so Polite Flamingo adapt (paper, section 3.1)."""


@dataclass(frozen=True, kw_only=True)
class PerceiverConfig:
    """Sizes of the perceiver resampler; the defaults are open_flamingo's."""

    depth: int = 6
    latents: int = 64
    heads: int = 8
    dim_head: int = 64
    ff_mult: int = 4


@dataclass(frozen=True, kw_only=True)
class CrossAttentionConfig:
    """Sizes of each gated cross-attention block; the defaults are open_flamingo's."""

    heads: int = 8
    dim_head: int = 64
    ff_mult: int = 4


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """LoRA over the language model: W + alpha / r * B A. `targets` are suffixes of module names."""

    r: int
    alpha: float
    targets: tuple[str, ...] = PUBLISHED_LORA_TARGETS
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FlamingoConfig:
    """Which models make up a Flamingo. Every name goes through `hub.resolve`.

    Attributes:
        folder: that `ray_jobs.train` wrote (OUT/model): its flamingo.yaml then says everything below (`saved.py`).
        vision: an open_clip model name, or a folder with `open_clip_config.json` and its weights.
        vision_pretrained: open_clip's tag or a weights file; ignored for a folder; "" leaves a named model random.
        language_model: a transformers causal LM; a folder that holds only `config.json` gives a random one, which a
            checkpoint must then cover.
        tokenizer: a transformers tokenizer, or with `tokenization="legacy_llama"` a sentencepiece `tokenizer.model`.
        checkpoints: Flamingo state dicts (`.safetensors`, `.pt`), loaded in order, a later one over an earlier one.
        checkpoint_omits: the parts that `checkpoints` together need not cover: they come from `vision` and
            `language_model`. Anything else that is missing is refused.
        lora: a peft adapter folder, "" for none.
        lora_in_checkpoint: set where the checkpoints themselves hold LoRA tensors (`clever_flamingo.pt`), whose rank
            and alpha a state dict cannot tell.
        attention: "v2" (text sees the preceding image) or "v1" (the published Polite and Clever weights).
        tokenization: "legacy_llama" reproduces the slow LLaMA tokenizer of transformers 4.28, as the v1 weights saw it.
        cross_attn_every_n_layers: a gated cross-attention block stands before each n-th decoder layer.
    """

    folder: str = ""
    vision: str = ""
    vision_pretrained: str = ""
    language_model: str = ""
    tokenizer: str = ""
    checkpoints: tuple[str, ...] = ()
    checkpoint_omits: tuple[Part, ...] = ("vision_encoder",)
    lora: str = ""
    lora_in_checkpoint: LoraSettings | None = None
    attention: Literal["v1", "v2"] = "v2"
    tokenization: Literal["transformers", "legacy_llama"] = "transformers"
    cross_attn_every_n_layers: int = 4
    perceiver: PerceiverConfig = field(default_factory=PerceiverConfig)
    cross_attention: CrossAttentionConfig = field(default_factory=CrossAttentionConfig)

    def __post_init__(self) -> None:
        """Raises ValueError where neither a folder nor its pieces are named."""
        if not self.folder and not (self.vision and self.language_model and self.tokenizer):
            raise ValueError("flamingo: give vision, language_model and tokenizer, or the folder of a trained model")

    def model_names(self) -> tuple[str, ...]:
        """Every name whose weights decide the output: what a run's fingerprint has to cover."""
        names = (self.vision, self.vision_pretrained, self.language_model, self.tokenizer, *self.checkpoints, self.lora)
        return tuple(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How the rewriter decodes. Defaults: the reference inferencer of Polite Flamingo (`max_new_tokens` … n-grams).

    With `num_beams` 1 the engine decodes, and sampling is seeded by each sample's key; with beams it is seeded by the
    keys of the batch (`beam_search.py`). `do_sample=False` is greedy or plain beam search and needs no seed.
    """

    max_new_tokens: int = 1024
    num_beams: int = 3
    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 20
    top_p: float = 0.9
    no_repeat_ngram_size: int = 3
    length_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for settings that no decoder can honour."""
        if self.max_new_tokens < 1 or self.num_beams < 1:
            raise ValueError("generation: max_new_tokens and num_beams must be at least 1")
        if self.do_sample and not self.temperature > 0:
            raise ValueError("generation: temperature must be above 0 (for greedy decoding set do_sample to false)")
        if not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError("generation: top_p must lie in (0, 1] and top_k must not be negative (0 turns it off)")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the engine uses the machine; changes no text, but for rounding.

    Attributes:
        slots: requests decoded together; halved when the memory does not hold them.
        prefill_tokens: prompt tokens run between two steps of decoding, at most.
        refills: free slots are filled when they are this part of all slots: prompts run together cost less.
        prefixes: prompt beginnings kept for reuse.
        media_bytes: of images' keys and values kept.
        copies: engines that share the requests, each on its own thread (`engine_pool.py`). On a CPU, as many as
            it has cores to spare; ignored on a GPU. Slots and the bounds above are per engine.
        cuda_graphs: a step of decoding is recorded once and replayed (`cuda_graphs.py`); ignored on a CPU.
    """

    slots: int = 32
    prefill_tokens: int = 2048
    refills: int = 8
    prefixes: int = 64
    media_bytes: int = 512 << 20
    copies: int = 1
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for an engine that could not move."""
        if min(self.slots, self.prefill_tokens, self.refills, self.copies) < 1 or self.prefixes < 0:
            raise ValueError(
                "engine: slots, prefill_tokens, refills and copies must be at least 1, prefixes not negative"
            )


@dataclass(frozen=True, kw_only=True)
class RewriterConfig:
    """A rewriter: its model, its decoding, and how it uses the machine.

    Attributes:
        engine: that decodes where `generation.num_beams` is 1.
        beam_batch: prompts that a beam search decodes together (`generation.num_beams` above 1); halved for a batch
            that does not fit the memory.
        device: "auto" takes a GPU where there is one.
        dtype: of weights and activations; "auto" is bfloat16 on a GPU and on a CPU that multiplies it, else float32.
            On a CPU sums and the residual stream are float32 whatever the weights are.
        threads: CPU threads torch may use; 0 leaves torch's own choice.
    """

    flamingo: FlamingoConfig
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    beam_batch: int = 8
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    threads: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for an impossible batch size."""
        if self.beam_batch < 1:
            raise ValueError("rewriter: beam_batch must be at least 1")
