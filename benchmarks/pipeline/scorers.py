"""The contestants of `benchmarks.pipeline.scoring`: the reference, the scorer, and the scorer without one optimisation.

A contestant's process runs `contest`.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from polite_flamingo import hub
from polite_flamingo.filters import clipscore, packed_encoder, pair_classifier, sts
from polite_flamingo.filters.nli import premise_and_hypothesis
from polite_flamingo.filters.packed_encoder import PackedEncoder
from polite_flamingo.filters.paragraphs import paragraphs
from polite_flamingo.filters.scorer import Scorer, ScoringConfig
from polite_flamingo.filters.thresholds import FILTERS_OF_TASK
from polite_flamingo.images import decoding
from polite_flamingo.sample import Image, Sample, Turn, make_key
from polite_flamingo.testbed.shapes.draw import draw, encode
from polite_flamingo.testbed.zoo.pairs import random_pair
from polite_flamingo.torchvision_repair import repair_torchvision

PROPORTIONS = {"captioning": 28, "classification": 2, "change_captioning": 2, "vqa_rationale": 9, "vqa": 59}
"""Tasks of PF-1M, in percent (arXiv 2307.01003, table of its sources)."""

FILTERS_TIMED = {"rules": "Rouge-L", "rewards": "reward", "sts": "STS", "nli": "NLI", "clipscores": "CLIPScore"}


@dataclass(kw_only=True)
class Run:
    """The result of one run of a contestant.

    Attributes:
        scores: in the order of the samples.
        seconds: by filter (the mean over processes), and "all" from the first start to the last end.
        cpu: CPU seconds of all threads and processes.
        peak: bytes of memory on top of the models, of all processes.
        counted: best rate of a matrix product, and operations by filter, if requested.
    """

    scores: list[Any]
    seconds: dict[str, float]
    cpu: float
    peak: int
    counted: Any = None


def contest(config: ScoringConfig, name: str, pipe: Any) -> None:
    """Load the models, then answer each (samples, options) with a `Run`; the main function of a process."""
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as in Ray's workers
    loaded: dict[str, Any] = {}
    while (wanted := pipe.recv()) is not None:
        samples, options = wanted
        threads, without = options.pop("threads"), options.pop("without", "")
        torch.set_num_threads(threads)
        with SWITCHES[without]() if without else ExitStack():
            if without not in loaded:
                loaded[without] = Reference(config) if name == "reference" else Ours(config)
                loaded[without].run(samples[:64], **{**options, "count": False})
            pipe.send("ready")
            pipe.recv()
            cpu = time.process_time()
            with peak_memory() as peak:
                scores, seconds, counted = loaded[without].run(samples, **options)
        pipe.send(Run(scores=scores, seconds=seconds, cpu=time.process_time() - cpu, peak=peak[0], counted=counted))


def best_rate() -> float:
    """Measure the fastest of a few matrix products, in operations per second, with torch's current threads."""
    import torch
    from torch.nn.functional import linear

    rates = []
    for rows in (128, 512, 1024):
        inputs, weight = torch.randn(rows, 384), torch.randn(1536, 384)
        for _ in range(50):
            started = time.perf_counter()
            with torch.inference_mode():
                linear(inputs, weight)
            rates.append(2 * rows * 384 * 1536 / (time.perf_counter() - started))
    return max(rates)


@contextmanager
def each_text_by_itself() -> Iterator[None]:
    """Run a text or pair for each of the rows that share it."""
    with ExitStack() as stack:
        for module in (pair_classifier, sts, clipscore):
            stack.enter_context(mock.patch.object(module, "distinct", list))
        yield


@contextmanager
def padded_by_the_libraries() -> Iterator[None]:
    """Use the libraries' forward passes, with texts of similar length together."""
    with (
        mock.patch.object(packed_encoder, "bert", lambda *_, **__: None),
        mock.patch.object(packed_encoder, "clip_encoder", lambda *_, **__: None),
    ):
        yield


