"""The rewriter on a tiny random model: its texts are nonsense, but must always be the same nonsense."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import pytest
import torch
from PIL import Image as Pillow

from polite_flamingo import prompts
from polite_flamingo.flamingo.config import EngineConfig, GenerationConfig, RewriterConfig
from polite_flamingo.flamingo.engine.beam_search import BeamSearch, arguments
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.sampling import SamplingParams, sample_tokens, seed_of, uniforms
from polite_flamingo.images import decoding
from polite_flamingo.packing.chat_turns import Exchange, conversation_ids
from polite_flamingo.prompts import chat_prompt
from polite_flamingo.rewriters.flamingo import Rewriter, chatting, shared_prefix
from polite_flamingo.sample import BadSample, Image, Sample, Turn

GREEDY = GenerationConfig(max_new_tokens=12, num_beams=1, do_sample=False, no_repeat_ngram_size=0)
BEAMS = dataclasses.replace(GREEDY, num_beams=3)
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
    """Samples of many lengths with zero, one and two images, one of them shared."""
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
    return Rewriter(RewriterConfig(flamingo=tiny.config, generation=GREEDY, engine=EngineConfig(slots=3)))


def with_settings(rewriter: Rewriter, **changes: object) -> Rewriter:
    """The same loaded model under another configuration."""
    return Rewriter(dataclasses.replace(rewriter.config, **changes), rewriter.model)


def test_every_sample_gets_its_text_in_order_whatever_the_batches(rewriter, samples):
    texts = rewriter.texts(samples)
    assert all(isinstance(text, str) and text for text in texts)
    assert len(set(texts)) == len(texts), "five prompts, five texts"
    assert rewriter.texts(samples) == texts
    for slots in (1, 2, 5):
        assert with_settings(rewriter, engine=EngineConfig(slots=slots)).texts(samples) == texts
    assert rewriter.texts(samples[::-1]) == texts[::-1]
    assert [rewriter.texts([one])[0] for one in samples] == texts
    assert rewriter.texts([]) == []


def test_the_text_is_what_generate_says_to_the_protocols_prompt(rewriter, samples):
    one = samples[0]
    model, tokenizer = rewriter.model, rewriter.model.tokenizer
    ids = torch.tensor([tokenizer.encode(prompts.rewriting_prompt(one.instruction, one.response))])
    assert "<image><|endofchunk|>" in prompts.rewriting_prompt(one.instruction, one.response)
    pixels = model.preprocess(decoding.decode(one.images[0].data))[None, None, None]
    out = model.generate(pixels, ids, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_id)
    assert rewriter.texts([one]) == [tokenizer.decode(out[0, ids.shape[1] :].tolist()).strip()]


@pytest.mark.parametrize("kind", ["tiny", "tiny_grouped", "tiny_mpt"])
@pytest.mark.parametrize("attention", ["v1", "v2"])
def test_the_engine_writes_what_plain_generate_writes(kind, attention, samples, request):
    config = dataclasses.replace(request.getfixturevalue(kind).config, attention=attention)
    generation = dataclasses.replace(GREEDY, max_new_tokens=24, no_repeat_ngram_size=3)
    rewriter = Rewriter(RewriterConfig(flamingo=config, generation=generation, engine=EngineConfig(slots=2)))
    assert isinstance(rewriter.engine, Engine)
    texts = rewriter.texts(samples)
    rewriter.engine = BeamSearch(rewriter.model, generation, stop_token_ids=rewriter.engine.stop_token_ids, batch=2)
    assert rewriter.texts(samples) == texts
    assert len(set(texts)) == len(texts)


def test_images_and_the_systems_message_are_done_once_for_all_calls(tiny, samples):
    rewriter = Rewriter(RewriterConfig(flamingo=tiny.config, generation=GREEDY))
    texts = rewriter.texts(samples)
    assert rewriter.engine.image_cache.misses == 4, "five pictures, one of them twice"
    reused = rewriter.engine.metrics.reused
    assert rewriter.texts(samples) == texts
    assert rewriter.engine.image_cache.misses == 4
    shared = shared_prefix(rewriter.model.tokenizer)
    assert rewriter.model.tokenizer.decode(shared) in prompts.rewriting_prompt("<image>Why?", "Answer: so")
    assert len(shared) > 10
    assert rewriter.engine.metrics.reused - reused >= len(samples) * len(shared)
    assert rewriter.metrics()["image_hit_rate"] == 1 - 4 / 10


def test_the_images_matter_and_so_does_their_order(rewriter):
    first, second = picture(1), picture(3)
    texts = rewriter.texts([sample("x", pictures=[first, second]), sample("y", pictures=[second, first])])
    assert texts[0] != texts[1]


@pytest.mark.parametrize("generation", [GREEDY, BEAMS], ids=["engine", "beams"])
def test_a_bad_sample_is_reported_in_its_place_and_spoils_no_other(rewriter, samples, generation):
    rewriter = with_settings(rewriter, generation=generation)
    good = rewriter.texts(samples[:2])
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
    results = rewriter.texts([samples[0], *bad.values(), samples[1]])
    assert [results[0], results[-1]] == good
    for reason, result in zip(bad, results[1:-1], strict=True):
        assert isinstance(result, BadSample)
        assert result.reason == reason
        assert "tiny/train/" in result.detail, "a reader must find the sample"


@pytest.mark.parametrize("generation", [GREEDY, BEAMS], ids=["engine", "beams"])
def test_one_broken_image_of_two_condemns_only_its_own_sample(rewriter, generation):
    rewriter = with_settings(rewriter, generation=generation)
    whole, broken = picture(1), Image(extension="png", data=picture(2).data[:-60])
    results = rewriter.texts([sample("1", pictures=[whole, broken]), sample("2", pictures=[whole])])
    assert isinstance(results[0], BadSample) and results[0].reason == "corrupt_image"
    assert results[0].detail.startswith("tiny/train/1: image 1: ")
    assert isinstance(results[1], str)


def test_extreme_images_are_rewritten_in_bounded_memory(rewriter):
    results = rewriter.texts(
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
    black = model.preprocess(decoding.black())[None, None, None]
    out = model.generate(
        black, ids, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_id,
        eos_token_id=list(rewriter.engine.stop_token_ids),
    )  # fmt: skip
    text = rewriter.texts([one])[0]
    assert text == tokenizer.decode(out[0, ids.shape[1] :].tolist()).strip()
    assert text


def test_sampling_is_seeded_by_the_key_and_not_by_the_company(rewriter, samples):
    sampling = with_settings(rewriter, generation=SAMPLED)
    texts = sampling.texts(samples)
    assert texts == sampling.texts(samples)
    assert texts == [sampling.texts([one])[0] for one in samples]
    assert texts != rewriter.texts(samples)
    other = with_settings(rewriter, generation=dataclasses.replace(SAMPLED, seed=1)).texts(samples)
    assert texts != other
    renamed = [dataclasses.replace(one, key=one.key + "x") for one in samples]
    assert texts != sampling.texts(renamed)


def test_samples_draw_from_the_distribution():
    """20,000 keys with the same three probabilities: samples follow them (three sigma), and never an impossible one."""
    rows = 20_000
    scores = torch.tensor([0.7, 0.2, 0.1, 0.0]).log().expand(rows, -1)
    draws = [float(uniforms(seed_of(0, str(row)), 1)[0]) for row in range(rows)]
    counts = torch.bincount(sample_tokens(scores, [SamplingParams(temperature=1.0)] * rows, draws), minlength=4) / rows
    for count, probability in zip(counts.tolist(), (0.7, 0.2, 0.1, 0.0), strict=True):
        assert abs(count - probability) <= 3 * (probability * (1 - probability) / rows) ** 0.5


def test_the_papers_defaults_run_and_repeat_themselves(rewriter, samples):
    paper = with_settings(rewriter, generation=GenerationConfig(max_new_tokens=8))
    assert paper.config.generation.num_beams == 3 and paper.config.generation.do_sample
    before = torch.random.get_rng_state()
    texts = paper.texts(samples)
    assert torch.equal(before, torch.random.get_rng_state()), "sampling must not disturb anyone else's randomness"
    torch.manual_seed(123)
    assert paper.texts(samples) == texts
    other = with_settings(rewriter, generation=GenerationConfig(max_new_tokens=8, seed=1))
    assert other.texts(samples) != texts


def test_beams_find_other_texts_than_greed_whatever_the_batches(rewriter, samples):
    searching = with_settings(rewriter, generation=BEAMS, beam_batch=2)
    texts = searching.texts(samples)
    assert texts != rewriter.texts(samples)
    assert with_settings(rewriter, generation=BEAMS, beam_batch=5).texts(samples) == texts


def test_beams_and_sampling_are_passed_on():
    assert arguments(BEAMS) == {
        "max_new_tokens": 12, "no_repeat_ngram_size": 0, "num_beams": 3, "do_sample": False, "length_penalty": 1.0,
    }  # fmt: skip
    sampled = arguments(GenerationConfig())
    assert (sampled["num_beams"], sampled["do_sample"], sampled["top_k"], sampled["top_p"]) == (3, True, 20, 0.9)
    assert (sampled["temperature"], sampled["no_repeat_ngram_size"]) == (1.0, 3)


def test_a_beam_batch_that_does_not_fit_is_halved_until_it_does(rewriter, samples, monkeypatch):
    wanted = with_settings(rewriter, generation=BEAMS).texts(samples)
    sizes = []
    generate = rewriter.model.generate

    def cramped(vision_x, lang_x, *args, **kwargs):
        sizes.append(len(lang_x))
        if len(lang_x) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return generate(vision_x, lang_x, *args, **kwargs)

    monkeypatch.setattr(rewriter.model, "generate", cramped)
    assert with_settings(rewriter, generation=BEAMS, beam_batch=4).texts(samples) == wanted
    assert sizes == [4, 2, 1, 1, 2, 1, 1, 1]

    def hopeless(*args, **kwargs):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(rewriter.model, "generate", hopeless)
    results = with_settings(rewriter, generation=BEAMS).texts(samples)
    assert all(isinstance(r, BadSample) and r.reason == "rewriting_failed" for r in results)
    assert all(one.key in result.detail for one, result in zip(samples, results, strict=True))


def test_what_no_memory_holds_fails_with_its_key(tiny, samples, monkeypatch):
    rewriter = Rewriter(RewriterConfig(flamingo=tiny.config, generation=GREEDY, engine=EngineConfig(slots=4)))
    wanted = rewriter.texts(samples)
    prefill = rewriter.engine.decoder.prefill
    longest = max(samples, key=lambda one: len(rewriter._request(one).ids))
    size = len(rewriter._request(longest).ids)

    def cramped(ids, positions, *args, **kwargs):
        if int(positions.max()) + 1 >= size:
            raise torch.OutOfMemoryError("out of memory")
        return prefill(ids, positions, *args, **kwargs)

    monkeypatch.setattr(rewriter.engine.decoder, "prefill", cramped)
    results = rewriter.texts(samples)
    for one, result, text in zip(samples, results, wanted, strict=True):
        if one is longest:
            assert isinstance(result, BadSample) and result.reason == "rewriting_failed" and one.key in result.detail
        else:
            assert result == text


def test_a_failing_model_raises_and_leaves_nothing_behind(tiny, samples, monkeypatch):
    """The guard then retries with fewer samples, which must not meet remains of the others."""
    rewriter = Rewriter(RewriterConfig(flamingo=tiny.config, generation=GREEDY, engine=EngineConfig(slots=2)))
    texts = rewriter.texts(samples)
    step = rewriter.engine.decoder.step
    steps = []

    def broken(*args, **kwargs):
        steps.append(args)
        if len(steps) > 3:
            raise RuntimeError("device-side assert")
        return step(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(rewriter.engine.decoder, "step", broken)
        with pytest.raises(RuntimeError, match="device-side assert"):
            rewriter.texts(samples)
    assert rewriter.engine.idle
    assert rewriter.texts(samples[1:]) == texts[1:]


def test_a_beam_search_that_fails_raises(rewriter, samples, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(rewriter.model, "generate", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        with_settings(rewriter, generation=BEAMS).texts(samples)


@pytest.mark.parametrize(
    "wrong",
    [{"max_new_tokens": 0}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"num_beams": 0}, {"top_k": -1}],
)
def test_settings_that_nobody_can_honour_are_refused(wrong):
    with pytest.raises(ValueError, match="generation"):
        GenerationConfig(**wrong)


def test_a_model_that_chats_answers_the_last_turn_after_the_turns_before(rewriter: Rewriter, samples) -> None:
    chat = Rewriter(rewriter.config, rewriter.model, chatting)
    first = samples[0]
    second = Turn(instruction="And the woman?", response="never read")

    def prompt_of(answer: str) -> list[int]:
        turns = (dataclasses.replace(first.turns[0], response=answer), second)
        return chat._request(dataclasses.replace(first, turns=turns)).ids

    ids = prompt_of("he runs")
    assert ids == conversation_ids(
        [
            Exchange(prompt=chat_prompt(first.instruction), target="he runs", images=1),
            Exchange(prompt=chat_prompt(second.instruction, first=False), target="", images=0),
        ],
        rewriter.model.tokenizer,
    )
    assert ids != prompt_of("he sits")
    [text] = chat.texts([dataclasses.replace(first, turns=(first.turns[0], second))])
    assert isinstance(text, str)
