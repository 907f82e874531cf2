from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from polite_flamingo.filters.clipscore import ClipScore, score_of_features
from polite_flamingo.filters.paragraphs import join_paragraphs, paragraphs, pieces
from polite_flamingo.images.digest import digest
from polite_flamingo.sample import BadSample
from polite_flamingo.torchvision_repair import repair_torchvision
from tests.support.reference import golden


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def clip(clip_model: Path) -> ClipScore:
    return ClipScore(str(clip_model), pretrained="", device="cpu", batch_size=4)


def test_cuts_sentences_as_the_reference() -> None:
    for case in golden("metrics_golden.json")["clip_sentences"]:
        assert pieces(case["text"]) == case["sentences"]


def test_tokenises_sentences_as_the_reference() -> None:
    repair_torchvision()
    import open_clip

    tokenizer = open_clip.get_tokenizer("ViT-L-14-336")
    for case in golden("metrics_golden.json")["clip_sentences"]:
        ids = tokenizer(pieces(case["text"]))
        assert ids.shape[1] == case["width"]
        for row, expected in zip(ids.tolist(), case["token_ids"], strict=True):
            assert row[: len(expected)] == expected and not any(row[len(expected) :])


def test_scores_features_as_the_reference_without_normalising_the_mean() -> None:
    import torch

    cases = golden("metrics_golden.json")["clip_score_features"]
    for case in cases:
        found = score_of_features(torch.tensor(case["image_feature"]), torch.tensor(case["text_features"]))
        assert round(found, 4) == case["score"]
    assert any(case["score"] != case["renormalised_would_be"] for case in cases)


def test_blank_lines_make_paragraphs_and_the_kept_ones_join_again() -> None:
    text = "One. Two.\n\nThree\nfour.\n\n\n\n \n\nFive."
    assert paragraphs(text) == ["One. Two.", "Three\nfour.", "Five."]
    assert paragraphs(join_paragraphs(paragraphs(text))) == paragraphs(text)
    assert paragraphs("  \n\n ") == []


def test_a_batch_scores_as_its_rows_alone(clip: ClipScore) -> None:
    texts = ["a red circle. it is large.", "dog", "the bus waits. " * 12, "", "."]
    rows = [(picture(seed), texts[seed % 5 :]) for seed in range(9)]
    together = clip.score(rows)
    for row, expected in zip(rows, together, strict=True):
        assert isinstance(expected, list) and len(expected) == len(row[1])
        assert clip.score([row])[0] == pytest.approx(expected, abs=1e-4)
    assert len({round(row[-1], 3) for row in together if isinstance(row, list)}) > 5, "scores must depend on the image"


def test_the_score_is_the_mean_over_the_first_ten_pieces(clip: ClipScore) -> None:
    image = picture(1)
    words = "one two three four five red blue green yellow dog"
    eleven = ".".join(f"{word} star" for word in [*words.split(" "), "bus"])
    [[score]] = clip.score([(image, [eleven])])  # type: ignore[misc]
    [alone] = clip.score([(image, eleven.split("."))])
    assert isinstance(alone, list) and len(alone) == 11
    assert score == pytest.approx(np.mean(alone[:10]), abs=1e-6)
    assert abs(score - np.mean(alone)) > 1e-6
    [[ended], [open_]] = clip.score([(image, ["a dog."]), (image, ["a dog"])])  # type: ignore[misc]
    assert ended != pytest.approx(open_, abs=1e-6), "the empty piece behind the last full stop counts"


def test_equal_pictures_and_texts_are_encoded_once(clip: ClipScore) -> None:
    assert len(clip.encode_images([picture(1), picture(2), picture(1)])) == 2
    assert len(clip.encode_texts(["dog", "bus", "dog"])) == 2


@pytest.mark.parametrize("pool", ["argmax", "eos"])
def test_sentences_are_read_as_the_model_reads_them_without_their_padding(
    clip: ClipScore, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    texts = ["", "dog", "a red circle", "the bus waits " * 3, "one two three four five " * 9]
    model, widths = clip._model, []
    monkeypatch.setattr(model, "text_pool_type", pool)
    if pool == "eos":
        monkeypatch.setattr(model, "text_eos_id", 3)  # [SEP]
    with torch.inference_mode():
        expected = model.encode_text(clip._tokenizer(texts))
    run = model.transformer.forward

    def seen(hidden: torch.Tensor, **options: object) -> torch.Tensor:
        widths.append(hidden.shape[1])
        return run(hidden, **options)

    monkeypatch.setattr(model.transformer, "forward", seen)
    read = clip.encode_texts(texts)
    assert list(read) and torch.allclose(torch.stack([read[text] for text in texts]), expected, atol=1e-5)
    monkeypatch.setattr(clip, "_packed_text", None)  # as on an accelerator: with as much padding as the longest needs
    read = clip.encode_texts(texts)
    assert list(read) and torch.allclose(torch.stack([read[text] for text in texts]), expected, atol=1e-5)
    if pool == "eos":  # the highest id of this tokenizer is a letter, not the end
        read = clip.encode_texts(texts[:3])
        assert widths[-1] == 5 < clip._tokenizer(texts).shape[1]


def test_a_model_that_reads_its_padding_gets_it(clip: ClipScore, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    texts = ["dog", "a red circle"]
    monkeypatch.setattr(clip, "_causal_text", False)
    read = clip.encode_texts(texts)
    with torch.inference_mode():
        expected = clip._model.encode_text(clip._tokenizer(texts))
    assert torch.allclose(torch.stack([read[text] for text in texts]), expected, atol=1e-5)


def test_a_broken_picture_fails_alone(clip: ClipScore) -> None:
    good, broken = picture(1), picture(2)[:60]
    found = clip.score([(good, ["a dog"]), (broken, ["a dog"]), (good, ["a bus"])])
    assert isinstance(found[1], BadSample) and found[1].reason == "corrupt_image"
    assert [isinstance(row, list) for row in found] == [True, False, True]
    assert digest(good) != digest(broken)


def test_an_architecture_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="clip_pretrained"):
        ClipScore("ViT-B-32", pretrained="", device="cpu", batch_size=1)


def test_openai_weights_get_the_activation_they_were_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are not available here, so the test checks what open_clip is asked for."""
    import open_clip

    asked: dict[str, object] = {}

    def create(name: str, **settings: object) -> None:
        asked.update(settings, name=name)
        raise InterruptedError

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", create)
    with pytest.raises(InterruptedError):
        ClipScore("ViT-L-14-336", pretrained="openai", device="cpu", batch_size=1)
    assert asked["force_quick_gelu"] is True and asked["pretrained"] == "openai"
    with pytest.raises(InterruptedError):
        ClipScore("ViT-B-32", pretrained="laion2b_s34b_b79k", device="cpu", batch_size=1)
    assert asked["force_quick_gelu"] is False