@contextmanager
def all_tokens_to_the_end() -> Iterator[None]:
    """Run the last layer for every token."""

    def one_token(encoder: PackedEncoder, x_TD: Any, lengths: Sequence[int], tokens_B: Any) -> Any:
        return encoder.all_tokens(x_TD, lengths)[tokens_B]

    with mock.patch.object(PackedEncoder, "one_token", one_token):
        yield


SWITCHES: dict[str, Callable[[], Any]] = {
    "each distinct text and pair of a call once": each_text_by_itself,
    "own forward passes, without padding": padded_by_the_libraries,
    "the last layer for the one token that is read": all_tokens_to_the_end,
}


class Ours:
    """The scorer, with its parts timed from outside."""

    def __init__(self, config: ScoringConfig):
        self._scorer = Scorer(config)
        self._took: dict[str, float] = defaultdict(float)
        self._flops: dict[str, float] | None = None
        for part in FILTERS_TIMED:
            name = f"_add_{part}"
            setattr(self._scorer, name, self._timed(part, getattr(self._scorer, name)))

    def _timed(self, part: str, add: Callable[..., None]) -> Callable[..., None]:
        def timed(*given: Any) -> None:
            if self._flops is not None:
                from torch.utils.flop_counter import FlopCounterMode

                with FlopCounterMode(display=False) as counter:
                    add(*given)
                self._flops[part] += counter.get_total_flops()
                return
            started = time.perf_counter()
            add(*given)
            self._took[part] += time.perf_counter() - started

        return timed

    def run(
        self, samples: Sequence[Sample], *, call: int, count: bool = False
    ) -> tuple[list[dict[str, Any]], dict[str, float], Any]:
        """Return scores and seconds; with `count` the best rate and operations instead of seconds by filter."""
        self._took = defaultdict(float)
        self._flops = dict.fromkeys(FILTERS_TIMED, 0.0) if count else None
        started = time.perf_counter()
        found: list[Any] = []
        for start in range(0, len(samples), call):
            found += self._scorer.score(samples[start : start + call])
        seconds = dict.fromkeys(FILTERS_TIMED, 0.0) | self._took | {"all": time.perf_counter() - started}
        counted = (best_rate(), {**self._flops, "all": sum(self._flops.values())}) if self._flops is not None else None
        return found, seconds, counted


