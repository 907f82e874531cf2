"""The language model inside a Flamingo: open_flamingo's mixin, with either attention semantics, on transformers 5.

transformers 5 reads the signature of `forward` to decide what to pass, and drops attention masks that are all ones.
open_flamingo's mixin expects neither; this one works with both.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from open_flamingo.src.flamingo_lm import FlamingoLMMixin
from open_flamingo.src.utils import extend_instance

from polite_flamingo.flamingo.model.attention import Attention, as_locations, image_numbers


class FlamingoLanguageModelMixin(FlamingoLMMixin):
    """open_flamingo's language-model mixin with either attention semantics and a `forward` for transformers 5.

    v2 keeps open_flamingo's rule for cached decoding: a call without any `<image>` in the whole batch lets all its
    tokens see the last image of the stored locations. v1 counts only this call's tokens, so generated text sees none.
    """

    flamingo_attention: Attention

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """Condition every layer on the image positions, then run the wrapped language model."""
        if self.flamingo_attention == "v2":
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        locations_BT = as_locations(image_numbers(input_ids == self.media_token_id, "v1"))
        for layer in self._get_decoder_layers():
            layer.condition_media_locations(locations_BT)
            layer.condition_use_cached_media(False)
        return super(FlamingoLMMixin, self).forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


def extend_language_model(language_model: torch.nn.Module, attention: Attention) -> None:
    """Add the mixin to a transformers causal LM, in place; `forward` keeps its signature."""
    signature = inspect.signature(type(language_model).forward)
    extend_instance(language_model, FlamingoLanguageModelMixin)
    adapted = type(language_model)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return super(adapted, self).forward(*args, **kwargs)

    forward.__signature__ = signature  # type: ignore[attr-defined]  # what `generate` inspects
    adapted.forward = forward  # type: ignore[method-assign]
    language_model.flamingo_attention = attention
