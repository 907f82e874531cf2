"""Configuration of a Flamingo, its generation and its engine: frozen dataclasses without torch, so `--help` is fast.

Defaults are those of the reference (open_flamingo's sizes, Polite Flamingo's generation settings); profiles set the
rest. Models are loaded in `model/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

IMAGE_TOKEN = "<image>"
END_OF_CHUNK_TOKEN = "<|endofchunk|>"
PAD_TOKEN = "<PAD>"

Part = Literal["vision_encoder", "perceiver", "cross_attention", "embeddings", "language_model", "lora"]
"""The parts of a Flamingo; a checkpoint covers each part completely or not at all.

`embeddings` are the language model's input embeddings, including added tokens. `language_model` is everything else in
the language model, including its output head unless it is tied to the embeddings."""

PUBLISHED_LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""LLaMA's self-attention and FFN, which QLoRA-Guanaco and Polite Flamingo adapt (paper, section 3.1)."""


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
    """A LoRA adapter of the language model: W + alpha / r * B A. `targets` are suffixes of module names."""

    r: int
    alpha: float
    targets: tuple[str, ...] = PUBLISHED_LORA_TARGETS
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FlamingoConfig:
    """The models that make up a Flamingo. Every name goes through `hub.resolve`.

    Attributes:
        folder: a trained model (OUT/model of a training job); its flamingo.yaml replaces all other fields.
        vision: an open_clip model name, or a folder with `open_clip_config.json` and weights.
        vision_pretrained: open_clip's tag or a weights file; ignored for a folder; "" leaves a named model random.
        language_model: a transformers causal LM; a folder with only `config.json` gives a random one, which a
            checkpoint must then cover.
        tokenizer: a transformers tokenizer, or with `tokenization="legacy_llama"` a sentencepiece `tokenizer.model`.
        checkpoints: Flamingo state dicts (`.safetensors`, `.pt`), loaded in order; later ones overwrite earlier ones.
        checkpoint_omits: parts that `checkpoints` may leave out, because `vision` and `language_model` provide them.
            Any other missing part is an error.
        lora: a peft adapter folder, "" for none.
        lora_in_checkpoint: set if the checkpoints contain LoRA tensors (`clever_flamingo.pt`), since a state dict does
            not tell their rank and alpha. With `lora` as well, it is merged first: the adapter was trained on top.
        attention: "v2" (text sees the preceding image) or "v1" (the published Polite and Clever weights).
        tokenization: "legacy_llama" reproduces the slow LLaMA tokenizer of transformers 4.28, as used by v1 weights.
        cross_attn_every_n_layers: a gated cross-attention block precedes every n-th decoder layer.
        perceiver: sizes of the perceiver resampler.
        cross_attention: sizes of the gated cross-attention blocks.
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
        """Raise ValueError if neither a folder nor its parts are named."""
        if not self.folder and not (self.vision and self.language_model and self.tokenizer):
            raise ValueError("flamingo: set vision, language_model and tokenizer, or the folder of a trained model")

    def model_names(self) -> tuple[str, ...]:
        """Return every name whose weights affect the output, for the run's fingerprint."""
        names = (self.vision, self.vision_pretrained, self.language_model, self.tokenizer, *self.checkpoints, self.lora)
        return tuple(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How the rewriter generates text. The defaults are those of Polite Flamingo's reference inferencer.

    Attributes:
        max_new_tokens: maximum number of tokens per text.
        num_beams: 1 uses the engine; more use beam search, which is far slower.
        do_sample: sample tokens; false is greedy, or plain beam search, and needs no seed.
        temperature: sampling temperature.
        top_k: sample from this many of the likeliest tokens; 0 means all.
        top_p: sample from the fewest likeliest tokens with at least this total probability.
        no_repeat_ngram_size: n-grams of this size may occur only once; 0 allows all.
        length_penalty: length penalty of beam search; above 0 favours longer texts.
        seed: sampling seed. The engine combines it with each sample's key, beam search with the keys of the batch.
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
        """Raise ValueError for impossible settings."""
        if self.max_new_tokens < 1 or self.num_beams < 1:
            raise ValueError("generation: max_new_tokens and num_beams must be at least 1")
        if self.do_sample and not self.temperature > 0:
            raise ValueError("generation: temperature must be above 0 (for greedy decoding set do_sample to false)")
        if not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError("generation: top_p must lie in (0, 1] and top_k must not be negative (0 turns it off)")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the engine uses the machine. Texts do not depend on it, except for rounding.

    Attributes:
        slots: requests decoded together; halved if they do not fit in memory.
        prefill_tokens: prompt tokens per chunk, at most; a chunk runs between two decode steps.
        refills: free slots are filled once 1/refills of all slots are free, since prompts that run together cost less.
        prefixes: number of prompt prefixes that the prefix cache keeps; 0 turns it off.
        media_bytes: size of the image cache in bytes (images' keys and values).
        copies: engines that share the requests, each with its own thread, slots and caches. On a CPU, use one per spare
            core; ignored on a GPU.
        cuda_graphs: record decode steps as CUDA graphs and replay them; ignored on a CPU.
    """

    slots: int = 32
    prefill_tokens: int = 2048
    refills: int = 8
    prefixes: int = 64
    media_bytes: int = 512 << 20
    copies: int = 1
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError for an engine that could do nothing."""
        if min(self.slots, self.prefill_tokens, self.refills, self.copies) < 1 or self.prefixes < 0:
            raise ValueError(
                "engine: slots, prefill_tokens, refills and copies must be at least 1, prefixes not negative"
            )


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How a Flamingo generates texts, and how it uses the machine.

    Attributes:
        generation: how texts are generated.
        engine: used if `generation.num_beams` is 1.
        beam_batch: prompts that beam search decodes together (`generation.num_beams` above 1); halved if they do not
            fit in memory.
        device: cpu, cuda, or auto for a GPU if there is one.
        dtype: dtype of weights and activations; auto is bfloat16 on a GPU or a CPU with bfloat16 instructions, else
            float32. On a CPU, sums and the residual stream are always float32.
        threads: torch's CPU threads; 0 keeps torch's default.
    """

    generation: GenerationConfig = field(default_factory=GenerationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    beam_batch: int = 8
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    threads: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for an impossible batch size."""
        if self.beam_batch < 1:
            raise ValueError("rewriter: beam_batch must be at least 1")


@dataclass(frozen=True, kw_only=True)
class RewriterConfig(DecodingConfig):
    """A Flamingo that rewrites or chats. The section `rewriter` of a profile is `rewriters.config.RewriterSection`.

    Attributes:
        flamingo: the model.
    """

    flamingo: FlamingoConfig
