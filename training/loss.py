"""The loss of a micro-batch: packed rows become tensors, and the model's cross-entropy is summed over them.

The output head runs on supervised positions only, because most positions of a row are not supervised. The optimiser,
the order of the data and Ray are elsewhere (`optimiser.py`, `data.py`, `ray_trainer.py`).

Shapes: B rows, S tokens, T image slots per row, N supervised tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from polite_flamingo.flamingo.model.attention import isolation
from polite_flamingo.packing.pack import PackedRow
from polite_flamingo.sample import BadSample
from training.features import Features
from training.pair_batch import PairBatch, pair_batch

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows as tensors, padded on the right to the longest.

    Attributes:
        ids_BS: token ids.
        loss_mask_BS: whether predicting this token is supervised.
        image_numbers_BS: number of the image that the position sees (1 is the row's first), 0 for none.
        sample_index_BS: index of the token's sample in its row, -1 in the padding.
        vision: latents (B, T, L, D), patch tokens (B, T, 1, V, D) or pixels (B, T, 1, 3, H, W); slots without an image
            are zero.
        broken: samples whose image did not decode; their tokens carry no loss.
        pairs: the preference pairs of the rows, in a preference stage.
        kl: KTO's estimate of the divergence from the reference.
    """

    ids_BS: Tensor
    loss_mask_BS: Tensor
    image_numbers_BS: Tensor
    sample_index_BS: Tensor
    vision: Tensor
    broken: tuple[str, ...] = ()
    pairs: PairBatch | None = None
    kl: float = 0.0


class ModelWithLoss(nn.Module):
    """The model and its loss, as one module that DDP and FSDP can wrap.

    Attributes:
        metrics: names of the metrics that are logged besides loss and accuracy.
        metric_counts: which of the `counts` each metric is divided by; the first one is the accuracy.
        term_counts: which of the `counts` each summand of the loss is divided by.
    """

    metrics: tuple[str, ...] = ()
    metric_counts: tuple[int, ...] = (0,)
    term_counts: tuple[int, ...] = (0,)

    def __init__(self, model: FlamingoModel, *, isolated: bool, dtype: torch.dtype):
        """Args: isolated: samples in a row do not attend to each other. dtype: dtype of products, under autocast."""
        super().__init__()
        self.model, self._isolated, self._dtype = model, isolated, dtype

    @staticmethod
    def counts(batch: Batch) -> list[float]:
        """Return what sums over a batch are divided by: supervised tokens."""
        return [int(batch.loss_mask_BS[:, 1:].sum())]

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return cross-entropy summed over supervised tokens (with gradient), and how many were predicted correctly."""
        mask, positions = isolation(batch.sample_index_BS, self._dtype) if self._isolated else (None, None)
        device = batch.ids_BS.device.type
        with torch.autocast(device, self._dtype, enabled=self._dtype != torch.float32):
            states_BSD = self.model.hidden(
                batch.vision, batch.ids_BS, batch.image_numbers_BS, attention_mask=mask, position_ids=positions
            )
            supervised_BS = batch.loss_mask_BS[:, 1:]
            states_ND = states_BSD[:, :-1][supervised_BS]
            logits_NV = self.model.lang_encoder.get_output_embeddings()(states_ND).float()
        target_N = batch.ids_BS[:, 1:][supervised_BS]
        loss = F.cross_entropy(logits_NV, target_N, reduction="sum")
        correct = (logits_NV.detach().argmax(-1) == target_N).sum()
        return loss, correct


def make_batch(
    rows: Sequence[PackedRow], features: Features, *, empty: Tensor, pad_id: int, device: str, pairs: bool = False
) -> Batch:
    """Turn rows into tensors on `device`. Without rows, the batch has no loss: a rank that has run out gets it.

    Args:
        rows: packed rows.
        features: the cache of image features.
        empty: zeros in the shape of one image's features.
        pad_id: token that fills the rows.
        device: the model's device.
        pairs: the rows hold preference pairs.
    """
    rows = rows or [PackedRow(ids=[pad_id] * 2, loss_mask=[False] * 2, image_numbers=[0] * 2, sample_index=[-1] * 2)]
    paddings = {"ids": pad_id, "loss_mask": False, "image_numbers": 0, "sample_index": -1}
    ids, loss_mask, image_numbers, sample_index = (
        pad_sequence([torch.tensor(getattr(row, name)) for row in rows], batch_first=True, padding_value=padding)
        for name, padding in paddings.items()
    )
    slots = max(1, *(len(row.images) for row in rows), 1)
    found = iter(features.get([image for row in rows for image in row.images]))
    vision = [[empty] * slots for _ in rows]
    broken: list[str] = []
    for place, row in enumerate(rows):
        for slot in range(len(row.images)):
            one = next(found)
            if isinstance(one, BadSample):
                for sample in sample_index[place][image_numbers[place] == slot + 1].unique().tolist():
                    loss_mask[place][sample_index[place] == sample] = False
                    broken.append(row.keys[sample])
            else:
                vision[place][slot] = one
    found_pairs = pair_batch(rows, sample_index, loss_mask, broken, device) if pairs else None
    stacked = torch.stack([torch.stack(row) for row in vision])
    to = {"device": device, "non_blocking": True}
    return Batch(
        ids_BS=ids.to(**to), loss_mask_BS=loss_mask.to(**to), image_numbers_BS=image_numbers.to(**to),
        sample_index_BS=sample_index.to(**to), vision=stacked.to(**to), broken=tuple(dict.fromkeys(broken)),
        pairs=found_pairs,
    )  # fmt: skip
