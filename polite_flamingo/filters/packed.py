"""Transformer encoders on a CPU, near the rate at which its cores multiply: BERT's layers and CLIP's.

The libraries' own forward passes pad texts to one length, keep every token to the last layer although one is read, and
run each small step on its own. Here texts lie end to end without padding; weights are laid out once for oneDNN, whose
products add their bias, GELU and residual while the numbers are in registers; and where one token of a text is read,
the last layer works for that token alone: its keys and values are never computed, because the query can be taken
through the keys' weights and the mean of the values through theirs.

Results are those of the library's model but for rounding. Float32 only; weights are copied. What is not exactly such a
layer (other activations, positions, pooling) stays with the library: `bert` and `clip_layers` then give None.

Shapes: T tokens of all texts, B texts, L tokens of a text, D width, H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

TOKENS = 512
"""A batch: its activations stay in the processor's cache, and its products are as fast as larger ones."""


class Product:
    """x W^T + b, with the weights in oneDNN's own layout where torch has oneDNN."""

    def __init__(self, weight: Any, bias: Any):
        import torch

        self._weight, self._bias = weight.detach().float().contiguous(), bias.detach().float()
        self._packed = None
        if torch.backends.mkldnn.is_available():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._weight, TOKENS)
            self._weight = None

    def __call__(self, x_TK: Any, *, gelu: bool = False, plus: Any = None) -> Any:
        """GELU of the product, or the product plus a residual."""
        import torch
        import torch.nn.functional as F

        if self._packed is None:
            product = F.linear(x_TK, self._weight, self._bias)
            return F.gelu(product) if gelu else product if plus is None else product + plus
        if plus is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x_TK, plus, self._packed, self._bias, "add")
        name, algorithm = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x_TK, self._packed, self._bias, name, [], algorithm)


