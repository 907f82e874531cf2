"""One micro-batch: packed rows in, summed loss out. It knows no optimiser, no data order and no Ray.

The output head runs on supervised positions only; most positions of a row of instructions are not.

Shapes: B rows, S tokens, T image slots of a row, N supervised tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from polite_flamingo.flamingo.config import Part
from polite_flamingo.flamingo.model.state_dict import part_of, unique_parameters
from polite_flamingo.packing.rows import Row
from polite_flamingo.sample import BadSample
from training.features import Features
from training.stages import StageConfig

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows as tensors, padded on the right to the longest.

    Attributes:
        ids_BS: token ids.
        loss_BS: whether predicting this token is supervised.
        media_BS: number of the image that the position sees, 0 for none.
        turn_BS: number of the sample in its row, -1 in the padding.
        vision: latents (B, T, L, D) or patch tokens (B, T, 1, V, D); slots without an image are zero.
        broken: samples whose image did not decode; their tokens carry no loss.
    """

    ids_BS: Tensor
    loss_BS: Tensor
    media_BS: Tensor
    turn_BS: Tensor
    vision: Tensor
    broken: tuple[str, ...] = ()


class Step(nn.Module):
    """The model and its loss, as one module that DDP and FSDP can wrap."""

    def __init__(self, model: FlamingoModel, *, isolated: bool, dtype: torch.dtype):
        """Args: isolated: samples of a row do not attend each other. dtype: of products, under autocast."""
        super().__init__()
        self.model, self._isolated, self._dtype = model, isolated, dtype

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return cross-entropy summed over supervised tokens (with gradient), and how many were predicted right."""
        mask, positions = isolation(batch.turn_BS, self._dtype) if self._isolated else (None, None)
        device = batch.ids_BS.device.type
        with torch.autocast(device, self._dtype, enabled=self._dtype != torch.float32):
            states_BSD = self.model.hidden(
                batch.vision, batch.ids_BS, batch.media_BS, attention_mask=mask, position_ids=positions
            )
            supervised_BS = batch.loss_BS[:, 1:]
            states_ND = states_BSD[:, :-1][supervised_BS]
            logits_NV = self.model.lang_encoder.get_output_embeddings()(states_ND).float()
        target_N = batch.ids_BS[:, 1:][supervised_BS]
        loss = F.cross_entropy(logits_NV, target_N, reduction="sum")
        right = (logits_NV.detach().argmax(-1) == target_N).sum()
        return loss, right


def isolation(turn_BS: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return a mask that separates the samples of a row, and positions (B, S) counted from the start of each sample.

    Args:
        turn_BS: number of the sample of each token; a sample's tokens are next to each other.
        dtype: of the mask.

    Returns:
        The mask (B, 1, S, S) is added to attention scores. It is not boolean, because MPT and LLaMA read booleans in
        opposite ways; both understand 0 and the lowest number of the dtype.
    """
    size = turn_BS.shape[1]
    causal_SS = torch.ones(size, size, dtype=torch.bool, device=turn_BS.device).tril()
    seen_BSS = (turn_BS[:, :, None] == turn_BS[:, None, :]) & causal_SS
    mask = torch.zeros(seen_BSS.shape, dtype=dtype, device=turn_BS.device).masked_fill(
        ~seen_BSS, torch.finfo(dtype).min
    )
    place_S = torch.arange(size, device=turn_BS.device)
    begins_BS = torch.diff(turn_BS, dim=1, prepend=turn_BS[:, :1] - 1) != 0
    start_BS = torch.where(begins_BS, place_S, 0).cummax(dim=1).values
    return mask[:, None], place_S - start_BS


def make_batch(rows: Sequence[Row], features: Features, *, empty: Tensor, pad_id: int, device: str) -> Batch:
    """Turn rows into tensors on `device`. Without rows, the batch has no loss: for a rank that has run out.

    Args:
        rows: packed rows.
        features: the cache of image features.
        empty: zeros in the shape of the features of one image.
        pad_id: token that fills the rows.
        device: of the model.
    """
    rows = rows or [Row(ids=[pad_id] * 2, loss=[False] * 2, media=[0] * 2, turn=[-1] * 2)]
    ids, loss, media, turn = (
        pad_sequence([torch.tensor(getattr(row, name)) for row in rows], batch_first=True, padding_value=padding)
        for name, padding in (("ids", pad_id), ("loss", False), ("media", 0), ("turn", -1))
    )
    slots = max(1, *(len(row.images) for row in rows), 1)
    found = iter(features.get([image for row in rows for image in row.images]))
    vision = [[empty] * slots for _ in rows]
    broken: list[str] = []
    for place, row in enumerate(rows):
        for slot in range(len(row.images)):
            one = next(found)
            if isinstance(one, BadSample):
                for sample in turn[place][media[place] == slot + 1].unique().tolist():
                    loss[place][turn[place] == sample] = False
                    broken.append(row.keys[sample])
            else:
                vision[place][slot] = one
    stacked = torch.stack([torch.stack(row) for row in vision])
    to = {"device": device, "non_blocking": True}
    return Batch(
        ids_BS=ids.to(**to), loss_BS=loss.to(**to), media_BS=media.to(**to), turn_BS=turn.to(**to),
        vision=stacked.to(**to), broken=tuple(dict.fromkeys(broken)),
    )  # fmt: skip


def prepare(model: FlamingoModel, stage: StageConfig) -> dict[str, nn.Parameter]:
    """Freeze everything except what the stage tunes; make that float32 and return it by canonical name.

    Raises:
        ValueError: the model lacks a part that should be tuned.
    """
    model.requires_grad_(False)
    tuned: dict[str, nn.Parameter] = {}
    for name, parameter in unique_parameters(model).items():
        if part_of(model, name) not in stage.tune:
            continue
        if not stage.cross_attention_ffn and (".gated_cross_attn_layer.ff." in name or name.endswith(".ff_gate")):
            continue
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
        tuned[name] = parameter
    missing = [part for part in stage.tune if not any(part_of(model, name) == part for name in tuned)]
    if missing:
        parts: list[Part] = sorted({part_of(model, name) for name in unique_parameters(model)})
        raise ValueError(f"training: the stage tunes {missing}, which the model does not have; its parts are {parts}")
    for module in (*model.perceiver.modules(), *model.lang_encoder.gated_cross_attn_layers.modules()):
        if isinstance(module, nn.LayerNorm):
            module.float()  # the gates' stream is float32; on a CPU a norm must not be narrower
    model.train()
    model.vision_encoder.eval()
    return tuned
