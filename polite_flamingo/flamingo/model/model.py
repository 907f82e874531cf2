"""The Flamingo model: open_clip's vision tower, a transformers language model, and open_flamingo between them.

open_flamingo's classes do the work; this module adapts them to current libraries. It lets you choose the sizes of
perceiver and cross-attention and the attention semantics (`attention.py`), clears all state after an exception, and
accepts images at any stage of their encoding, so each is encoded once.

Checkpoints are read in `checkpoint.py`, LoRA is attached in `lora.py`, and prompts are built in `prompts.py`.

Shapes: B batch, S tokens, T image slots per row, F frames (always 1), N images, V patches, D vision width, L latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
import transformers
from open_flamingo.src.factory import _infer_decoder_layers_attr_name
from open_flamingo.src.flamingo import Flamingo
from open_flamingo.src.helpers import GatedCrossAttentionBlock, PerceiverResampler
from torch import nn

from polite_flamingo.flamingo.config import CrossAttentionConfig, PerceiverConfig
from polite_flamingo.flamingo.model.attention import Attention, as_locations
from polite_flamingo.flamingo.model.language_model import FlamingoLanguageModelMixin, extend_language_model
from polite_flamingo.flamingo.model.tokenization import Tokenizer

Preprocess = Callable[[Any], torch.Tensor]
"""PIL image -> normalised pixels (3, H, W)."""


class FlamingoModel(Flamingo):
    """open_flamingo's Flamingo with configurable sizes and attention semantics.

    `vision_x` may be given at any stage: pixels (B, T, F, 3, H, W), patch tokens (B, T, F, V, D) from `patch_tokens`,
    or perceiver latents (B, T, L, D) from `latents`. Slots without an `<image>` token are never attended, so rows with
    fewer images are padded with zeros.

    Attributes:
        tokenizer, preprocess: set by `build_flamingo`, for preparing the model's inputs.
    """

    tokenizer: Tokenizer
    preprocess: Preprocess

    def __init__(
        self,
        visual: nn.Module,
        language_model: nn.Module,
        *,
        end_of_chunk_id: int,
        image_id: int,
        attention: Attention,
        cross_attn_every_n_layers: int,
        perceiver: PerceiverConfig,
        cross_attention: CrossAttentionConfig,
    ):
        """Args: visual: an open_clip `VisionTransformer`; language_model: a causal LM, extended in place."""
        if not isinstance(visual, open_clip.transformer.VisionTransformer):
            raise ValueError(f"the vision tower must be an open_clip VisionTransformer, not {type(visual).__name__}")
        layers = _infer_decoder_layers_attr_name(language_model)
        extend_language_model(language_model, attention)
        language_model.set_decoder_layers_attr_name(layers)
        width = visual.conv1.out_channels
        super().__init__(
            SimpleNamespace(visual=visual),
            language_model,
            end_of_chunk_id,
            image_id,
            vis_dim=width,
            cross_attn_every_n_layers=cross_attn_every_n_layers,
        )
        if perceiver != PerceiverConfig():
            sizes = asdict(perceiver)
            self.perceiver = PerceiverResampler(dim=width, num_latents=sizes.pop("latents"), **sizes)
        if cross_attention != CrossAttentionConfig():
            lm, sizes = self.lang_encoder, asdict(cross_attention)
            lm.gated_cross_attn_layers = nn.ModuleList(
                None if block is None else GatedCrossAttentionBlock(dim=self.lang_dim, dim_visual=width, **sizes)
                for block in lm.gated_cross_attn_layers
            )
            lm.init_flamingo_layers(False)
        # The published weights were trained on patch tokens before the final layer norm, which open_clip < 2.23 gave.
        visual.output_tokens = True
        visual.final_ln_after_pool = True
        visual.requires_grad_(False)
        self.attention = attention
        self.latents_shape = (perceiver.latents, width)
        # A hub model may come with its own sampling settings; here the caller gives them.
        self.lang_encoder.generation_config = transformers.GenerationConfig()

    def patch_tokens(self, pixels_N3HW: torch.Tensor) -> torch.Tensor:
        """Return the patch tokens (N, V, D) of the vision tower, without a graph if it is frozen."""
        frozen = not any(parameter.requires_grad for parameter in self.vision_encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.vision_encoder(pixels_N3HW)[1]

    def latents(self, tokens_BTFVD: torch.Tensor) -> torch.Tensor:
        """Return the perceiver latents (B, T, L, D) of patch tokens."""
        return self.perceiver(tokens_BTFVD)

    def _encode_vision_x(self, vision_x: torch.Tensor) -> None:
        """Condition the layers on images given at any stage (see the class); open_flamingo's hook."""
        if vision_x.ndim == 6:
            b, t, f = vision_x.shape[:3]
            if f != 1:
                raise ValueError(f"vision_x has {f} frames per image; Flamingo takes single frames")
            vision_x = self.patch_tokens(vision_x.flatten(0, 2)).unflatten(0, (b, t, f))
        if vision_x.ndim == 5:
            vision_x = self.latents(vision_x)
        if vision_x.ndim != 4:
            raise ValueError(
                f"vision_x has shape {tuple(vision_x.shape)}; expected pixels (B, T, 1, 3, H, W), "
                "patch tokens (B, T, 1, V, D) or latents (B, T, L, D)"
            )
        for layer in self.lang_encoder._get_decoder_layers():
            layer.condition_vis_x(vision_x)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run open_flamingo's `(vision_x, lang_x, attention_mask, labels, …)`; an exception clears all conditioning."""
        self._refuse_wrapped()
        try:
            return super().forward(*args, **kwargs)
        except BaseException:
            self.uncache_media()
            raise

    def generate(
        self, vision_x: torch.Tensor, lang_x: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Return `lang_x` with generated tokens appended; `kwargs` as for transformers' `generate`.

        By default it stops at `<|endofchunk|>` (v2) or at the language model's EOS (v1). Beams and multiple return
        sequences see their row's images.
        """
        default_eos = self.eoc_token_id if self.attention == "v2" else self.lang_encoder.config.eos_token_id
        kwargs.setdefault("eos_token_id", default_eos)
        copies = max(kwargs.get("num_beams", 1), kwargs.get("num_return_sequences", 1))
        with torch.no_grad(), self.media(vision_x, copies=copies):
            return self.lang_encoder.generate(input_ids=lang_x, attention_mask=attention_mask, **kwargs)

    @contextmanager
    def media(self, vision_x: torch.Tensor, *, copies: int = 1) -> Iterator[None]:
        """Within the block, let the language model see these images, each row repeated `copies` times."""
        self._refuse_wrapped()
        try:
            self._encode_vision_x(vision_x)
            if copies > 1:
                for layer in self.lang_encoder._get_decoder_layers():
                    layer.condition_vis_x(layer.vis_x.repeat_interleave(copies, dim=0))
            self.lang_encoder._use_cached_vision_x = True
            yield
        finally:
            self.uncache_media()

    def hidden(
        self,
        vision_x: torch.Tensor,
        ids_BS: torch.Tensor,
        numbers_BS: torch.Tensor,
        *,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the language model's hidden states of packed rows, before its output head: (B, S, width).

        Args:
            vision_x: images at any stage (see the class).
            ids_BS: token ids, padded on the right.
            numbers_BS: the image that each position sees, 1 for the first of its row, 0 for none.
            attention_mask: (B, 1, S, S), added to attention scores; None is causal.
            position_ids: (B, S); None counts from each row's start.
        """
        with self.media(vision_x):
            locations_BS = as_locations(numbers_BS)
            for layer in self.lang_encoder._get_decoder_layers():
                layer.condition_media_locations(locations_BS)
                layer.condition_use_cached_media(False)
            found = self.lang_encoder.base_model(
                input_ids=ids_BS, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
            )
            states: torch.Tensor = found.last_hidden_state
            return states

    def _refuse_wrapped(self) -> None:
        if not isinstance(self.lang_encoder, FlamingoLanguageModelMixin):
            raise ValueError(
                f"lang_encoder is wrapped in a {type(self.lang_encoder).__name__}: flags set on the wrapper never "
                "reach the language model, and cached decoding would see no image. Use lora.add_lora, which adapts it "
                "in place"
            )