class Layer:
    """Attention and a feed-forward network of two products with GELU between.

    Args:
        query_key_value: weights (3 D, D) and biases (3 D,).
        out: the module behind attention.
        up: the module before GELU.
        down: the module behind it.
        norms: layer norms of attention and of the network.
        heads: H.
        last: whether one token a text will do.
    """

    def __init__(
        self,
        query_key_value: tuple[Any, Any],
        out: Any,
        up: Any,
        down: Any,
        norms: tuple[Any, Any],
        *,
        heads: int,
        last: bool,
    ):
        weight, bias = (part.detach().float() for part in query_key_value)
        width = weight.shape[1]
        if last:
            self.query = Product(weight[:width], bias[:width])
            self.key_HED = weight[width : 2 * width].view(heads, width // heads, width).contiguous()
            self.value_HDE = weight[2 * width :].view(heads, width // heads, width).transpose(1, 2).contiguous()
            self.value_bias_D = bias[2 * width :]
        else:
            self.query_key_value = Product(weight, bias)
        self.out, self.up, self.down = (Product(part.weight, part.bias) for part in (out, up, down))
        self.norms = norms


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Layers over texts that lie end to end.

    Attributes:
        layers: the last one with `last` where `one` is to be called, else without.
        heads: H.
        norm_first: norms come before attention and network, as in CLIP, not behind them, as in BERT.
        causal: no token sees those behind it.
    """

    layers: Sequence[Layer]
    heads: int
    norm_first: bool
    causal: bool

    def every(self, x_TD: Any, lengths: Sequence[int]) -> Any:
        """All tokens behind all layers."""
        for layer in self.layers:
            x_TD = self._behind(layer, x_TD, lengths)
        return x_TD

    def one(self, x_TD: Any, lengths: Sequence[int], tokens_B: Any) -> Any:
        """One token a text behind all layers (B, D). With `causal` it must be the text's last.

        Args:
            x_TD: before the first layer.
            lengths: of the texts.
            tokens_B: which of the T tokens.
        """
        *others, last = self.layers
        for layer in others:
            x_TD = self._behind(layer, x_TD, lengths)
        source_TD = _norm(last.norms[0], x_TD) if self.norm_first else x_TD
        return self._network(last, self._asked(last, source_TD, lengths, tokens_B), x_TD[tokens_B])

    def _behind(self, layer: Layer, x_TD: Any, lengths: Sequence[int]) -> Any:
        source_TD = _norm(layer.norms[0], x_TD) if self.norm_first else x_TD
        return self._network(layer, self._attended(layer.query_key_value(source_TD), lengths), x_TD)

    def _network(self, layer: Layer, attended_TD: Any, x_TD: Any) -> Any:
        """What comes behind attention."""
        x_TD = layer.out(attended_TD, plus=x_TD)
        if self.norm_first:
            return layer.down(layer.up(_norm(layer.norms[1], x_TD), gelu=True), plus=x_TD)
        x_TD = _norm(layer.norms[0], x_TD)
        return _norm(layer.norms[1], layer.down(layer.up(x_TD, gelu=True), plus=x_TD))

    def _attended(self, qkv_T3D: Any, lengths: Sequence[int]) -> Any:
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        width = qkv_T3D.shape[1] // 3
        found_TD = torch.empty(len(qkv_T3D), width)
        for first, count, length, _ in runs(lengths):
            texts = slice(first, first + count * length)
            q, k, v = qkv_T3D[texts].view(count, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            attended_BHLE = scaled_dot_product_attention(q, k, v, is_causal=self.causal)
            found_TD[texts].view(count, length, self.heads, -1).copy_(attended_BHLE.transpose(1, 2))
        return found_TD

    def _asked(self, layer: Layer, source_TD: Any, lengths: Sequence[int], tokens_B: Any) -> Any:
        """Attention of one token a text to all of it: q (K x) = (q K) x, and the biases of keys cancel in softmax."""
        import torch

        count, width = len(tokens_B), source_TD.shape[1]
        query_HBE = layer.query(source_TD[tokens_B]).view(count, self.heads, -1).transpose(0, 1)
        through_keys_BHD = (torch.bmm(query_HBE, layer.key_HED) * (width // self.heads) ** -0.5).transpose(0, 1)
        mean_BHD = torch.empty(count, self.heads, width)
        for first, number, length, text in runs(lengths):
            x_BLD = source_TD[first : first + number * length].view(number, length, width)
            shares_BHL = torch.bmm(through_keys_BHD[text : text + number], x_BLD.transpose(1, 2)).softmax(dim=-1)
            mean_BHD[text : text + number] = torch.bmm(shares_BHL, x_BLD)
        values_HBE = torch.bmm(mean_BHD.transpose(0, 1), layer.value_HDE)
        return values_HBE.transpose(0, 1).reshape(count, width) + layer.value_bias_D


@dataclass(frozen=True, kw_only=True)
class Bert:
    """A BERT: its embeddings and its encoder."""

    embeddings: Any
    encoder: Encoder

    def every(self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]]) -> Any:
        """All tokens of the texts, end to end (T, D)."""
        return self.encoder.every(self._embedded(ids, types), [len(text) for text in ids])

    def first(self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]]) -> Any:
        """The first token of each text (B, D)."""
        import torch

        lengths = [len(text) for text in ids]
        starts_B = torch.tensor([0, *lengths[:-1]]).cumsum(0)
        return self.encoder.one(self._embedded(ids, types), lengths, starts_B)

    def _embedded(self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]]) -> Any:
        import torch

        def flat(lists: Sequence[Sequence[int]]) -> Any:
            return torch.tensor([number for numbers in lists for number in numbers])

        of = self.embeddings
        x_TD = of.word_embeddings(flat(ids)) + of.token_type_embeddings(flat(types))
        return _norm(of.LayerNorm, x_TD + of.position_embeddings(flat([range(len(text)) for text in ids])))


def bert(model: Any, *, one: bool) -> Bert | None:
    """Of a `transformers.BertModel` on the CPU; None for what else a BERT can be.

    Args:
        model: in float32.
        one: for `Bert.first`, else for `Bert.every`.
    """
    from polite_flamingo import hub  # noqa: F401  (first: it repairs the import of transformers)

    import torch  # isort: skip
    from transformers import BertModel  # isort: skip

    config = model.config
    plain = type(model) is BertModel and config.hidden_act == "gelu" and not config.is_decoder
    if not plain or getattr(config, "position_embedding_type", "absolute") != "absolute":
        return None
    if model.device.type != "cpu" or model.dtype != torch.float32 or model.training:
        return None
    layers = []
    for layer in model.encoder.layer:
        attention, parts = layer.attention, layer.attention.self
        linear = (parts.query, parts.key, parts.value)
        projections = torch.cat([part.weight for part in linear]), torch.cat([part.bias for part in linear])
        norms = (attention.output.LayerNorm, layer.output.LayerNorm)
        modules = (attention.output.dense, layer.intermediate.dense, layer.output.dense)
        last = one and layer is model.encoder.layer[-1]
        layers.append(Layer(projections, *modules, norms, heads=config.num_attention_heads, last=last))
    encoder = Encoder(layers=layers, heads=config.num_attention_heads, norm_first=False, causal=False)
    return Bert(embeddings=model.embeddings, encoder=encoder)


def clip_layers(transformer: Any, *, causal: bool) -> Encoder | None:
    """Of an `open_clip` tower on the CPU, for `Encoder.one`; None for blocks of another kind."""
    from polite_flamingo import hub  # noqa: F401  (first: it repairs the import of open_clip)

    import torch  # isort: skip
    from open_clip.transformer import ResidualAttentionBlock, Transformer  # isort: skip

    if type(transformer) is not Transformer:
        return None
    blocks = list(transformer.resblocks)
    for block in blocks:
        if type(block) is not ResidualAttentionBlock or block.training:
            return None
        if type(block.mlp.gelu) is not torch.nn.GELU or block.mlp.gelu.approximate != "none":
            return None
        if any(type(scale) is not torch.nn.Identity for scale in (block.ls_1, block.ls_2)):
            return None
        weight = block.mlp.c_fc.weight
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            return None
    heads = blocks[0].attn.num_heads
    layers = [
        Layer(
            (block.attn.in_proj_weight, block.attn.in_proj_bias), block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj,
            (block.ln_1, block.ln_2), heads=heads, last=block is blocks[-1],
        )
        for block in blocks
    ]  # fmt: skip
    return Encoder(layers=layers, heads=heads, norm_first=True, causal=causal)


def runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """(first token, texts, tokens of each, first text) of every run of equally long texts."""
    token = text = 0
    while text < len(lengths):
        count = 1
        while text + count < len(lengths) and lengths[text + count] == lengths[text]:
            count += 1
        yield token, count, lengths[text], text
        token, text = token + count * lengths[text], text + count


def _norm(norm: Any, x_TD: Any) -> Any:
    from torch.nn.functional import layer_norm

    return layer_norm(x_TD, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
