"""The language model of a Flamingo as plain functions over a static key/value cache: what the engine runs.

The weights are those of a loaded `FlamingoModel`, shared (`layers.py`); the arithmetic is
that of open_flamingo over transformers' LLaMA and MPT, minus what they compute in vain: the keys and values of image
latents are computed once an image (`media`), not in every call; positions whose attention is zero by definition are not
attended at all; and only the positions that are asked for get logits.

Rows of a call have their own positions, so prompts need no left padding, and a chunk of a prompt can follow an earlier
one. What a row has not written yet is never looked at: positions behind a row's own are masked.

Shapes: B rows of a call, T tokens a row, S rows of the cache, L positions, H heads, E width of a head, N latents an
image, M images a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from polite_flamingo.flamingo.model import layers
from polite_flamingo.flamingo.model.layers import Cross, LayerNorm, Linear, LlamaLayer, MptLayer, RmsNorm, kernels, look
from polite_flamingo.flamingo.model.model import FlamingoModel


@dataclass
class Cache:
    """Keys and values of S rows: (2, layers, S, H, L, E), so that one write stores both."""

    data: Tensor

    @property
    def rows(self) -> int:
        """S."""
        return self.data.shape[2]

    @property
    def capacity(self) -> int:
        """Positions a row has room for."""
        return self.data.shape[4]

    def beginning(self, row: int, length: int) -> Tensor:
        """The first positions of a row, (2, layers, H, length, E); a view."""
        return self.data[:, :, row, :, :length]

    def exchange(self, row: int, other: int, length: int) -> None:
        """Swap the first positions of two rows."""
        self.data[:, :, [row, other], :, :length] = self.data[:, :, [other, row], :, :length]


@dataclass(frozen=True)
class Media:
    """Keys and values of one image in each cross-attention layer: (layers, H, N, E) each."""

    keys: Tensor
    values: Tensor


class Decoder:
    """See the module. Holds no state between calls but the weights."""

    def __init__(self, model: FlamingoModel):
        """Raises ValueError for a language model that is neither of LLaMA's nor of MPT's type."""
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
        if self.compiled:  # bfloat16 would leave the choice between the two likeliest tokens to rounding
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

    def new_cache(self, rows: int, capacity: int) -> Cache:
        """An empty cache."""
        shape = (2, len(self.layers), rows, self.kv_heads, capacity, self.width)
        return Cache(torch.zeros(shape, dtype=self.dtype, device=self.device))

    @torch.inference_mode()
    def media(self, latents_KND: Tensor) -> list[Media]:
        """Keys and values of K images, from their perceiver latents."""
        blocks = sum(cross is not None for cross in self.crosses)
        made = self._to_kv(latents_KND).unflatten(-1, (blocks, 2, self._cross_heads, -1))
        keys, values = made.permute(3, 0, 2, 4, 1, 5).contiguous().unbind(0)  # (2, K, layers, H, N, E)
        return [Media(keys[k].clone(), values[k].clone()) for k in range(len(latents_KND))]  # each freed alone

    @torch.inference_mode()
    def prefill(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor,
        last_B: Tensor,
        cache: Cache,
        rows_B: Tensor,
        limit: int,
        numbers_BT: Tensor,
        media: Sequence[Sequence[Media]],
    ) -> Tensor:
        """Run chunks of prompts; return logits (B, vocabulary) at the tokens `last_B` of each row.

        Args:
            ids_BT: chunks, padded behind with anything.
            positions_BT: of each token in its row; those of padding must lie behind the row's own.
            last_B: which token of a chunk is to be answered.
            cache: gets the chunks' keys and values.
            rows_B: the cache's rows.
            limit: positions to look at, above every position of the call.
            numbers_BT: the image that each token sees (`attention.image_numbers` of the whole prompt), 0 none.
            media: each row's images.
        """
        images = max(map(len, media), default=0)
        sees = bool((numbers_BT > 0).any()) and images > 0
        cross_mask = seeing = None
        stacked: tuple[Tensor, Tensor] | None = None
        if sees:
            stacked = _stack(media, images)
            latents = stacked[0].shape[3] // images
            slots = torch.arange(images, device=self.device).repeat_interleave(latents) + 1
            shown_BT = numbers_BT.clamp(min=1)  # a row that attends nothing would be NaN; `seeing` zeroes it
            cross_mask = (shown_BT[:, None, :, None] == slots).to(self.device)
            seeing = (numbers_BT > 0)[..., None].to(self.dtype)
        places = torch.arange(limit, device=self.device)
        mask = self._mask(places, positions_BT)
        x, rotary = self._embed(ids_BT), self._rotary(positions_BT)
        seen = 0
        for number, (layer, cross) in enumerate(zip(self.layers, self.crosses, strict=True)):
            if cross is not None:
                if stacked is not None and seeing is not None:
                    x = cross.attend(x, stacked[0][:, seen], stacked[1][:, seen], cross_mask, seeing)
                x = cross.feed_forward(x)
                seen += 1
            query = self._store(number, self._project(layer, x), positions_BT, rotary, cache, rows_B)
            keys, values = cache.data[:, number, rows_B, :, :limit]
            if number + 1 == len(self.layers):  # whose output is asked for at one token a row, so it is made for that
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
        cache: Cache,
        limit: int,
        media: tuple[Tensor, Tensor, Tensor] | None,
        shared_B: Tensor | None = None,
    ) -> Tensor:
        """One token for each of the cache's first B rows; return logits (B, vocabulary).

        Args:
            ids_B: the tokens.
            positions_B: their positions.
            cache: gets their keys and values.
            limit: positions to look at, above every position of the call.
            media: keys and values (layers, B, H, N, E) of the image that each row sees, and whether it sees one
                (B, 1, 1); None where no row does. Best of `step_rows`: what more rows see is of no matter.
            shared_B: how many of a row's first positions hold what the cache's last row holds.
        """
        count = len(ids_B)
        if shared_B is None:
            shared_B = torch.zeros_like(positions_B)
        rows = torch.arange(count, device=self.device)
        bias = None if self.compiled else self._bias(torch.arange(limit, device=self.device), positions_B)
        size = self.step_rows(count) if media is None else len(media[2])
        if size > count:
            ids_B = F.pad(ids_B, (0, size - count))  # what becomes of these rows is not looked at
        x, rotary = self._embed(ids_B[:, None]), self._rotary(positions_B[:, None])
        seen = 0
        for number, (layer, cross) in enumerate(zip(self.layers, self.crosses, strict=True)):
            if cross is not None:
                if media is not None:
                    x = cross.attend(x, media[0][seen], media[1][seen], None, media[2])
                x = cross.feed_forward(x)
                seen += 1
            qkv = self._project(layer, x)
            if bias is None:
                found = self._attend_compiled(number, qkv[:, 0], positions_B, shared_B, cache)
            else:
                query = self._store(number, qkv, positions_B[:, None], rotary, cache, rows)
                keys, values = cache.data[:, number, :count, :, :limit]
                found = look(query, keys, values, bias, self.scale)
            x = layer.feed_forward(x + layer.out(found))
        return self._logits(x[:count, 0])

    def step_rows(self, count: int) -> int:
        """Rows that a step of so many runs: a few more, where each number of them costs memory (`layers.rounded`)."""
        return layers.rounded(count) if self.compiled and layers.multiplied_by_onednn(self.embedding) else count

    def _project(self, layer: LlamaLayer | MptLayer, x: Tensor) -> Tensor:
        """(B, T, D) -> queries, keys, values side by side, (B, T, heads, E)."""
        qkv = layer.qkv(layer.norm(x))
        if isinstance(layer, MptLayer) and layer.clip:
            qkv = qkv.clamp(min=-layer.clip, max=layer.clip)
        return qkv.unflatten(-1, (self.heads + 2 * self.kv_heads, self.width))

    def _rotary(self, positions_BT: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines (B, T, 1, E) for all layers, where torch is to apply them."""
        if self.compiled or not self.llama:
            return None
        return self._cos[positions_BT][:, :, None], self._sin[positions_BT][:, :, None]

    def _store(
        self,
        number: int,
        qkv: Tensor,
        positions_BT: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        cache: Cache,
        rows_B: Tensor,
    ) -> Tensor:
        """Turn queries and keys by their positions, put keys and values into the cache; the queries (B, H, T, E)."""
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

    def _attend_compiled(self, number: int, qkv: Tensor, positions_B: Tensor, shared_B: Tensor, cache: Cache) -> Tensor:
        """Store one token a row and attend: (B, heads, E) -> (B, 1, H E); rows without a position get zeros."""
        found, count = torch.zeros(len(qkv), self.heads, self.width, dtype=self.dtype), len(positions_B)
        native = kernels()
        native.attend_step(
            native.array(qkv[:count]), native.array(cache.data), number, positions_B.numpy(), cache.rows - 1,
            shared_B.numpy(), self._cos.numpy(), self._sin.numpy(), self._slopes.numpy(), self.scale,
            native.array(found[:count]),
        )  # fmt: skip
        return found.flatten(1)[:, None]

    def _bias(self, places_L: Tensor, positions_B: Tensor) -> Tensor:
        """What is added to the scores of one query a row: (B, heads or 1, L), minus infinity where nothing is seen."""
        return self._mask_or_bias(places_L, positions_B[:, None])[:, :, 0]

    def _mask_or_bias(self, places_L: Tensor, positions_BT: Tensor) -> Tensor:
        mask = self._mask(places_L, positions_BT)
        if mask.dtype != torch.bool:
            return mask
        return torch.zeros(mask.shape, dtype=self.dtype, device=self.device).masked_fill_(~mask, -math.inf)

    def _mask(self, places_L: Tensor, positions_BT: Tensor) -> Tensor:
        """Bool (B, 1, T, L) for LLaMA; for MPT the ALiBi biases (B, H, T, L), minus infinity where nothing is seen."""
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
    """MPT's, for any number of heads (alibi_bias_max 8)."""
    power = 2 ** math.ceil(math.log2(heads))
    slopes = 1.0 / torch.pow(2, torch.arange(1, power + 1).float() * (8 / power))
    if power != heads:
        slopes = torch.cat([slopes[1::2], slopes[::2]])[:heads]
    return slopes


def _stack(media: Sequence[Sequence[Media]], images: int) -> tuple[Tensor, Tensor]:
    """Keys and values of all images of all rows, (B, layers, H, M N, E) each; zeros stand for absent ones."""
    first = next(one for row in media for one in row)
    empty = Media(torch.zeros_like(first.keys), torch.zeros_like(first.values))
    keys, values = [], []
    for row in media:
        filled = [*row, *[empty] * (images - len(row))]
        keys.append(torch.cat([one.keys for one in filled], dim=2))
        values.append(torch.cat([one.values for one in filled], dim=2))
    return torch.stack(keys), torch.stack(values)