class Reference:
    """The reference's functions, one sample at a time, with models loaded by the libraries it uses."""

    def __init__(self, config: ScoringConfig):
        repair_torchvision()
        import open_clip
        import torch
        from rouge_score import rouge_scorer
        from sentence_transformers import CrossEncoder, SentenceTransformer
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._torch = torch
        self._rouge = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
        reward = hub.resolve(config.reward)
        self._reward_tokenizer = AutoTokenizer.from_pretrained(reward)
        self._reward = AutoModelForSequenceClassification.from_pretrained(reward).float().to(config.device).eval()
        self._nli = CrossEncoder(
            hub.resolve(config.nli),
            device=config.device,
            activation_fn=torch.nn.Identity(),
            model_kwargs={"dtype": torch.float32},
        )
        self._sts = SentenceTransformer(hub.resolve(config.sts), device=config.device)
        name = hub.resolve(config.clip)
        name = f"local-dir:{name}" if Path(name).is_dir() else name
        self._clip, self._transform = open_clip.create_model_from_pretrained(
            name, pretrained=config.clip_pretrained or None, device=config.device
        )
        self._clip.eval()
        self._clip_tokenizer = open_clip.get_tokenizer(name)
        self._device = config.device

    def run(
        self, samples: Sequence[Sample], *, count: bool = False
    ) -> tuple[list[dict[str, Any]], dict[str, float], None]:
        """Return scores and seconds; operations are not counted."""
        took: dict[str, float] = defaultdict(float)
        started = time.perf_counter()
        found = [self._score(sample, took) for sample in samples]
        return found, {**dict.fromkeys(FILTERS_TIMED, 0.0), **took, "all": time.perf_counter() - started}, None

    def _score(self, sample: Sample, took: dict[str, float]) -> dict[str, Any]:
        output, original, question = sample.rewritten or "", sample.response, sample.question
        scores: dict[str, Any] = {}

        def timed(part: str, key: str, compute: Callable[[], Any]) -> None:
            started = time.perf_counter()
            scores[key] = compute()
            took[part] += time.perf_counter() - started

        timed("rules", "rouge_l", lambda: self._rouge.score(original, output)["rougeL"].fmeasure)
        timed("rewards", "reward_raw", lambda: self.reward(question, original))
        timed("rewards", "reward", lambda: self.reward(question, output))
        if "sts" in FILTERS_OF_TASK[sample.task]:
            timed("sts", "sts", lambda: self.sts(output, original))
        if "nli" in FILTERS_OF_TASK[sample.task]:
            timed("nli", "nli", lambda: self.nli(question, output, original))
        if "clipscore" in FILTERS_OF_TASK[sample.task]:
            timed("clipscores", "clip_paragraphs", lambda: self.clip_paragraphs(sample.images[0].data, output))
        return scores

    def reward(self, question: str, answer: str) -> float:
        """Score one pair in one forward pass."""
        with self._torch.inference_mode():
            inputs = self._reward_tokenizer(question, answer, return_tensors="pt", truncation=True).to(self._device)
            return float(self._reward(**inputs).logits[0])

    def sts(self, output: str, original: str) -> float:
        """Encode each text separately."""
        a = self._sts.encode(output, normalize_embeddings=True, show_progress_bar=False)
        b = self._sts.encode(original, normalize_embeddings=True, show_progress_bar=False)
        return float(a @ b)

    def nli(self, question: str, output: str, original: str) -> list[float]:
        """Score one pair."""
        pair = premise_and_hypothesis(question=question, output=output, original=original)
        return [float(logit) for logit in self._nli.predict([pair], show_progress_bar=False)[0]]

    def clip_paragraphs(self, data: bytes, output: str) -> list[float]:
        """Score paragraph by paragraph, sentence by sentence."""
        image = decoding.decode(data)
        return [self.clip_score(image, text) for text in paragraphs(output)]

    def clip_score(self, image: Any, text: str) -> float:
        """Compute 100 * the mean cosine of the image and at most ten sentences."""
        torch = self._torch
        with torch.inference_mode():
            seen = self._clip.encode_image(self._transform(image).unsqueeze(0).to(self._device))
            seen = seen / seen.norm(dim=-1, keepdim=True)
            features = []
            for sentence in text.split(".")[:10]:
                read = self._clip.encode_text(self._clip_tokenizer([sentence]).to(self._device))
                features.append(read / read.norm(dim=-1, keepdim=True))
            mean = torch.cat(features).mean(dim=0, keepdim=True)
            return float(100 * (seen @ mean.T)[0, 0])


def shapes_samples(count: int, seed: int = 0) -> list[Sample]:
    """Generate rewritten samples with the tasks in PF-1M's proportions."""
    rng = random.Random(seed)
    samples = []
    for number in range(count):
        task = rng.choices(list(PROPORTIONS), weights=list(PROPORTIONS.values()))[0]
        pair = random_pair(rng, task)
        samples.append(
            Sample(
                key=make_key("shapes", "benchmark", number),
                dataset="shapes",
                task=pair.task,
                turns=(Turn(instruction=pair.instruction, response=pair.raw),),
                images=tuple(Image(extension="png", data=encode(draw(scene), "png")) for scene in pair.scenes),
                rewritten=pair.polite,
            ).validate()
        )
    return samples


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yield a list that will hold the peak memory of the block in bytes, above what was used before (Linux)."""
    found: list[int] = []
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = psutil.Process().memory_info().rss
    yield found
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    found.append(int(line.split()[1]) * 1024 - before)
