"""The layers of a Flamingo's language model as the decoder runs them, with weights fused where that saves a product.

Each is made from a layer of the loaded model and shares its weights. Shapes: B rows, T tokens per row, D width of the
model, L positions, H key heads, E width of a head, M images per row, N latents per image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def compiled(x: Tensor) -> bool:
    """Whether `cpu_kernels.py` decodes with weights like this; the residual stream is then float32."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def rounded(rows: int) -> int:
    """Round a number of rows up to one of four sizes per power of two: at most a quarter more, except for tiny ones.

    oneDNN compiles its functions for each number of rows. It and torch keep a thousand compiled functions each until
    the process ends, about 0.6 MB per product and 0.05 MB per GELU. Nearly every chunk of prompts has a different
    number of tokens, so memory would grow by a GB, and each new number would cost a millisecond.
    """
    step = max(4, 1 << (rows - 1).bit_length() >> 3)
    return -(-rows // step) * step


def multiplied_by_onednn(weight: Tensor) -> bool:
    """Whether oneDNN multiplies weights like this; float32 goes to MKL, which caches nothing."""
    return weight.device.type == "cpu" and weight.dtype in (torch.bfloat16, torch.float16)


def gelu_by_onednn(weight: Tensor) -> bool:
    """Whether oneDNN computes the GELU between weights like this; it does in float32 too."""
    return multiplied_by_onednn(weight) or compiled(weight)


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor, rounding: bool) -> Tensor:
    """Apply a function that treats each row (the last dimension) independently; with `rounding` on `rounded` rows."""
    rows = x.numel() // x.shape[-1]
    more = rounded(rows) - rows if rounding else 0
    if not more:
        return function(x)
    return function(F.pad(x.reshape(rows, -1), (0, 0, 0, more)))[:rows].unflatten(0, x.shape[:-1])


@functools.cache
def kernels() -> ModuleType:
    """Import the kernels on first use: a machine that decodes on a GPU needs no numba."""
    from polite_flamingo.flamingo.model import cpu_kernels as found

    return found


class Linear:
    """x W^T + b, plus s (x A^T) B^T on a range of the outputs for each attached LoRA adapter."""

    def __init__(self, *modules: nn.Module):
        """Fuse modules over the same input into one product, their outputs side by side.

        The modules' weights become views of the fused one, so the model keeps working and nothing is stored twice.
        """
        plain = [m.get_base_layer() if hasattr(m, "get_base_layer") else m for m in modules]
        self.weight = _fused([m.weight for m in plain])
        biases = [m.bias for m in plain]
        self.bias = None if biases[0] is None else torch.cat(biases).detach()
        self._rounds = multiplied_by_onednn(self.weight)
        self.loras: list[tuple[int, int, Tensor, Tensor, float]] = []
        start = 0
        for module, base in zip(modules, plain, strict=True):
            end = start + base.weight.shape[0]
            if base is not module and not getattr(module, "merged", False):
                for name in module.active_adapters:  # type: ignore[union-attr]
                    a, b = module.lora_A[name].weight.detach(), module.lora_B[name].weight.detach()
                    self.loras.append((start, end, a, b, float(module.scaling[name])))
            start = end

    def __call__(self, x: Tensor) -> Tensor:
        """Map (…, in) to (…, out)."""
        return by_rows(self._product, x, self._rounds)

    def _product(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        for start, end, a, b, scale in self.loras:
            y[..., start:end] += F.linear(F.linear(x, a), b) * scale
        return y


def _fused(weights: Sequence[nn.Parameter]) -> Tensor:
    """Concatenate matrices (n, in) by rows; the parameters become views of the result, unless they already are."""
    first = weights[0].detach()
    rows = [len(weight) for weight in weights]
    places = [first.data_ptr() + sum(rows[:number]) * first[0].nbytes for number in range(len(rows))]
    if all(
        weight.data_ptr() == place
        and weight.is_contiguous()
        and weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        for weight, place in zip(weights, places, strict=True)
    ):
        return first.as_strided((sum(rows), first.shape[1]), first.stride())
    fused = torch.cat([weight.detach() for weight in weights])
    for weight, part in zip(weights, fused.split(rows), strict=True):
        weight.data = part
    return fused


class LayerNorm:
    """Layer norm of the residual stream, computed in its dtype; the result has the dtype of the weights."""

    def __init__(self, norm: nn.Module):
        self.dtype, self.shape, self.epsilon = norm.weight.dtype, norm.normalized_shape, norm.eps
        parts = (None if part is None else part.detach() for part in (norm.weight, norm.bias))
        self.weight, self.bias = (part.float() if part is not None and compiled(part) else part for part in parts)

    def __call__(self, x: Tensor) -> Tensor:
        """Map (…, D) to (…, D)."""
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.epsilon).to(self.dtype)


