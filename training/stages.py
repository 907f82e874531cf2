"""The training stages: what each tunes, and how. The defaults are the paper's recipe; profiles can change them.

Polite Flamingo is trained once on distorted responses, Clever Flamingo in the three stages of the paper's U-shaped
recipe: LoRA, connector, LoRA ([PF], section 4 and its table of hyper-parameters). The second generation of Polite
Flamingo uses the recipe of the first, starting from Clever Flamingo. After them comes preference alignment ([PA],
arXiv 2402.10884): DPO, and the three supervised stages that the paper compares it with. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polite_flamingo.flamingo.config import FlamingoConfig, LoraSettings, Part
from polite_flamingo.packing.pack import PackingConfig
from polite_flamingo.preference.loss_config import PreferenceConfig

GUANACO_LORA = LoraSettings(r=64, alpha=16)
"""Rank and scale of QLoRA-Guanaco, which the paper's LoRA starts from."""

ALIGNMENT_LORA = LoraSettings(r=128, alpha=256)
"""Rank and scale in preference alignment ([PA])."""

CONNECTOR: tuple[Part, ...] = ("perceiver", "cross_attention")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage.

    Attributes:
        tune: the parts of the model to train; everything else is frozen.
        cross_attention_ffn: also train the FFN of tuned cross-attention (the paper does not).
        lora: rank and scale for a model without LoRA; a model that has one keeps its own.
        fresh_lora: merge the LoRA that the start model has, and train a new one on top of it.
        learning_rate: learning rate at the end of the warm-up; it then falls to zero along half a cosine.
        warm_up: share of the stage over which the learning rate rises.
        epochs: passes over the data.
        batch: packed rows per update, over all workers and micro-batches.
        micro_batch: packed rows that a worker runs at once; gradients accumulate over its share of the batch.
        packing: how samples become rows.
        optimizer: "muon" trains hidden matrices with Muon and the rest with AdamW; it does not work with FSDP.
        weight_decay: weight decay of matrices.
        clip: gradients are clipped to this norm.
        preference: learn from pairs of answers, with this loss and without dropout; None learns from responses.
    """

    tune: tuple[Part, ...]
    cross_attention_ffn: bool = False
    lora: LoraSettings = GUANACO_LORA
    fresh_lora: bool = False
    learning_rate: float = 1e-4
    warm_up: float = 0.03
    epochs: int = 1
    batch: int = 256
    micro_batch: int = 8
    packing: PackingConfig = field(default_factory=PackingConfig)
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.0
    clip: float = 1.0
    preference: PreferenceConfig | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a stage that could not train."""
        if not self.tune:
            raise ValueError("training: the stage tunes nothing: set tune to [lora] or [perceiver, cross_attention]")
        if not self.learning_rate > 0:
            raise ValueError("training: learning_rate must be above 0, or nothing is trained")
        if min(self.epochs, self.batch, self.micro_batch) < 1 or not self.clip > 0:
            raise ValueError("training: epochs, batch and micro_batch must be at least 1, clip above 0")
        if not 0 <= self.warm_up < 1:
            raise ValueError("training: warm_up is a share of the stage, from 0 to below 1")
        if self.fresh_lora and "lora" not in self.tune:
            raise ValueError("training: fresh_lora adds a new LoRA to train; put lora into tune")
        if self.preference is not None and self.packing.join != "isolated":
            raise ValueError("training: answers of pairs never see each other; set the packing's join to isolated")
        if self.switches_off and self.tune != ("lora",):
            raise ValueError(
                "training: reference adapter_off takes the model without its LoRA for the start model, so nothing but "
                "the LoRA may be tuned; set tune to [lora], or reference to precomputed"
            )

    @property
    def switches_off(self) -> bool:
        """Whether the reference is the model with its LoRA switched off."""
        preference = self.preference
        return preference is not None and preference.needs_reference and preference.reference == "adapter_off"

    def refuse_start(self, start: FlamingoConfig) -> None:
        """Raise ValueError if this stage cannot start from a model.

        Args:
            start: the model, as `saved.opened` returns it.
        """
        if self.switches_off and not self.fresh_lora and (start.lora or start.lora_in_checkpoint):
            raise ValueError(
                "training: reference adapter_off would compare with the base model, not with the start model, whose "
                "own LoRA is switched off too; set fresh_lora to merge it and train a new one, or leave reference at "
                "precomputed"
            )


SUPERVISED = StageConfig(
    tune=("lora",), lora=ALIGNMENT_LORA, learning_rate=4e-4, epochs=3, batch=128,
    packing=PackingConfig(window=2048, fill="alone", join="isolated"),
)  # fmt: skip
"""What DPO is compared with in [PA]: the same supervised training on three sets that `polite-flamingo pair` makes. In
the set for SteerLM, the wanted attributes are already part of the instructions."""


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The papers' stages: learning rates, windows, epochs and image limits of their tables of hyper-parameters.

    In [PA] an update has 128 pairs, so a row holds one. Profiles that fill rows set a smaller batch.
    """

    polite: StageConfig = StageConfig(tune=("lora",), epochs=3, packing=PackingConfig(join="isolated"))
    clever_1: StageConfig = StageConfig(tune=("lora",))
    clever_2: StageConfig = StageConfig(
        tune=CONNECTOR, epochs=3, batch=1024, packing=PackingConfig(window=196, max_images=3)
    )
    clever_3: StageConfig = StageConfig(tune=("lora",), learning_rate=1e-5)
    polite_gen2: StageConfig = StageConfig(tune=("lora",), epochs=3, packing=PackingConfig(join="isolated"))
    dpo: StageConfig = StageConfig(
        tune=("lora",), lora=ALIGNMENT_LORA, learning_rate=5e-5, epochs=3, batch=128,
        packing=PackingConfig(window=2048, fill="alone", join="isolated"), preference=PreferenceConfig(),
    )  # fmt: skip
    rejection: StageConfig = SUPERVISED
    steerlm: StageConfig = SUPERVISED
    sft: StageConfig = SUPERVISED


StageName = Literal["polite", "clever-1", "clever-2", "clever-3", "polite-gen2", "dpo", "rejection", "steerlm", "sft"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The `training` section of a profile.

    Attributes:
        base: the model that the first stages start from.
        stages: what each stage tunes, and how.
        shards_a_group: shards that are shuffled and packed together; a resumed run packs one group again.
        checkpoint_steps: updates between two checkpoints.
        keep_checkpoints: how many checkpoints to keep.
        features_bytes: memory for features of frozen image encoders, so that an image is encoded once; 0 for none.
        gradient_checkpointing: recompute the layers of the language model in the backward pass, which saves memory.
        dtype: dtype of frozen weights and matrix products; trained weights are float32. "auto" as for the rewriter.
        device: "auto" uses a GPU if there is one.
        seed: seed for the order of the data and for new weights.
    """

    base: FlamingoConfig
    stages: Stages = field(default_factory=Stages)
    shards_a_group: int = 8
    checkpoint_steps: int = 100
    keep_checkpoints: int = 2
    features_bytes: int = 4 << 30
    gradient_checkpointing: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for impossible numbers."""
        if min(self.shards_a_group, self.checkpoint_steps, self.keep_checkpoints) < 1 or self.features_bytes < 0:
            raise ValueError(
                "training: shards_a_group, checkpoint_steps and keep_checkpoints must be at least 1, features_bytes "
                "not negative"
            )

    def stage(self, name: StageName) -> StageConfig:
        """Return the configuration of a stage by its name on the command line."""
        found: StageConfig = getattr(self.stages, name.replace("-", "_"))
        return found
