"""The decoder: a Flamingo's language model as plain functions over a static key/value cache; what the engine runs.

It shares the weights of a loaded `FlamingoModel` (`layers.py`). The arithmetic is that of open_flamingo over
transformers' LLaMA and MPT, without their redundant work: the keys and values of image latents are computed once per
image (`image_kv`), not in every call; positions whose attention is zero by definition are skipped; and only the
requested positions get logits.

Each row has its own positions, so prompts need no left padding, and one chunk of a prompt can follow another. Positions
after a row's own are masked, so what a row has not written yet is never read.

Shapes: B rows per call, T tokens per row, S rows of the cache, L positions, H heads, E width of a head, N latents per
image, M images per row, K images per call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from polite_flamingo.flamingo.model import layers
from polite_flamingo.flamingo.model.kv_cache import ImageKV, KVCache, stack_images
from polite_flamingo.flamingo.model.layers import (
    Cross,
    LayerNorm,
    Linear,
    LlamaLayer,
    MptLayer,
    RmsNorm,
    kernels,
    single_query_attention,
)

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


class Decoder:
    """Runs prompts and decode steps. Holds no state between calls except the weights."""

    def __init__(self, model: FlamingoModel):
        """Take over a model's weights. Raises ValueError unless its language model is of the LLaMA or MPT type."""
        language = model.lang_encoder
        config = language.config
        self.attention = model.attention
        wrapped = list(language._get_decoder_layers())
        self.llama = config.model_type == "llama"
        if config.model_type not in ("llama", "mpt"):
            raise ValueError(f"the engine decodes LLaMA- and MPT-type language models, not {config.model_type!r}")
        make = LlamaLayer if self.llama else MptLayer
        self.layers = [make(layer.decoder_layer) for layer in wrapped]
        self.crosses = [
            None if layer.gated_cross_attn_layer is None else Cross(layer.gated_cross_attn_layer) for layer in wrapped
        ]
        blocks = [layer.gated_cross_attn_layer for layer in wrapped if layer.gated_cross_attn_layer is not None]
        self._to_kv = Linear(*(block.attn.to_kv for block in blocks))
        self._cross_heads: int = blocks[0].attn.heads
        self.embedding = language.get_input_embeddings().weight.detach()
        self.head = language.get_output_embeddings().weight.detach()
        self.final_norm = (RmsNorm if self.llama else LayerNorm)(
            language.model.norm if self.llama else language.transformer.norm_f
        )
        self.dtype, self.device = self.embedding.dtype, self.embedding.device
        self.compiled = layers.compiled(self.embedding)
        if self.compiled:  # in bfloat16 rounding would choose between the two likeliest tokens
            self.head = self.head.float()
        if self.llama:
            self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
            self.width = getattr(config, "head_dim", None) or config.hidden_size // self.heads
            self.positions: int = config.max_position_embeddings
            self.scale = self.width**-0.5
            rotary = language.model.rotary_emb
            places = torch.arange(self.positions, device=self.device)[None]
            like = torch.empty(1, dtype=torch.float32 if self.compiled else self.dtype, device=self.device)
            cos, sin = rotary(like, places)
            self._cos, self._sin = cos[0], sin[0]
            self._slopes = self._cos.new_empty(0, 1)
        else:
            self.heads = self.kv_heads = config.n_heads
            self.width = config.hidden_size // config.n_heads
            self.positions = config.max_seq_len
            self.scale = config.attn_config.softmax_scale or 1 / math.sqrt(self.width)
            self._slopes = _alibi_slopes(self.heads).to(self.device)[:, None]
            self._cos = self._sin = self._slopes.new_empty(0, 0)

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        """Allocate an empty cache."""
        shape = (2, len(self.layers), rows, self.kv_heads, capacity, self.width)
        return KVCache(torch.zeros(shape, dtype=self.dtype, device=self.device))

    @torch.inference_mode()
    def image_kv(self, latents_KND: Tensor) -> list[ImageKV]:
        """Project the perceiver latents of K images to their keys and values."""
        blocks = sum(cross is not None for cross in self.crosses)
        made = self._to_kv(latents_KND).unflatten(-1, (blocks, 2, self._cross_heads, -1))
        keys, values = made.permute(3, 0, 2, 4, 1, 5).contiguous().unbind(0)  # (2, K, layers, H, N, E)
        return [
            ImageKV(keys[k].clone(), values[k].clone()) for k in range(len(latents_KND))
        ]  # copies, so each can be freed alone

    @torch.inference_mode()
    def prefill(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor,
        last_B: Tensor,
        cache: KVCache,
        rows_B: Tensor,
        limit: int,
        numbers_BT: Tensor,
        images: Sequence[Sequence[ImageKV]],
    ) -> Tensor:
        """Run chunks of prompts; return the logits (B, vocabulary) after token `last_B` of each row.

        Args:
            ids_BT: chunks, right-padded with any token.
            positions_BT: position of each token in its row; padding must come after the row's own positions.
            last_B: index of the token in each chunk whose logits are returned.
            cache: the chunks' keys and values are written to it.
            rows_B: rows of the cache.
            limit: read this many positions; more than every position of the call.
            numbers_BT: the image that each token sees (`attention.image_numbers` of the whole prompt); 0 for none.
            images: keys and values of the images of each row.
        """
        shown = self._shown(numbers_BT, images)
        places = torch.arange(limit, device=self.device)
        mask = self._mask(places, positions_BT)
        x, rotary = self._embed(ids_BT), self._rotary(positions_BT)
        seen = 0
        for number, (layer, cross) in enumerate(zip(self.layers, self.crosses, strict=True)):
            if cross is not None:
                if shown is not None:
                    keys, values, visible, sees = shown
                    x = cross.attend(x, keys[:, seen], values[:, seen], visible, sees)
                x = cross.feed_forward(x)
                seen += 1
            query = self._store(number, self._project(layer, x), positions_BT, rotary, cache, rows_B)
            keys, values = cache.data[:, number, rows_B, :, :limit]
            if number + 1 == len(self.layers):  # only one token per row is needed from here on
                rows = torch.arange(len(x), device=self.device)
                x, query, mask = x[rows, last_B, None], query[rows, :, last_B, None], mask[rows, :, last_B, None]
            found = F.scaled_dot_product_attention(
                query, keys, values, mask, scale=self.scale, enable_gqa=self.heads != self.kv_heads
            )
            x = layer.feed_forward(x + layer.out(found.transpose(1, 2).flatten(2)))
        return self._logits(x[:, 0])

    @torch.inference_mode()
    def step(
        self,
        ids_B: Tensor,
        positions_B: Tensor,
        cache: KVCache,
        limit: int,
        images: tuple[Tensor, Tensor, Tensor] | None,
        shared_B: Tensor | None = None,
    ) -> Tensor:
        """Run one token for each of the cache's first B rows; return logits (B, vocabulary).

        Args:
            ids_B: the tokens.
            positions_B: their positions.
            cache: their keys and values are written to it.
            limit: read this many positions; more than every position of the call.
            images: keys and values (layers, B, H, N, E) of the image that each row sees, and whether it sees one
                (B, 1, 1); None if no row does. Give them for `step_rows(B)` rows to avoid padding here; what the
                extra rows see does not matter.
            shared_B: how many of a row's first positions equal those of the cache's last row.
        """
        count = len(ids_B)
        if shared_B is None:
            shared_B = torch.zeros_like(positions_B)
        rows = torch.arange(count, device=self.device)
        bias = None if self.compiled else self._bias(torch.arange(limit, device=self.device), positions_B)
        size = self.step_rows(count) if images is None else len(images[2])
        if size > count:
            ids_B = F.pad(ids_B, (0, size - count))  # the results of these rows are dropped
        x, rotary = self._embed(ids_B[:, None]), self._rotary(positions_B[:, None])
        seen = 0
        for number, (layer, cross) in enumerate(zip(self.layers, self.crosses, strict=True)):
            if cross is not None:
                if images is not None:
                    x = cross.attend(x, images[0][seen], images[1][seen], None, images[2])
                x = cross.feed_forward(x)
                seen += 1
            qkv = self._project(layer, x)
            if bias is None:
                found = self._attend_compiled(number, qkv[:, 0], positions_B, shared_B, cache)
            else:
                query = self._store(number, qkv, positions_B[:, None], rotary, cache, rows)
                keys, values = cache.data[:, number, :count, :, :limit]
                found = single_query_attention(query, keys, values, bias, self.scale)
            x = layer.feed_forward(x + layer.out(found))
        return self._logits(x[:count, 0])

    def step_rows(self, count: int) -> int:
        """Return how many rows a step over `count` rows runs: a few more if each new size costs memory."""
        return layers.rounded(count) if self.compiled and layers.multiplied_by_onednn(self.embedding) else count

    def _project(self, layer: LlamaLayer | MptLayer, x: Tensor) -> Tensor:
        """Project (B, T, D) to queries, keys and values side by side, (B, T, heads, E)."""
        qkv = layer.qkv(layer.norm(x))
        if isinstance(layer, MptLayer) and layer.clip:
            qkv = qkv.clamp(min=-layer.clip, max=layer.clip)
        return qkv.unflatten(-1, (self.heads + 2 * self.kv_heads, self.width))

    def _shown(
        self, numbers_BT: Tensor, images: Sequence[Sequence[ImageKV]]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Return what `Cross.attend` needs of a prompt's images; None if no token sees one.

        Returns:
            keys and values (B, layers, H, M N, E), mask (B, 1, T, M N), and which tokens see an image (B, T, 1).
        """
        max_images = max(map(len, images), default=0)
        if not max_images or not (numbers_BT > 0).any():
            return None
        keys, values = stack_images(images, max_images)
        slots = torch.arange(max_images, device=self.device).repeat_interleave(keys.shape[3] // max_images) + 1
        seen_BT = numbers_BT.clamp(min=1)  # a row that sees nothing would become NaN; `sees` zeroes it
        visible = seen_BT[:, None, :, None] == slots
        return keys, values, visible, (numbers_BT > 0)[..., None].to(self.dtype)

    def _rotary(self, positions_BT: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return cosines and sines (B, T, 1, E) for all layers; None if torch does not apply them."""
        if self.compiled or not self.llama:
            return None
        return self._cos[positions_BT][:, :, None], self._sin[positions_BT][:, :, None]

    def _store(
        self,
        number: int,
        qkv: Tensor,
        positions_BT: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        cache: KVCache,
        rows_B: Tensor,
    ) -> Tensor:
        """Apply rotary positions and write keys and values to the cache; return the queries (B, H, T, E)."""
        if self.compiled:
            query = torch.empty(len(qkv), self.heads, qkv.shape[1], self.width, dtype=self.dtype)
            native = kernels()
            native.store(
                native.array(qkv), native.array(cache.data), number, rows_B.numpy(), positions_BT.numpy(),
                self._cos.numpy(), self._sin.numpy(), native.array(query),
            )  # fmt: skip
            return query
        turned, value = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        if rotary is not None:
            cos, sin = rotary
            half = self.width // 2
            turned = turned * cos + torch.cat((-turned[..., half:], turned[..., :half]), dim=-1) * sin
        query, key = turned.split((self.heads, self.kv_heads), dim=2)
        # (2, S, H, L, E) seen as (2, S, L, H, E), so that one index writes all heads of a position
        cache.data[:, number].transpose(2, 3)[:, rows_B[:, None], positions_BT] = torch.stack((key, value))
        return query.transpose(1, 2)

    def _attend_compiled(
        self, number: int, qkv: Tensor, positions_B: Tensor, shared_B: Tensor, cache: KVCache
    ) -> Tensor:
        """Store one token per row and attend: (B, heads, E) -> (B, 1, H E); rows without a position get zeros."""
        found, count = torch.zeros(len(qkv), self.heads, self.width, dtype=self.dtype), len(positions_B)
        native = kernels()
        native.attend_step(
            native.array(qkv[:count]), native.array(cache.data), number, positions_B.numpy(), cache.rows - 1,
            shared_B.numpy(), self._cos.numpy(), self._sin.numpy(), self._slopes.numpy(), self.scale,
            native.array(found[:count]),
        )  # fmt: skip
        return found.flatten(1)[:, None]

    def _bias(self, places_L: Tensor, positions_B: Tensor) -> Tensor:
        """Return the bias on the scores of one query per row, (B, heads or 1, L); minus infinity where masked."""
        mask = self._mask(places_L, positions_B[:, None])[:, :, 0]
        if mask.dtype != torch.bool:
            return mask
        return torch.zeros(mask.shape, dtype=self.dtype, device=self.device).masked_fill_(~mask, -math.inf)

    def _mask(self, places_L: Tensor, positions_BT: Tensor) -> Tensor:
        """Return a bool mask (B, 1, T, L) for LLaMA; for MPT ALiBi biases (B, H, T, L), minus infinity where masked."""
        seen = places_L <= positions_BT[:, None, :, None]
        if self.llama:
            return seen
        bias = self._slopes[..., None] * (places_L - positions_BT[:, None, :, None])
        return bias.masked_fill(~seen, -math.inf).to(self.dtype)

    def _logits(self, x_BD: Tensor) -> Tensor:
        return F.linear(self.final_norm(x_BD).to(self.head.dtype), self.head)

    def _embed(self, ids: Tensor) -> Tensor:
        found = F.embedding(ids, self.embedding)
        return found.float() if self.compiled else found


def _alibi_slopes(heads: int) -> Tensor:
    """Return MPT's ALiBi slopes for any number of heads (alibi_bias_max 8)."""
    power = 2 ** math.ceil(math.log2(heads))
    slopes = 1.0 / torch.pow(2, torch.arange(1, power + 1).float() * (8 / power))
    if power != heads:
        slopes = torch.cat([slopes[1::2], slopes[::2]])[:heads]
    return slopes
