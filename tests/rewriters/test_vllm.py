"""The rewriter in vLLM's engine: how it drives the engine, with a fake one, and all of it where vLLM is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from polite_flamingo.faults.bisection import Bisector
from polite_flamingo.rewriters.config import VllmConfig
from polite_flamingo.rewriters.vllm import VllmRewriter
from polite_flamingo.sample import BadSample
from polite_flamingo.usage import Usage
from tests.rewriters.test_endpoint import conversation, picture, sample
from tests.support.patience import wait_until
from tests.support.processes import family, kill

REPO = Path(__file__).parents[2]
PYTHON = os.environ.get("POLITE_FLAMINGO_VLLM_PYTHON", "")


@dataclass
class FakeEngine:
    """Takes the place of `vllm.LLM`: answers with the annotation, and raises on one that says so."""

    options: dict[str, Any]
    calls: list[list[str]] = field(default_factory=list)
    sampling: list[Any] = field(default_factory=list)
    lora: list[Any] = field(default_factory=list)

    def chat(self, chats: Sequence[Any], sampling: Sequence[Any], *, use_tqdm: bool, lora_request: Any) -> list[Any]:
        contents = [chat[-1]["content"] for chat in chats]
        said = [text if isinstance(text, str) else text[-1]["text"] for text in contents]
        asked = [text.rpartition("Annotation: ")[2] for text in said]
        self.calls.append(asked)
        self.sampling += sampling
        self.lora.append(lora_request)
        if any("too long" in text for text in asked):
            raise ValueError("the prompt is longer than the model's context")
        return [
            SimpleNamespace(
                prompt_token_ids=[0] * 10, num_cached_tokens=4,
                outputs=[SimpleNamespace(
                    text=f"It is {text}.", token_ids=[0] * 3, finish_reason="length" if "cut" in text else "stop"
                )],
            )
            for text in asked
        ]  # fmt: skip


@pytest.fixture
def rewriter(monkeypatch: pytest.MonkeyPatch) -> VllmRewriter:
    vllm, lora, requests = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.LLM = lambda **options: FakeEngine(options)  # type: ignore[attr-defined]
    vllm.SamplingParams = lambda **options: options  # type: ignore[attr-defined]
    requests.LoRARequest = lambda *arguments: arguments  # type: ignore[attr-defined]
    for name, module in (("vllm", vllm), ("vllm.lora", lora), ("vllm.lora.request", requests)):
        monkeypatch.setitem(sys.modules, name, module)
    options = {"max_model_len": 512, "tensor_parallel_size": 2}
    return VllmRewriter(VllmConfig(model="org/m", lora="/a/lora", engine=options, extra={"top_k": 3, "seed": None}))


def test_the_engine_gets_all_first_turns_then_all_second_ones(rewriter: VllmRewriter) -> None:
    usage = Usage()
    talk = conversation("a", "b", "c", images=(picture(),), unlearned=(1,))
    texts = rewriter.rewrite([sample("x", 1), talk, sample("y cut", 2)], usage)
    engine: Any = rewriter._llm
    assert engine.calls == [["x", "a", "y cut"], ["c"]]
    assert texts[:2] == [["It is x."], ["It is a.", None, "It is c."]]
    assert isinstance(texts[2][0], BadSample) and texts[2][0].reason == "answer_cut"
    expected = {"requests": 4, "images": 2, "prompt_tokens": 40, "cached_tokens": 16, "generated_tokens": 12}
    assert usage == expected


def test_the_engines_options_arrive_as_they_are(rewriter: VllmRewriter) -> None:
    rewriter.rewrite([sample("x")], Usage())
    engine: Any = rewriter._llm
    assert engine.options == {
        "model": "org/m", "enable_lora": True, "max_model_len": 512, "tensor_parallel_size": 2
    }  # fmt: skip
    assert engine.lora == [("rewriter", 1, "/a/lora")]
    assert engine.sampling == [{"max_tokens": 512, "temperature": 0.0, "top_p": 1.0, "top_k": 3}]


def test_a_row_on_which_the_engine_raises_is_found(rewriter: VllmRewriter) -> None:
    usage = Usage()
    rows = [sample("too long" if n == 5 else "short", n) for n in range(8)]
    parts = Bisector(reason="rewriting_failed", max_failures_in_a_row=2).run(lambda s: rewriter.rewrite(s, usage), rows)
    failed = [(one[0].key, str(found)) for one, found in parts if isinstance(found, BadSample)]
    assert [key for key, _ in failed] == ["d/s/5"] and "longer than the model's context" in failed[0][1]
    assert usage["requests"] == 7, "what a failed call consumed is not counted twice"


def test_without_vllm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ValueError, match="needs vLLM: pip install vllm"):
        VllmRewriter(VllmConfig(model="m"))


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="set POLITE_FLAMINGO_VLLM_PYTHON to a Python that has vLLM (docs/rewriters.md)")
def test_a_tiny_vision_model_rewrites_in_the_real_engine(tmp_path: Path) -> None:
    shared = os.environ.get("POLITE_FLAMINGO_SHARED", "")
    if not Path(shared, "real_models").is_dir():
        pytest.skip("POLITE_FLAMINGO_SHARED must name the folder with real_models/tiny_qwen2_vl.py")
    environment = {**os.environ, "PYTHONPATH": str(REPO), "VLLM_CPU_KVCACHE_SPACE": "1",
                   "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # fmt: skip
    folder, log = tmp_path / "vllm", tmp_path / "log"
    command = [PYTHON, "-m", "tests.support.run_vllm", shared, str(folder)]
    with log.open("wb") as said, subprocess.Popen(command, cwd=REPO, env=environment, stdout=said, stderr=said) as run:
        try:
            wait_until(lambda: (folder / "found.json").exists() or run.poll() is not None, 580)
        finally:
            kill(family(run.pid) if run.poll() is None else [])  # vLLM's own processes end slowly
    assert (folder / "found.json").exists(), log.read_text()[-3000:]
    found = json.loads((folder / "found.json").read_text())
    counted = found["counted"]
    tokens = [counted[name]["prompt_tokens"] for name in ("text", "picture", "pictures")]
    assert tokens[0] < tokens[1] < tokens[2], "the model sees each picture"
    assert counted["talk"]["requests"] == 2 and counted["talk"]["images"] == 2 and len(counted["talk"]["texts"]) == 2
    assert found["rows"] == [f"d/s/{n}" for n in range(4, 8)] and list(found["failed"]) == ["d/s/5"]
