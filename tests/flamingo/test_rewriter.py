"""The rewriter on a tiny random model: what it writes is nonsense, that it writes the same nonsense is the point."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import pytest
import torch
from PIL import Image as Pillow

from polite_flamingo import images, prompts
from polite_flamingo.flamingo.config import GenerationConfig, RewriterConfig
from polite_flamingo.flamingo.rewriter import Rewriter, SeededSampling, decoding_arguments, seed_of
from polite_flamingo.sample import BadSample, Image, Sample, Turn

GREEDY = GenerationConfig(max_new_tokens=12, num_beams=1, do_sample=False, no_repeat_ngram_size=0)
SAMPLED = dataclasses.replace(GREEDY, do_sample=True, temperature=1.5, top_k=50, top_p=0.95)


def picture(seed: int, size: tuple[int, int] = (24, 24)) -> Image:
    noise = torch.randint(
        0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    buffer = io.BytesIO()
    Pillow.fromarray(noise.numpy()).save(buffer, "PNG")
    return Image(extension="png", data=buffer.getvalue())


def sample(name: str, response: str = "Answer: he is running", pictures: Sequence[Image] = ()) -> Sample:
    return Sample(
        key=f"tiny/train/{name}",
        dataset="tiny",
        task="vqa" if pictures else "text",
        turns=(Turn(instruction="<image>" * len(pictures) + "What is the man doing?", response=response),),
        images=tuple(pictures),
    )


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """None, one and two images, of many lengths, one image shared."""
    shared = picture(1)
    return [
        sample("a", pictures=[shared]),
        sample("b", "a man", [picture(2)]),
        sample("c", "the two pictures differ: the man is gone", [shared, picture(3)]),
        sample("d", "running"),
        sample("e", "he is running and running and running", [picture(4, (60, 18))]),
    ]


@pytest.fixture(scope="module")
def rewriter(tiny) -> Rewriter:
    return Rewriter(RewriterConfig(flamingo=tiny.config, generation=GREEDY, batch_size=3))


def with_settings(rewriter: Rewriter, **changes: object) -> Rewriter:
    """The same loaded model under another configuration."""
    other = Rewriter.__new__(Rewriter)
    other.__dict__.update(rewriter.__dict__)
    other.config = dataclasses.replace(rewriter.config, **changes)
    return other


def test_every_sample_gets_its_text_in_order_whatever_the_batches(rewriter, samples):
    texts = rewriter.rewrite(samples)
    assert all(isinstance(text, str) and text for text in texts)
    assert len(set(texts)) == len(texts), "five prompts, five texts"
    assert rewriter.rewrite(samples) == texts
    for size in (1, 2, 5):
        assert with_settings(rewriter, batch_size=size).rewrite(samples) == texts
    assert rewriter.rewrite(samples[::-1]) == texts[::-1]
    assert [rewriter.rewrite([one])[0] for one in samples] == texts
    assert rewriter.rewrite([]) == []


def test_the_text_is_what_generate_says_to_the_protocols_prompt(rewriter, samples):
    one = samples[0]
    model, tokenizer = rewriter.model, rewriter.model.tokenizer
    ids = torch.tensor([tokenizer.encode(prompts.rewriting_prompt(one.instruction, one.response))])
    assert "<image><|endofchunk|>" in prompts.rewriting_prompt(one.instruction, one.response)
    pixels = model.preprocess(images.decode(one.images[0].data))[None, None, None]
    out = model.generate(pixels, ids, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_id)
    assert rewriter.rewrite([one]) == [tokenizer.decode(out[0, ids.shape[1] :].tolist()).strip()]


def test_the_images_matter_and_so_does_their_order(rewriter):
    first, second = picture(1), picture(3)
    texts = rewriter.rewrite([sample("x", pictures=[first, second]), sample("y", pictures=[second, first])])
    assert texts[0] != texts[1]


def test_a_bad_sample_is_reported_in_its_place_and_spoils_no_other(rewriter, samples):
    good = rewriter.rewrite(samples[:2])
    two_turns = dataclasses.replace(samples[3], turns=samples[3].turns * 2)
    bad = {
        "corrupt_image": sample("1", pictures=[Image(extension="jpg", data=b"no image at all")]),
        "empty_image": sample("2", pictures=[Image(extension="jpg", data=b"")]),
        "missing_image": dataclasses.replace(samples[0], images=()),
        "text_too_long": sample("3", "very " * 600),
        "bad_field": sample("4", "it says <image> on the sign", [picture(1)]),
        "unsupported": two_turns,
        "empty_response": sample("5", "  "),
    }
    results = rewriter.rewrite([samples[0], *bad.values(), samples[1]])
    assert [results[0], results[-1]] == good
    for reason, result in zip(bad, results[1:-1], strict=True):
        assert isinstance(result, BadSample)
        assert result.reason == reason
        assert "tiny/train/" in result.detail, "a reader must find the sample"


def test_one_broken_image_of_two_condemns_only_its_own_sample(rewriter):
    whole, broken = picture(1), Image(extension="png", data=picture(2).data[:-60])
    results = rewriter.rewrite([sample("1", pictures=[whole, broken]), sample("2", pictures=[whole])])
    assert isinstance(results[0], BadSample) and results[0].reason == "corrupt_image"
    assert isinstance(results[1], str)


def test_extreme_images_are_rewritten_in_bounded_memory(rewriter):
    results = rewriter.rewrite(
        [sample("dot", pictures=[picture(5, (1, 1))]), sample("strip", pictures=[picture(6, (20_000, 1))])]
    )
    assert all(isinstance(text, str) for text in results)


@pytest.mark.parametrize("attention", ["v1", "v2"])
def test_text_only_equals_the_references_black_image(tiny, attention):
    """The reference shows a black image that no tag points to; leaving it out gives the same ids."""
    rewriter = Rewriter(
        RewriterConfig(flamingo=dataclasses.replace(tiny.config, attention=attention), generation=GREEDY)
    )
    model, tokenizer, one = rewriter.model, rewriter.model.tokenizer, sample("t", "a man")
    ids = torch.tensor([tokenizer.encode(prompts.rewriting_prompt(one.instruction, one.response))])
    black = model.preprocess(images.black())[None, None, None]
    out = model.generate(
        black, ids, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_id, eos_token_id=rewriter._ends
    )
    text = rewriter.rewrite([one])[0]
    assert text == tokenizer.decode(out[0, ids.shape[1] :].tolist()).strip()
    assert text


def test_sampling_is_seeded_by_the_key_and_not_by_the_company(rewriter, samples):
    sampling = with_settings(rewriter, generation=SAMPLED)
    texts = sampling.rewrite(samples)
    assert texts == sampling.rewrite(samples)
    assert texts == [sampling.rewrite([one])[0] for one in samples]
    assert texts != rewriter.rewrite(samples)
    other = with_settings(rewriter, generation=dataclasses.replace(SAMPLED, seed=1)).rewrite(samples)
    assert texts != other
    renamed = [dataclasses.replace(one, key=one.key + "x") for one in samples]
    assert texts != sampling.rewrite(renamed)


def test_seeded_sampling_draws_from_the_distribution():
    """20,000 rows of the same three probabilities: the draws follow them (three sigma), the impossible is not drawn."""
    rows = 20_000
    scores = torch.tensor([0.7, 0.2, 0.1, 0.0]).log().expand(rows, -1)
    drawn = SeededSampling([seed_of(0, str(row)) for row in range(rows)])(torch.zeros(rows, 1), scores).argmax(-1)
    counts = torch.bincount(drawn, minlength=4) / rows
    for count, probability in zip(counts.tolist(), (0.7, 0.2, 0.1, 0.0), strict=True):
        assert abs(count - probability) <= 3 * (probability * (1 - probability) / rows) ** 0.5


def test_the_papers_defaults_run_and_repeat_themselves(rewriter, samples):
    paper = with_settings(rewriter, generation=GenerationConfig(max_new_tokens=8))
    assert paper.config.generation.num_beams == 3 and paper.config.generation.do_sample
    before = torch.random.get_rng_state()
    texts = paper.rewrite(samples)
    assert torch.equal(before, torch.random.get_rng_state()), "sampling must not disturb anyone else's randomness"
    torch.manual_seed(123)
    assert paper.rewrite(samples) == texts


def test_beams_and_sampling_are_passed_on():
    assert decoding_arguments(GREEDY, ["a"])["do_sample"] is False
    beams = decoding_arguments(GenerationConfig(), ["a"])
    assert (beams["num_beams"], beams["do_sample"], beams["top_k"], beams["top_p"]) == (3, True, 20, 0.9)
    assert beams["no_repeat_ngram_size"] == 3


def test_a_batch_that_does_not_fit_is_halved_until_it_does(rewriter, samples, monkeypatch):
    wanted = rewriter.rewrite(samples)
    sizes = []
    generate = rewriter.model.generate

    def cramped(vision_x, lang_x, *args, **kwargs):
        sizes.append(len(lang_x))
        if len(lang_x) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return generate(vision_x, lang_x, *args, **kwargs)

    monkeypatch.setattr(rewriter.model, "generate", cramped)
    assert with_settings(rewriter, batch_size=4).rewrite(samples) == wanted
    assert sizes == [4, 2, 1, 1, 2, 1, 1, 1]

    def hopeless(*args, **kwargs):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(rewriter.model, "generate", hopeless)
    results = rewriter.rewrite(samples)
    assert all(isinstance(r, BadSample) and r.reason == "rewriting_failed" for r in results)


def test_a_failing_model_raises(rewriter, samples, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(rewriter.model, "generate", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        rewriter.rewrite(samples)


@pytest.mark.parametrize(
    "wrong",
    [{"max_new_tokens": 0}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"num_beams": 0}, {"top_k": -1}],
)
def test_settings_that_nobody_can_honour_are_refused(wrong):
    with pytest.raises(ValueError, match="generation"):
        GenerationConfig(**wrong)
