"""Transformer encoders over packed texts on a CPU: BERT's layers and CLIP's, without padding.

The libraries' own forward passes pad texts to one length and compute the last layer for every token, although a
classifier reads only one. Here the tokens of all texts form one sequence, only attention runs text by text, and if one
token per text is read, the last layer runs for that token alone.

The weights are those of the library's model and so are the results, except for rounding. A model that is not exactly
such an encoder (another activation, positions, pooling, device or dtype) keeps the library's forward pass: `bert` and
`clip_encoder` return None for it.

Shapes: T tokens in all texts together, B texts, L tokens per text, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

TOKENS = 512
"""Tokens per batch: few enough for the activations to stay in the CPU's cache, enough for fast matrix products."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The modules of one transformer layer.

    Attributes:
        weight: weight of the projection to queries, keys and values, (3 D, D).
        bias: bias of that projection, (3 D,).
        out: linear layer after attention.
        up: linear layer before the GELU.
        down: linear layer after the GELU.
        attention_norm: norm before attention in CLIP, after it in BERT.
        feed_forward_norm: norm before the feed-forward network in CLIP, after it in BERT.
    """

    weight: Any
    bias: Any
    out: Any
    up: Any
    down: Any
    attention_norm: Any
    feed_forward_norm: Any


@dataclass(frozen=True, kw_only=True)
class PackedEncoder:
    """Layers over packed texts.

    Attributes:
        layers: the layers in order.
        heads: number of heads, H.
        norm_first: norms precede attention and feed-forward (CLIP) instead of following them (BERT).
        causal: no token attends to later ones.
    """

    layers: Sequence[Layer]
    heads: int
    norm_first: bool
    causal: bool

    def all_tokens(self, x_TD: Any, lengths: Sequence[int]) -> Any:
        """Run all layers for all tokens of texts with these lengths; return (T, D)."""
        for layer in self.layers:
            x_TD = self._run(layer, x_TD, lengths)
        return x_TD

    def one_token(self, x_TD: Any, lengths: Sequence[int], tokens_B: Any) -> Any:
        """Run all layers, the last one only for one token per text; return (B, D).

        Args:
            x_TD: input of the first layer.
            lengths: lengths of the texts.
            tokens_B: index of each text's token among the T; if `causal`, its last.
        """
        for layer in self.layers[:-1]:
            x_TD = self._run(layer, x_TD, lengths)
        return self._run(self.layers[-1], x_TD, lengths, tokens_B)

    def _run(self, layer: Layer, x_TD: Any, lengths: Sequence[int], tokens_B: Any = None) -> Any:
        from torch.nn.functional import gelu

        source_TD = layer.attention_norm(x_TD) if self.norm_first else x_TD
        attended = layer.out(self._attend(layer, source_TD, lengths, tokens_B))
        x = attended.add_(x_TD if tokens_B is None else x_TD[tokens_B])
        if self.norm_first:
            return layer.down(gelu(layer.up(layer.feed_forward_norm(x)))).add_(x)
        x = layer.attention_norm(x)
        return layer.feed_forward_norm(layer.down(gelu(layer.up(x))).add_(x))

    def _attend(self, layer: Layer, source_TD: Any, lengths: Sequence[int], tokens_B: Any) -> Any:
        """Attend within each text, from all tokens (T, D) or from one per text (B, D)."""
        import torch
        from torch.nn.functional import linear, scaled_dot_product_attention

        width = source_TD.shape[1]
        if tokens_B is None:
            query, key_TD, value_TD = linear(source_TD, layer.weight, layer.bias).chunk(3, dim=1)
        else:
            query = linear(source_TD[tokens_B], layer.weight[:width], layer.bias[:width])
            key_TD, value_TD = linear(source_TD, layer.weight[width:], layer.bias[width:]).chunk(2, dim=1)
        found = torch.empty_like(query, memory_format=torch.contiguous_format)
        for first, count, length, text in runs_of_equal_length(lengths):
            keys = slice(first, first + count * length)
            queries = keys if tokens_B is None else slice(text, text + count)
            q, k, v = (
                part.unflatten(0, (count, -1)).unflatten(2, (self.heads, -1)).transpose(1, 2)
                for part in (query[queries], key_TD[keys], value_TD[keys])
            )
            attended_BHLE = scaled_dot_product_attention(q, k, v, is_causal=self.causal and tokens_B is None)
            found[queries] = attended_BHLE.transpose(1, 2).reshape(-1, width)
        return found


@dataclass(frozen=True, kw_only=True)
class PackedBert:
    """A BERT model: its embeddings and its encoder."""

    embeddings: Any
    encoder: PackedEncoder

    def all_tokens(self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]]) -> Any:
        """Return the last hidden states of all tokens of the texts, concatenated (T, D)."""
        return self.encoder.all_tokens(self._embed(ids, types), [len(text) for text in ids])

    def first_token(self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]]) -> Any:
        """Return the last hidden state of each text's first token (B, D)."""
        import torch

        lengths = [len(text) for text in ids]
        starts_B = torch.tensor([0, *lengths[:-1]]).cumsum(0)
        return self.encoder.one_token(self._embed(ids, types), lengths, starts_B)

    def _embed(self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]]) -> Any:
        import torch

        def flat(lists: Sequence[Sequence[int]]) -> Any:
            return torch.tensor([number for numbers in lists for number in numbers])

        of = self.embeddings
        positions_T = flat([range(len(text)) for text in ids])
        x_TD = of.word_embeddings(flat(ids)) + of.token_type_embeddings(flat(types))
        return of.LayerNorm(x_TD + of.position_embeddings(positions_T))


