"""Attention semantics: which image each position sees, in v1 and v2, and the language model that applies it.

open_flamingo's cross-attention gives position p the image number `cumsum(media_locations)[p]` (1 = first image, 0 =
none, beyond the last image = uniform over all). **v2** (open_flamingo 2.0.1) passes the mask of `<image>` tokens, so
text sees the image before it. **v1** (the published Polite and Clever Flamingo) looks *forward*: text sees the next
image, and text after the last image sees none. For v1 we pass the differences of the desired numbers, whose running sum
gives the numbers.

`FlamingoLanguageModelMixin` also adapts open_flamingo's mixin to transformers 5, which inspects the signature of
`forward` to decide what to pass and drops attention masks that are all ones.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch

from polite_flamingo import hub as hub  # before open_flamingo, which imports open_clip: it repairs torchvision's import

# isort: split
from open_flamingo.src.flamingo_lm import FlamingoLMMixin
from open_flamingo.src.utils import extend_instance

Attention = Literal["v1", "v2"]


def image_numbers(is_image_BT: torch.Tensor, attention: Attention) -> torch.Tensor:
    """Return the number of the image each position sees (1 = first, 0 = none), counted within this call's tokens.

    Args:
        is_image_BT: True at `<image>` tokens, (batch, tokens).
        attention: "v1" or "v2".

    Returns:
        (batch, tokens), int64. A number above the count of image slots means uniform attention over all slots.
    """
    seen_BT = is_image_BT.cumsum(dim=-1)
    if attention == "v2":
        return seen_BT
    upcoming_BT = torch.where(is_image_BT, seen_BT, seen_BT + 1)
    return torch.where(upcoming_BT > seen_BT[:, -1:], torch.zeros_like(upcoming_BT), upcoming_BT)


def as_locations(numbers_BT: torch.Tensor) -> torch.Tensor:
    """Return integers whose running sum is `numbers_BT`, open_flamingo's `media_locations`."""
    return torch.diff(numbers_BT, dim=-1, prepend=torch.zeros_like(numbers_BT[:, :1]))


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
