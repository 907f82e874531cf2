"""CLIPScore: does a paragraph describe the image? 100 times the mean cosine between the image and the sentences.

[PF]: OpenAI's ViT-L-14-336, for captions only; a paragraph below 17.0 is removed (the threshold is in `thresholds.py`).
The text is split at every "." and the first ten pieces count, including empty ones. Their unit vectors are averaged and
the mean is not normalised again, so the score is the mean of the cosines. There is no factor 2.5, no clamp at zero and
no learnt scale: this is not the CLIPScore of Hessel et al.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polite_flamingo import hub
from polite_flamingo.filters import packed_encoder
from polite_flamingo.filters.batches import by_similar_length, by_tokens, distinct
from polite_flamingo.filters.paragraphs import pieces
from polite_flamingo.images import decoding
from polite_flamingo.images.digest import digest
from polite_flamingo.sample import BadSample
from polite_flamingo.torchvision_repair import repair_torchvision


def score_of_features(image_D: Any, pieces_SD: Any) -> float:
    """Compute 100 * (unit image vector . mean of unit text vectors) in float64, from features of any length."""
    image_D, pieces_SD = image_D.double(), pieces_SD.double()
    image_D = image_D / image_D.norm()
    pieces_SD = pieces_SD / pieces_SD.norm(dim=-1, keepdim=True)
    return float(100 * (pieces_SD.mean(dim=0) @ image_D))


class ClipScore:
    """An open_clip model with its own transform and tokenizer, in float32.

    Args:
        model: an open_clip name, an `hf-hub:` or `local-dir:` name, or a folder with `open_clip_config.json`.
        pretrained: tag or file of the weights of a named model. OpenAI's were trained with QuickGELU, which open_clip
            applies only on request; it is requested here, because the scores would be wrong without it.
        device: a torch device.
        batch_size: images or pieces of text per forward pass.
    """

    def __init__(self, model: str, *, pretrained: str, device: str, batch_size: int):
        repair_torchvision()
        import open_clip

        name = hub.resolve(model)
        if Path(name).is_dir():
            name = f"local-dir:{name}"
        if ":" not in name and not pretrained:
            raise ValueError(
                f"scoring.clip: {model!r} is an architecture; choose its weights with scoring.clip_pretrained"
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
        self._causal_text = (
            type(self._model) is open_clip.CLIP
            and self._model.attn_mask is not None
            and self._model.text_projection is not None
            and self._model.text_pool_type in ("argmax", "eos")
        )
        self._packed_text = self._packed_image = None
        if self._causal_text and device == "cpu":
            self._packed_text = packed_encoder.clip_encoder(self._model.transformer, causal=True)
            self._packed_image = self._pack_vision()

    def encode_images(self, encoded: Sequence[bytes]) -> dict[str, Any | BadSample]:
        """Encode each distinct image; return features by `digest`, or why an image cannot be decoded."""
        import torch

        pictures = {digest(data): data for data in encoded}
        features: dict[str, Any | BadSample] = {}
        names = list(pictures)
        for start in range(0, len(names), self._batch_size):
            pixels: dict[str, Any] = {}
            for name in names[start : start + self._batch_size]:
                try:
                    pixels[name] = self._transform(decoding.without_extreme_aspect(decoding.decode(pictures[name])))
                except BadSample as bad:
                    features[name] = bad
            if pixels:
                with torch.inference_mode():
                    pixels_B3HW = torch.stack(list(pixels.values())).to(self._device)
                    features_BD = self._encode_image(pixels_B3HW).float().cpu()
                features |= dict(zip(pixels, features_BD, strict=True))
        return features

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Any]:
        """Encode each distinct text; texts longer than the context are cut."""
        import torch

        once = distinct(texts)
        features: dict[str, Any] = {}
        if not once:
            return features
        tokens_PT = self._tokenizer(once)
        lengths = self._lengths(tokens_PT)
        if self._packed_text is not None:
            batches = by_tokens(lengths, packed_encoder.TOKENS)
        else:
            batches = by_similar_length(lengths, self._batch_size)
        for indices in batches:
            with torch.inference_mode():
                features_BD = self._encode_text(tokens_PT[indices].to(self._device)).float().cpu()
            features |= zip([once[index] for index in indices], features_BD, strict=True)
        return features

    def _lengths(self, tokens_PT: Any) -> list[int]:
        """Return the length of each text up to the token that gives its feature; the full length if unknown."""
        if not self._causal_text:
            return [tokens_PT.shape[1]] * len(tokens_PT)
        if self._model.text_pool_type == "argmax":  # the end token has the highest id
            return (tokens_PT.argmax(dim=-1) + 1).tolist()
        return ((tokens_PT == self._model.text_eos_id).int().argmax(dim=-1) + 1).tolist()

    def _encode_text(self, tokens_BT: Any) -> Any:
        """Do what the model's `encode_text` does, without the padding: a sentence fills a dozen of 77 positions.

        With causal attention, nothing after a text's end can influence it.
        """
        if not self._causal_text:
            return self._model.encode_text(tokens_BT)
        import torch

        model = self._model
        lengths = self._lengths(tokens_BT)
        if self._packed_text is not None:
            positions_T = torch.cat([torch.arange(length) for length in lengths])
            tokens_T = torch.cat([text[:length] for text, length in zip(tokens_BT, lengths, strict=True)])
            hidden_TD = model.token_embedding(tokens_T) + model.positional_embedding[positions_T]
            ends_B = torch.tensor(lengths).cumsum(0) - 1
            last_BD = self._packed_text.one_token(hidden_TD, lengths, ends_B)
        else:
            length = max(lengths)
            hidden_BTD = model.token_embedding(tokens_BT[:, :length]) + model.positional_embedding[:length]
            hidden_BTD = model.transformer(hidden_BTD, attn_mask=model.attn_mask[:length, :length])
            last_BD = hidden_BTD[torch.arange(len(lengths)), torch.tensor(lengths) - 1]
        pooled_BD, projection = model.ln_final(last_BD), model.text_projection
        return pooled_BD @ projection if isinstance(projection, torch.Tensor) else projection(pooled_BD)

    def _pack_vision(self) -> packed_encoder.PackedEncoder | None:
        """Pack the image tower if its output is the first token only."""
        from open_clip.transformer import VisionTransformer

        visual = self._model.visual
        plain = type(visual) is VisionTransformer and visual.attn_pool is None and visual.pool_type == "tok"
        if not plain or visual.output_tokens:
            return None
        return packed_encoder.clip_encoder(visual.transformer, causal=False)

    def _encode_image(self, pixels_B3HW: Any) -> Any:
        """Do what the model's `encode_image` does."""
        if self._packed_image is None:
            return self._model.encode_image(pixels_B3HW)
        import torch

        visual = self._model.visual
        hidden_BLD = visual._embeds(pixels_B3HW)
        count, length, width = hidden_BLD.shape
        first_B = torch.arange(0, count * length, length)
        pooled_BD = self._packed_image.one_token(hidden_BLD.reshape(count * length, width), [length] * count, first_B)
        return visual.ln_post(pooled_BD) @ visual.proj

    def score(self, rows: Sequence[tuple[bytes, Sequence[str]]]) -> list[list[float] | BadSample]:
        """Score each paragraph of each (encoded image, paragraphs); every distinct image and piece is encoded once.

        A row whose image cannot be decoded gets the `BadSample` that says why.
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
