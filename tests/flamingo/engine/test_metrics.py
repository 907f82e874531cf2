"""The engine's figures agree with the work as torch and the tests count it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from polite_flamingo.flamingo.config import EngineConfig
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.metrics import CAUSES, Metrics, merged
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.roofline import Ceilings
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from polite_flamingo.flamingo.model.checkpoint import load_flamingo
from tests.support.engine_requests import PICTURES, stop_token_ids_of

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


@pytest.fixture(scope="module")
def model(tiny) -> FlamingoModel:  # type: ignore[no-untyped-def]
    return tiny.load()


def engine_of(model: FlamingoModel, **config: int) -> Engine:
    return Engine(model, EngineConfig(**config), stop_token_ids=[model.tokenizer.eos_id])


def asked(*lengths: int, new: int = 6) -> list[Request]:
    return [
        Request(ids=[5 + n] * length, params=SamplingParams(max_new_tokens=new)) for n, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("kind", ["tiny", "tiny_grouped", "tiny_mpt"])
@pytest.mark.parametrize("shown", [0, 1])
def test_operations_are_those_that_torch_counts(kind: str, shown: int, request: pytest.FixtureRequest) -> None:
    """For a prompt and for a step. Torch also counts attention to masked positions; the required ones are fewer."""
    # in float64 all of it is torch's; some of float32 and bfloat16 is compiled by hand, which torch does not see
    model = load_flamingo(request.getfixturevalue(kind).config, dtype=torch.float64)
    engine = Engine(model, EngineConfig(slots=2), stop_token_ids=[])
    tokens = 7 + shown
    one = Request(ids=[model.tokenizer.image_id] * shown + [9] * 7, images=PICTURES[:shown], params=SamplingParams())
    engine.submit(one)
    engine.image_cache.get(dict(zip(one.digests, one.images, strict=True)))  # encoding is not in the count
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused kernels are not counted
        engine.step()
    decoder, metrics = engine.decoder, engine.metrics
    needed = tokens * (tokens + 1) // 2
    masked = 4 * decoder.heads * decoder.width * (len(decoder.layers) - 1) * (tokens**2 - needed)
    assert metrics.steps == 1 and metrics.prefilled == tokens
    assert metrics.flops["prefill"] + metrics.flops["decode"] + masked == counter.get_total_flops()
    before = metrics.flops["decode"]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused kernels are not counted
        engine.step()
    assert metrics.flops["decode"] - before == counter.get_total_flops() > 0


@pytest.mark.parametrize("attention", ["v1", "v2"])
def test_bytes_are_those_of_the_weights_and_of_what_rows_see(tiny, attention: str) -> None:  # type: ignore[no-untyped-def]
    model = tiny.load(attention=attention)
    engine = Engine(model, EngineConfig(slots=2), stop_token_ids=[])
    matrices = {
        name: parameter.numel() * parameter.element_size()
        for name, parameter in model.lang_encoder.named_parameters()
        if parameter.ndim == 2 and "to_kv" not in name
    }  # the embedding is the output head as well
    queries = sum(size for name, size in matrices.items() if "to_q" in name or "to_out" in name)
    media = engine.image_cache.get({"it": PICTURES[0]})["it"]
    image = 2 * media.keys.numel() * media.keys.element_size()  # type: ignore[union-attr]
    tag = model.tokenizer.image_id
    for ids in ([5, tag, 6, 7], [5, 6, 7, 8, 9]):
        engine.submit(Request(ids=ids, images=PICTURES[:1] if tag in ids else [], params=SamplingParams()))
    engine.step()
    assert engine.metrics.steps == 1
    place = engine._slots.cache.data[:, :, 0, :, 0].numel() * 4  # type: ignore[union-attr]
    prompt = sum(matrices.values()) + 9 * place + image
    assert engine.metrics.bytes["prefill"] == prompt
    seen = image if attention == "v2" else -queries  # v1: generated tokens see no image, and make no query for one
    assert engine.metrics.bytes["decode"] == sum(matrices.values()) + (5 + 6) * place + seen


def test_a_run_is_told(model: FlamingoModel) -> None:
    tag = model.tokenizer.image_id
    requests = [
        Request(
            ids=[5, tag, 20 + n, *[30] * (n % 3)], images=[PICTURES[n % 2]], params=SamplingParams(max_new_tokens=4)
        )
        for n in range(12)
    ]
    engine = Engine(model, EngineConfig(slots=4), stop_token_ids=stop_token_ids_of(model))
    engine.generate(requests)
    told = engine.metrics.summary()
    assert json.loads(json.dumps(told)) == told
    assert told["prompt_tokens"] + told["reused_prompt_tokens"] == sum(len(one.ids) for one in requests)
    assert told["generated_tokens"] == sum(len(one.tokens) + (len(one.tokens) < 4) for one in requests)
    assert (told["images"], told["encoded_images"], told["image_hit_rate"]) == (12, 2, pytest.approx(10 / 12))
    assert 0 < told["occupancy"] <= 1 and told["prefill_tokens_per_second"] > 0 and told["decode_tokens_per_second"] > 0
    assert {f"seconds_{cause}" for cause in CAUSES} <= set(told)
    assert all(told[f"seconds_{cause}"] > 0 for cause in CAUSES)
    total = engine.metrics.slot_seconds / 4
    assert sum(told[f"seconds_{cause}"] for cause in CAUSES) == pytest.approx(total), "no second is lost from sight"


def test_prompts_of_unlike_length_are_padded(model: FlamingoModel) -> None:
    engine = engine_of(model, slots=3, prefixes=0)
    engine.generate(asked(3, 7, 7))
    assert (engine.metrics.prefilled, engine.metrics.padded) == (17, 4)
    assert engine.metrics.summary()["padding"] == pytest.approx(4 / 21)


def test_slots_that_nobody_wants_and_slots_held_back(model: FlamingoModel) -> None:
    lonely = engine_of(model, slots=4)
    lonely.generate(asked(5))
    assert lonely.metrics.unwanted == pytest.approx(0.75 * lonely.metrics.slot_seconds)
    assert lonely.metrics.held_back == 0
    assert lonely.metrics.summary()["occupancy"] == 0.25
    # as soon as one slot is free, or only when both are
    for refills, held_back in ((2, False), (1, True)):
        engine = engine_of(model, slots=2, refills=refills)
        engine.generate([one for new in (2, 9, 9, 8) for one in asked(4, new=new)])
        assert (engine.metrics.held_back > 0) == held_back
        assert engine.metrics.unwanted > 0, "the last one is alone"


def test_use_is_a_share_of_the_ceilings() -> None:
    metrics = Metrics(prefilled=10, generated=20, steps=5, occupied=15, offered=20)
    metrics.seconds |= {"prefill": 2.0, "decode": 4.0, "choose": 1.0}
    metrics.bytes |= {"prefill": 100.0, "decode": 800.0}
    metrics.flops |= {"prefill": 6000.0, "decode": 400.0}
    told = metrics.summary(Ceilings(flops=10_000.0, bytes_per_second=400.0))
    assert (told["decode_bytes_per_second"], told["prefill_flops_per_second"]) == (200.0, 3000.0)
    assert (told["decode_bandwidth_utilisation"], told["decode_flop_utilisation"]) == (0.5, 0.01)
    assert (told["decode_of_floor"], told["prefill_of_floor"]) == (0.5, 0.3), "by what binds"
    assert (told["prefill_tokens_per_second"], told["decode_tokens_per_second"]) == (5.0, 3.0)
    assert "decode_of_floor" not in metrics.summary()


def test_what_has_not_happened_is_nought() -> None:
    assert set(Metrics().summary(Ceilings(1.0, 1.0)).values()) == {0.0}


def test_engines_side_by_side_are_summed(model: FlamingoModel) -> None:
    engines = [engine_of(model, slots=2) for _ in range(3)]
    for engine in engines:
        engine.generate(asked(3, 7))
    told, one = merged(engine.metrics for engine in engines), engines[0].metrics
    assert (told.prefilled, told.generated, told.offered) == (30, 3 * one.generated, 3 * one.offered)
    assert told.flops["decode"] == 3 * one.flops["decode"]
    assert sum(told.seconds.values()) == pytest.approx(sum(sum(each.metrics.seconds.values()) for each in engines))
    assert told.summary()["occupancy"] == one.summary()["occupancy"]
    assert merged([]).summary() == Metrics().summary()
