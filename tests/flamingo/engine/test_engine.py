"""The engine generates the same tokens as open_flamingo with transformers' `generate`, only faster."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.flamingo.config import EngineConfig, LoraSettings
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.sampling import Ngrams, SamplingParams
from polite_flamingo.flamingo.model.lora import add_lora
from polite_flamingo.images import decoding as images
from tests.support.engine_requests import NEW, PICTURES, decoding, fresh, prompts, stop_token_ids_of, texts

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

PROMPTS = 90
"""Prompts per model; with six models, 540 in all."""


def by_generate(model: FlamingoModel, request: Request, ends: Sequence[int]) -> list[int]:
    """Return what transformers answers to this prompt alone."""
    if request.images:
        pixels = torch.stack([model.preprocess(images.decode(data)) for data in request.images])[None, :, None]
    else:
        pixels = torch.zeros(1, 1, *model.latents_shape)
    ids = torch.tensor([request.ids])
    out = model.generate(
        pixels, ids, torch.ones_like(ids), max_new_tokens=request.params.max_new_tokens, do_sample=False, num_beams=1,
        no_repeat_ngram_size=request.params.no_repeat_ngram_size, eos_token_id=list(ends),
        pad_token_id=model.tokenizer.pad_id, suppress_tokens=[model.tokenizer.image_id],
    )[0, len(request.ids) :].tolist()  # fmt: skip
    end = next((place for place, token in enumerate(out) if token in ends), len(out))
    return out[:end]


@pytest.mark.parametrize("kind", ["tiny", "tiny_grouped", "tiny_mpt"])
@pytest.mark.parametrize("attention", ["v1", "v2"])
def test_greedy_tokens_are_those_of_generate(
    kind: str, attention: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = request.getfixturevalue(kind).load(attention=attention)
    wanted = prompts(model, PROMPTS, seed=len(kind))
    expected = [by_generate(model, one, stop_token_ids_of(model)) for one in wanted]
    assert texts(model, fresh(wanted), slots=8) == expected
    monkeypatch.setattr("polite_flamingo.flamingo.model.layers.compiled", lambda x: False)
    assert texts(model, fresh(wanted), slots=8) == expected, "with torch alone, as on a GPU"
    assert len({tuple(tokens) for tokens in expected}) > PROMPTS / 2, "the prompts must matter"
    assert len({len(tokens) for tokens in expected}) > 2, "texts must end anywhere"


@pytest.fixture(scope="module")
def known(tiny) -> tuple[FlamingoModel, list[Request], list[list[int]]]:  # type: ignore[no-untyped-def]
    model = tiny.load()
    wanted = prompts(model, 24, seed=5)
    return model, wanted, texts(model, fresh(wanted), slots=24)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), slots=st.integers(1, 9), budget=st.sampled_from([1, 7, 50, 5000]), prefixes=st.integers(0, 3))
def test_any_arrival_slots_and_chunks_give_the_same_tokens(
    known: tuple[FlamingoModel, list[Request], list[list[int]]],
    data: st.DataObject,
    slots: int,
    budget: int,
    prefixes: int,
) -> None:
    model, wanted, expected = known
    requests = fresh(wanted)
    engine = Engine(
        model,
        EngineConfig(slots=slots, prefill_tokens=budget, prefixes=prefixes),
        stop_token_ids=stop_token_ids_of(model),
        shared_prefix_ids=wanted[0].ids[:9],
    )
    order = data.draw(st.permutations(range(len(requests))))
    for number in order:
        engine.submit(requests[number])
        for _ in range(data.draw(st.integers(0, 2))):
            engine.step()
    while not engine.idle:
        engine.step()
    assert [request.tokens for request in requests] == expected


def test_attached_lora_is_decoded_as_merged_lora(tiny) -> None:  # type: ignore[no-untyped-def]
    model = tiny.load()
    add_lora(model, LoraSettings(r=4, alpha=8.0))
    with torch.no_grad():
        for name, parameter in model.lang_encoder.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2)
    wanted = prompts(model, 20, seed=3)
    expected = [by_generate(model, one, stop_token_ids_of(model)) for one in wanted]
    assert texts(model, fresh(wanted), slots=5) == expected
    assert texts(tiny.load(), fresh(wanted), slots=5) != expected, "the adapter must matter"


def test_a_draw_hangs_on_its_seed_alone(known: tuple[FlamingoModel, list[Request], list[list[int]]]) -> None:
    model, wanted, greedy = known
    drawing = SamplingParams(max_new_tokens=NEW, temperature=1.5, top_k=50, top_p=0.95)
    requests = [
        Request(ids=one.ids, images=one.images, params=replace(drawing, seed=number))
        for number, one in enumerate(wanted)
    ]
    drawn = texts(model, fresh(requests), slots=24)
    assert drawn != greedy
    for slots in (1, 5):
        assert texts(model, fresh(requests), slots=slots) == drawn
    assert texts(model, fresh(requests[::-1]), slots=4) == drawn[::-1]
    other = [replace(one, params=replace(one.params, seed=99), tokens=[]) for one in requests]
    assert texts(model, fresh(other), slots=24) != drawn


def test_what_fails_alone_fails_alone(known: tuple[FlamingoModel, list[Request], list[list[int]]]) -> None:
    model, wanted, expected = known
    tag = model.tokenizer.image_id
    bad = [
        Request(ids=[5, tag, 6], images=[b"no image"], params=decoding(0)),
        Request(ids=[5, tag, 6], images=[], params=decoding(0)),
        Request(ids=[5] * 600, params=decoding(0)),
        Request(ids=[], params=decoding(0)),
    ]
    good = fresh(wanted)
    engine = Engine(model, EngineConfig(slots=4), stop_token_ids=stop_token_ids_of(model))
    engine.generate([*good[:10], *bad, *good[10:]])
    assert [request.tokens for request in good] == expected
    assert [request.error.reason for request in bad if request.error] == [
        "corrupt_image", "bad_field", "text_too_long", "text_too_long",
    ]  # fmt: skip


def test_a_cancelled_request_leaves_its_slot_to_others(
    known: tuple[FlamingoModel, list[Request], list[list[int]]],
) -> None:
    model, wanted, expected = known
    requests = fresh(wanted)
    engine = Engine(model, EngineConfig(slots=3), stop_token_ids=stop_token_ids_of(model))
    for request in requests:
        engine.submit(request)
    engine.step()
    engine.step()
    for number in (0, 1, 20):  # two that decode, one that waits
        engine.cancel(requests[number])
        engine.cancel(requests[number])
    while not engine.idle:
        engine.step()
    for number, request in enumerate(requests):
        if number in (0, 1, 20):
            assert request.tokens == expected[number][: len(request.tokens)]
            assert request.finish_reason in ("cancelled", "stop", "length")
        else:
            assert request.tokens == expected[number]
    assert engine.metrics.cancelled == sum(request.finish_reason == "cancelled" for request in requests) >= 1


def test_too_little_memory_halves_the_slots_and_loses_nothing(
    known: tuple[FlamingoModel, list[Request], list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wanted, expected = known
    engine = Engine(model, EngineConfig(slots=16), stop_token_ids=stop_token_ids_of(model))
    step = engine.decoder.step

    def tight(ids: torch.Tensor, *more: object) -> torch.Tensor:
        if len(ids) > 5:
            raise torch.OutOfMemoryError("as a GPU would say")
        return step(ids, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.decoder, "step", tight)
    requests = fresh(wanted)
    engine.generate(requests)
    assert [request.tokens for request in requests] == expected
    assert engine.slots <= 5


def test_a_request_that_no_memory_holds_is_the_only_one_to_fail(
    known: tuple[FlamingoModel, list[Request], list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wanted, expected = known
    engine = Engine(model, EngineConfig(slots=8), stop_token_ids=stop_token_ids_of(model))
    prefill = engine.decoder.prefill
    longest = max(len(one.ids) for one in wanted)

    def tight(ids: torch.Tensor, *more: object) -> torch.Tensor:
        if ids.shape[1] >= longest:
            raise torch.OutOfMemoryError("as a GPU would say")
        return prefill(ids, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.decoder, "prefill", tight)
    requests = fresh(wanted)
    engine.generate(requests)
    for request, tokens in zip(requests, expected, strict=True):
        if len(request.ids) == longest:
            assert request.error is not None and request.error.reason == "rewriting_failed"
        else:
            assert request.tokens == tokens
    assert engine.slots == 8, "what was too much is gone"


@pytest.mark.parametrize("where", ["new_cache", "image_kv"])
def test_memory_that_lacks_while_requests_are_admitted_loses_none(
    known: tuple[FlamingoModel, list[Request], list[list[int]]], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """There is no memory for the cache, or for the images: requests taken from the queue go back to it."""
    model, wanted, expected = known
    engine = Engine(model, EngineConfig(slots=16), stop_token_ids=stop_token_ids_of(model))
    real = getattr(engine.decoder, where)

    def tight(amount: int | torch.Tensor, *more: int) -> object:
        if (amount if isinstance(amount, int) else len(amount)) > 4:
            raise torch.OutOfMemoryError("as a GPU would say")
        return real(amount, *more)

    monkeypatch.setattr(engine.decoder, where, tight)
    requests = fresh(wanted)
    engine.generate(requests)
    assert [request.tokens for request in requests] == expected
    assert engine.slots < 16


def test_images_and_beginnings_are_done_once(tiny) -> None:  # type: ignore[no-untyped-def]
    model = tiny.load()
    tag = model.tokenizer.image_id
    start = [11, 12, 13, 14]
    asked = [
        Request(ids=[*start, tag, 20 + number, 30], images=[PICTURES[number % 2]], params=decoding(0))
        for number in range(12)
    ]
    expected = [by_generate(model, one, stop_token_ids_of(model)) for one in asked]
    engine = Engine(model, EngineConfig(slots=2), stop_token_ids=stop_token_ids_of(model), shared_prefix_ids=start)
    engine.generate(asked)
    assert [one.tokens for one in asked] == expected
    assert engine.image_cache.misses == 2
    assert engine.metrics.reused == 10 * 5, "all but the first of each picture begin behind the tag"
    assert engine.metrics.prefilled + engine.metrics.reused == 12 * 7


def test_stop_texts_and_lengths_end_a_request(known: tuple[FlamingoModel, list[Request], list[list[int]]]) -> None:
    model, wanted, expected = known
    number = next(n for n, tokens in enumerate(expected) if len(tokens) == NEW)
    stop = model.tokenizer.decode(expected[number][4:6])
    one = Request(
        ids=wanted[number].ids, images=wanted[number].images, params=replace(wanted[number].params, stop=(stop,))
    )
    two = Request(ids=one.ids, images=one.images, params=replace(wanted[number].params, max_new_tokens=3))
    three = Request(ids=one.ids, images=one.images, params=replace(one.params, stop=("never said", stop + "\n\n")))
    Engine(model, EngineConfig(slots=2), stop_token_ids=stop_token_ids_of(model)).generate([one, two, three])
    decode = model.tokenizer.decode
    assert one.finish_reason == "stop" and len(one.tokens) <= 6 and stop in decode(one.tokens)
    assert one.text == decode(one.tokens)[: decode(one.tokens).index(stop)], "the stop text is cut off the text"
    assert two.finish_reason == "length" and two.tokens == expected[number][:3] and two.text == decode(two.tokens)
    assert three.tokens == expected[number] and three.text == decode(three.tokens), "nothing that was held back is lost"


def test_a_stop_text_is_found_where_decoding_everything_finds_it(
    known: tuple[FlamingoModel, list[Request], list[list[int]]],
) -> None:
    """The stop string has one to three tokens, or letters across tokens, whatever shares its batch."""
    model, wanted, expected = known
    decode, rng = model.tokenizer.decode, random.Random(0)
    requests, ends = [], []
    for one, tokens in zip(wanted, expected, strict=True):
        text = decode(tokens)
        clean = re.findall("[^\N{REPLACEMENT CHARACTER}]{3,}", text[1:])  # random models often split letters
        if not clean:
            continue
        found = rng.choice(clean)
        start = rng.randrange(len(found) - 2)
        stop = found[start : start + rng.randint(1, 3)]
        requests.append(Request(ids=one.ids, images=one.images, params=replace(one.params, stop=(stop,))))
        end = next(count for count in range(1, len(tokens) + 1) if stop in decode(tokens[:count]))
        ends.append((tokens[:end], text[: text.index(stop)]))
    assert len(requests) >= 10
    texts(model, requests, slots=3)
    assert [(one.tokens, one.text) for one in requests] == ends


@given(history=st.lists(st.integers(0, 3), max_size=40), size=st.integers(1, 4), start=st.integers(0, 40))
def test_banned_tokens_are_those_that_end_an_ngram_of_the_history(history: list[int], size: int, start: int) -> None:
    ngrams = Ngrams(size, history[:start])
    for token in history[start:]:
        ngrams.add(token)
    last = history[len(history) - size + 1 :]
    repeated = {
        history[place + size - 1]
        for place in range(len(history) - size + 1)
        if history[place : place + size - 1] == last
    }
    assert set(ngrams.repeated_by()) == repeated
