"""Does a paragraph speak of what the image shows? 100 times the cosine of image and sentences.

[PF]: ViT-L-14-336 of OpenAI, captions only, a paragraph below 17.0 is removed. The text is cut at every "." and its
first ten pieces count, empty ones too; their unit vectors are averaged and the mean is not made a unit vector again, so
the score is the mean of the cosines. No factor 2.5, no clamp at zero, no learnt scale: this is not Hessel's CLIPScore.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polite_flamingo import images
from polite_flamingo.filters.paragraphs import pieces
from polite_flamingo.sample import BadSample


def score_of_features(image_D: Any, pieces_SD: Any) -> float:
    """100 * (unit image vector . mean of unit text vectors), in float64; features of any length are tensors."""
    image_D, pieces_SD = image_D.double(), pieces_SD.double()
    image_D = image_D / image_D.norm()
    pieces_SD = pieces_SD / pieces_SD.norm(dim=-1, keepdim=True)
    return float(100 * (pieces_SD.mean(dim=0) @ image_D))


class ClipScore:
    """An open_clip model with its own transform and tokenizer, fp32.

    Args:
        model: an open_clip name, `hf-hub:` or `local-dir:` name, or a folder with `open_clip_config.json`.
        pretrained: tag or file of the weights of a named model. OpenAI's were trained with QuickGELU, which open_clip
            applies only on request: it is requested here, the scores would be wrong without.
        device: torch's name of it.
        batch_size: images or pieces a forward pass.
    """

    def __init__(self, model: str, *, pretrained: str, device: str, batch_size: int):
        from polite_flamingo import hub  # first: it repairs the import of open_clip

        import open_clip  # isort: skip

        name = hub.resolve(model)
        if Path(name).is_dir():
            name = f"local-dir:{name}"
        if ":" not in name and not pretrained:
            raise ValueError(
                f"scoring.clip: {model!r} names an architecture; say which weights with scoring.clip_pretrained"
            )
        tag = open_clip.get_pretrained_cfg(name, pretrained) if ":" not in name else {}
        self._model, self._transform = open_clip.create_model_from_pretrained(
            name,
            pretrained=pretrained or None,
            device=device,
            force_quick_gelu=bool(tag.get("quick_gelu", False)),
        )
        self._model.eval()
        self._tokenizer = open_clip.get_tokenizer(name)
        self._device, self._batch_size = device, batch_size

    def encode_images(self, encoded: Sequence[bytes]) -> dict[str, Any | BadSample]:
        """Features of each distinct image by its `digest`; why not, for one that does not decode."""
        import torch

        distinct = {digest(data): data for data in encoded}
        features: dict[str, Any | BadSample] = {}
        for batch in _batches(list(distinct), self._batch_size):
            pixels: dict[str, Any] = {}
            for name in batch:
                try:
                    pixels[name] = self._transform(images.without_extreme_aspect(images.decode(distinct[name])))
                except BadSample as bad:
                    features[name] = bad
            if pixels:
                with torch.inference_mode():
                    pixels_B3HW = torch.stack(list(pixels.values())).to(self._device)
                    features_BD = self._model.encode_image(pixels_B3HW).float().cpu()
                features |= dict(zip(pixels, features_BD, strict=True))
        return features

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Any]:
        """Features of each distinct text; shorter ones than the context are padded, longer ones cut."""
        import torch

        features: dict[str, Any] = {}
        for batch in _batches(list(dict.fromkeys(texts)), self._batch_size):
            with torch.inference_mode():
                features_BD = self._model.encode_text(self._tokenizer(batch).to(self._device)).float().cpu()
            features |= dict(zip(batch, features_BD, strict=True))
        return features

    def score(self, rows: Sequence[tuple[bytes, Sequence[str]]]) -> list[list[float] | BadSample]:
        """One score for each paragraph of each (encoded image, paragraphs); images and pieces are encoded once.

        A row whose image does not decode gets the `BadSample` that says why.
        """
        import torch

        seen = self.encode_images([image for image, _ in rows])
        read = self.encode_texts([piece for _, texts in rows for text in texts for piece in pieces(text)])
        scores: list[list[float] | BadSample] = []
        for image, texts in rows:
            feature_D = seen[digest(image)]
            if isinstance(feature_D, BadSample):
                scores.append(feature_D)
                continue
            pieces_of = [torch.stack([read[piece] for piece in pieces(text)]) for text in texts]
            scores.append([score_of_features(feature_D, pieces_SD) for pieces_SD in pieces_of])
        return scores


def digest(data: bytes) -> str:
    """Identity of an image: equal bytes are the same picture."""
    return hashlib.sha256(data).hexdigest()


def _batches(items: list[str], size: int) -> list[list[str]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