def bert(model: Any) -> PackedBert | None:
    """Pack a `transformers.BertModel` in float32 on the CPU; None for any other model."""
    import torch
    from transformers import BertModel

    config = model.config
    plain = type(model) is BertModel and config.hidden_act == "gelu" and not config.is_decoder
    absolute = getattr(config, "position_embedding_type", "absolute") == "absolute"
    if not (plain and absolute) or model.device.type != "cpu" or model.dtype != torch.float32 or model.training:
        return None
    layers = []
    for layer in model.encoder.layer:
        attention, own = layer.attention, layer.attention.self
        projections = (own.query, own.key, own.value)
        layers.append(
            Layer(
                weight=torch.cat([one.weight.detach() for one in projections]),
                bias=torch.cat([one.bias.detach() for one in projections]),
                out=attention.output.dense,
                up=layer.intermediate.dense,
                down=layer.output.dense,
                attention_norm=attention.output.LayerNorm,
                feed_forward_norm=layer.output.LayerNorm,
            )
        )
    encoder = PackedEncoder(layers=layers, heads=config.num_attention_heads, norm_first=False, causal=False)
    return PackedBert(embeddings=model.embeddings, encoder=encoder)


def clip_encoder(transformer: Any, *, causal: bool) -> PackedEncoder | None:
    """Pack an open_clip tower in float32 on the CPU; None for a tower of other blocks."""
    import torch
    from open_clip.transformer import ResidualAttentionBlock, Transformer

    if type(transformer) is not Transformer:
        return None
    layers = []
    for block in transformer.resblocks:
        plain = (
            type(block) is ResidualAttentionBlock
            and not block.training
            and type(block.mlp.gelu) is torch.nn.GELU
            and block.mlp.gelu.approximate == "none"
            and all(type(scale) is torch.nn.Identity for scale in (block.ls_1, block.ls_2))
        )
        if not plain or block.mlp.c_fc.weight.device.type != "cpu" or block.mlp.c_fc.weight.dtype != torch.float32:
            return None
        layers.append(
            Layer(
                weight=block.attn.in_proj_weight,
                bias=block.attn.in_proj_bias,
                out=block.attn.out_proj,
                up=block.mlp.c_fc,
                down=block.mlp.c_proj,
                attention_norm=block.ln_1,
                feed_forward_norm=block.ln_2,
            )
        )
    heads = transformer.resblocks[0].attn.num_heads
    return PackedEncoder(layers=layers, heads=heads, norm_first=True, causal=causal)


def runs_of_equal_length(lengths: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield (first token, number of texts, tokens per text, first text) of each run of equally long texts."""
    token = text = 0
    while text < len(lengths):
        count = 1
        while text + count < len(lengths) and lengths[text + count] == lengths[text]:
            count += 1
        yield token, count, lengths[text], text
        token, text = token + count * lengths[text], text + count
