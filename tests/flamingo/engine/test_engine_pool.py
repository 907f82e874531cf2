"""Several engines divide the work: same texts, requests about one image together, failures reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from polite_flamingo.flamingo.config import EngineConfig, GenerationConfig, RewriterConfig
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.engine_pool import EnginePool, shares
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.model.checkpoint import save_flamingo
from polite_flamingo.rewriters.flamingo import Rewriter
from tests.support.engine_requests import fresh, prompts, stop_token_ids_of, texts


def test_the_texts_are_those_of_one_engine(tiny) -> None:  # type: ignore[no-untyped-def]
    model = tiny.load()
    wanted = prompts(model, 40, seed=6)
    expected = texts(model, fresh(wanted), slots=8)
    engines = EnginePool(
        [Engine(model, EngineConfig(slots=4), stop_token_ids=stop_token_ids_of(model)) for _ in range(3)]
    )
    engines.generate(wanted)
    assert [one.tokens for one in wanted] == expected
    assert all(engine.metrics.generated > 0 for engine in engines.engines), "all of them worked"


def test_requests_of_the_same_images_stay_together_and_loads_are_even() -> None:
    wanted = [Request(ids=[1] * length, images=[b"a" * (length % 7)]) for length in range(10, 80)]
    wanted += [Request(ids=[1] * 30) for _ in range(20)]
    dealt = shares(wanted, 3)
    assert sorted(id(one) for share in dealt for one in share) == sorted(map(id, wanted))
    homes = [
        {number for number, share in enumerate(dealt) if any(r.images == [b"a" * n] for r in share)} for n in range(7)
    ]
    assert all(len(home) == 1 for home in homes)
    loads = [sum(len(one.ids) for one in share) for share in dealt]
    assert max(loads) - min(loads) < 600


def test_what_one_engine_raises_is_raised_and_the_others_finish(tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    model = tiny.load()
    engines = EnginePool(
        [Engine(model, EngineConfig(slots=4), stop_token_ids=stop_token_ids_of(model)) for _ in range(2)]
    )

    def broken(*given: object) -> None:
        raise RuntimeError("a cable came loose")

    wanted = prompts(model, 20, seed=2)
    with monkeypatch.context() as patched:
        patched.setattr(engines.engines[0].decoder, "prefill", broken)
        with pytest.raises(RuntimeError, match="cable"):
            engines.generate(wanted)
    assert all(one.done for one in wanted)
    assert {one.finish_reason for one in wanted} >= {"cancelled"}
    assert any(one.finish_reason in ("stop", "length") for one in wanted)
    again = fresh(wanted)
    engines.generate(again)
    assert all(one.finish_reason in ("stop", "length") for one in again)


def test_a_rewriter_makes_as_many_as_it_is_told(tiny) -> None:  # type: ignore[no-untyped-def]
    generation = GenerationConfig(max_new_tokens=4, num_beams=1, do_sample=False, no_repeat_ngram_size=0)
    config = RewriterConfig(flamingo=tiny.config, generation=generation, engine=EngineConfig(copies=2), device="cpu")
    decoder = Rewriter(config).engine
    assert isinstance(decoder, EnginePool)
    assert len(decoder.engines) == 2
    with pytest.raises(ValueError, match="copies"):
        EngineConfig(copies=0)


def test_weights_are_there_once_however_many_engines(tiny) -> None:  # type: ignore[no-untyped-def]
    model = tiny.load()
    first, second = (Engine(model, EngineConfig(), stop_token_ids=[]).decoder for _ in range(2))
    attention = model.lang_encoder._get_decoder_layers()[0].decoder_layer.self_attn
    fused = first.layers[0].qkv.weight
    assert fused.data_ptr() == second.layers[0].qkv.weight.data_ptr() == attention.q_proj.weight.data_ptr()
    with torch.no_grad():  # training continues with the same weights
        attention.v_proj.weight.fill_(7.0)
    assert (fused[-len(attention.v_proj.weight) :] == 7).all()
    assert (fused[: len(attention.q_proj.weight)] == attention.q_proj.weight).all()


def test_a_model_that_an_engine_uses_can_be_saved(tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = tiny.load()
    save_flamingo(model, tmp_path / "before.safetensors", dtype=None)
    Engine(model, EngineConfig(), stop_token_ids=[])
    save_flamingo(model, tmp_path / "after.safetensors", dtype=None)
    before, after = (load_file(tmp_path / f"{name}.safetensors") for name in ("before", "after"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