class RmsNorm:
    """LLaMA's RMS norm; dtypes as in `LayerNorm`."""

    def __init__(self, norm: nn.Module):
        self.dtype, self.epsilon = norm.weight.dtype, float(norm.variance_epsilon)
        self.weight = norm.weight.detach()
        self.compiled = compiled(self.weight)
        if self.compiled:
            self.weight = self.weight.float()

    def __call__(self, x: Tensor) -> Tensor:
        """Map (…, D) to (…, D)."""
        if not self.compiled:
            return F.rms_norm(x, (x.shape[-1],), self.weight, self.epsilon)
        result = torch.empty_like(x, dtype=self.dtype)
        into = kernels().array(result.flatten(0, -2))
        kernels().rms_norm(x.flatten(0, -2).numpy(), self.weight.numpy(), self.epsilon, into)
        return result


def single_query_attention(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Attend with one query per row, as two batched products; return (B, 1, heads E).

    Torch's fused kernel is made for many queries; for one it takes several times as long on a CPU.

    Args:
        query: (B, heads, 1, E).
        keys: (B, H, L, E).
        values: (B, H, L, E).
        bias: added to the scores, (B, heads or 1, L); minus infinity where masked.
        scale: scale of the scores.
    """
    rows, heads, places, width = keys.shape
    grouped = query.reshape(rows * heads, -1, width)
    scores = torch.bmm(grouped, keys.flatten(0, 1).transpose(1, 2)).view(rows, -1, places) * scale
    shares = torch.softmax(scores if bias is None else scores + bias, dim=-1, dtype=torch.float32).to(values.dtype)
    return torch.bmm(shares.view(rows * heads, -1, places), values.flatten(0, 1)).view(rows, 1, -1)


class Cross:
    """A gated cross-attention block of open_flamingo: its projections, with the tanh of the gates computed once."""

    def __init__(self, block: nn.Module):
        attention = block.attn
        self.heads: int = attention.heads
        self.scale: float = attention.scale
        self.norm, self.to_q, self.to_out = LayerNorm(attention.norm), Linear(attention.to_q), Linear(attention.to_out)
        self.gate = block.attn_gate.detach().tanh()
        self.ff_norm, self.ff_up, self.ff_down = LayerNorm(block.ff[0]), Linear(block.ff[1]), Linear(block.ff[3])
        self.ff_gate = block.ff_gate.detach().tanh()
        self._rounds = gelu_by_onednn(self.ff_up.weight)

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, sees: Tensor) -> Tensor:
        """Attend from x (B, T, D) to keys and values (B, H, M N, E), and add the result where `sees` (B, T, 1) is 1."""
        query = self.to_q(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if mask is None and x.shape[1] == 1:
            found = single_query_attention(query, keys, values, None, self.scale)
        else:
            found = F.scaled_dot_product_attention(query, keys, values, mask, scale=self.scale)
            found = found.transpose(1, 2).flatten(2)
        return x + self.to_out(found) * (self.gate * sees)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Apply the block's second half at every position, whether or not it sees an image."""
        return x + by_rows(self._fed_forward, x, self._rounds) * self.ff_gate

    def _fed_forward(self, x: Tensor) -> Tensor:
        return self.ff_down(F.gelu(self.ff_up(self.ff_norm(x))))


class LlamaLayer:
    """A LLaMA layer: RMS norms, rotary positions, gated SiLU."""

    def __init__(self, layer: nn.Module):
        attention, mlp = layer.self_attn, layer.mlp
        self.norm, self.ff_norm = RmsNorm(layer.input_layernorm), RmsNorm(layer.post_attention_layernorm)
        self.qkv = Linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = Linear(attention.o_proj)
        self.up, self.down, self.act = Linear(mlp.gate_proj, mlp.up_proj), Linear(mlp.down_proj), mlp.act_fn
        self._rounds = multiplied_by_onednn(self.up.weight)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Add the feed-forward network's output to x (B, T, D)."""
        return x + by_rows(self._fed_forward, x, self._rounds)

    def _fed_forward(self, x: Tensor) -> Tensor:
        gate, up = self.up(self.ff_norm(x)).chunk(2, dim=-1)
        return self.down(self.act(gate) * up)


class MptLayer:
    """An MPT layer: layer norms without bias, ALiBi, GELU."""

    def __init__(self, layer: nn.Module):
        self.norm, self.ff_norm = LayerNorm(layer.norm_1), LayerNorm(layer.norm_2)
        self.qkv, self.out = Linear(layer.attn.Wqkv), Linear(layer.attn.out_proj)
        self.clip = layer.attn.clip_qkv
        self.up, self.down = Linear(layer.ffn.up_proj), Linear(layer.ffn.down_proj)
        self._rounds = gelu_by_onednn(self.up.weight)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Add the feed-forward network's output to x (B, T, D)."""
        return x + by_rows(self._fed_forward, x, self._rounds)

    def _fed_forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.ff_norm(x))))
