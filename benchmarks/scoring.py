"""The scorer beside the reference's functions, which take one sample at a time.

    python -m benchmarks.scoring --profile profiles/tiny.yaml [--samples 512] [--runs 5] [--threads 2]

Both score the same rewritten samples with the same weights on the same number of threads, in turns, in one process.

    reference   the functions that the reference's readme shows, in their shape: `rouge_score`; for a reward one
                `tokenizer(question, answer)` and one forward pass; `CrossEncoder.predict` of one pair;
                `SentenceTransformer.encode` of each text; and CLIPScore that, paragraph after paragraph, transforms
                and encodes the image, then sentence after sentence. Gradients are off; an image is decoded once.
    ours        `Scorer.score`, called as the actor calls it: with `--call` rows at once.

Samples are Shapes' (drawn, seeded), the tasks in PF-1M's proportions, a text of the tiny models' teacher in the place
of the rewriter's. Times are medians; a difference is the largest of any number, ours rounded to the four decimals that
are stored. Peak memory is what a contestant takes at most on top of the loaded models.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from polite_flamingo import hub, images
from polite_flamingo.filters.judge import FILTERS
from polite_flamingo.filters.nli import premise_and_hypothesis
from polite_flamingo.filters.paragraphs import paragraphs
from polite_flamingo.filters.scorer import Scorer, ScoringConfig
from polite_flamingo.sample import Image, Sample, Turn, make_key
from polite_flamingo.shapes.draw import draw, encode
from polite_flamingo.zoo.pairs import random_pair

PROPORTIONS = {"captioning": 28, "classification": 2, "change_captioning": 2, "vqa_rationale": 9, "vqa": 59}
"""Of PF-1M, in percent (arXiv 2307.01003, table of its sources)."""

FILTERS_TIMED = {"rules": "Rouge-L", "rewards": "reward", "sts": "STS", "nli": "NLI", "clip": "CLIPScore"}


def main() -> None:
    """Draw, run in turns, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, default=Path("profiles/tiny.yaml"))
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's, of both (%(default)s)")
    parser.add_argument(
        "--call", type=int, default=0, help="rows a call of ours (default: what the job gives an actor)"
    )
    options = parser.parse_args()
    profile = yaml.safe_load(options.profile.read_text())
    call = options.call or rows_per_call(profile)
    config = ScoringConfig(**{**profile["scoring"], "threads": options.threads})
    samples = drawn(options.samples)
    ours, reference = Ours(config, call), Reference(config)
    import torch

    print(f"python -m benchmarks.scoring {' '.join(sys.argv[1:])}")
    print(
        f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads for both; "
        f"torch {torch.__version__}, Python {sys.version.split()[0]}"
    )
    tasks = ", ".join(f"{sum(s.task == task for s in samples)} {task}" for task in PROPORTIONS)
    print(f"{len(samples)} samples ({tasks}); ours in calls of {call} rows, {config.batch_size} a forward pass at most")
    contestants: dict[str, Callable[[Sequence[Sample]], tuple[list[dict[str, Any]], dict[str, float]]]]
    contestants = {"reference": reference.run, "ours": ours.run}
    for run in contestants.values():
        run(samples[:64])
    seconds: dict[str, list[dict[str, float]]] = defaultdict(list)
    memory: dict[str, list[int]] = defaultdict(list)
    scores: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.runs):
        for name, run in contestants.items():
            with peak_memory() as peak:
                scores[name], took = run(samples)
            seconds[name].append(took)
            memory[name].append(peak[0])
    report(samples, seconds, memory, scores)
    bound(samples, seconds, ours.flops(samples))


def bound(samples: Sequence[Sample], seconds: dict[str, list[dict[str, float]]], flops: dict[str, float]) -> None:
    """What no batching can go below: the matrix products, at the rate at which this machine multiplies matrices."""
    import torch

    weight, inputs, rates = torch.randn(1536, 384), torch.randn(1024, 384), []
    for _ in range(50):
        started = time.perf_counter()
        with torch.inference_mode():
            torch.nn.functional.linear(inputs, weight)
        rates.append(2 * 1024 * 384 * 1536 / (time.perf_counter() - started))
    ceiling = max(rates)
    print(
        f"fp32 matrix products: {ceiling / 1e9:.0f} GFLOP/s at best here; ours, and the ratio were there nothing else:"
    )
    for part, label in [*FILTERS_TIMED.items(), ("all", "all")]:
        if flops[part]:
            old, new = (statistics.median(run[part] for run in seconds[name]) for name in ("reference", "ours"))
            print(
                f"{label:<10} {flops[part] / 1e9 / len(samples):>8.3f} GFLOP a sample,"
                f" {flops[part] / new / ceiling:>4.0%} of that rate, at most {old / (flops[part] / ceiling):>5.1f}x"
            )


def rows_per_call(profile: dict[str, Any]) -> int:
    """Rows that the job gives its scoring actor at once."""
    from ray_jobs.cluster import PoolsConfig

    named = profile.get("pools", {}).get("scoring", {}).get("rows_per_call")
    return int(named or PoolsConfig().scoring.rows_per_call)


def report(
    samples: Sequence[Sample],
    seconds: dict[str, list[dict[str, float]]],
    memory: dict[str, list[int]],
    scores: dict[str, list[dict[str, Any]]],
) -> None:
    """The table."""
    median = {
        name: {part: statistics.median(run[part] for run in runs) for part in runs[0]} for name, runs in seconds.items()
    }
    differences = largest_differences(scores["reference"], scores["ours"])
    print("                        ms a sample             samples/s             largest")
    print("filter      samples  reference    ours    reference    ours  ratio  difference")
    applies = {"rules": "rules", "sts": "sts", "nli": "nli", "clip": "clipscore"}
    for part, label in [*FILTERS_TIMED.items(), ("all", "all")]:
        stage = applies.get(part)
        count = sum(stage is None or stage in FILTERS[sample.task] for sample in samples)
        old, new = median["reference"][part], median["ours"][part]
        print(
            f"{label:<10} {count:>8} {old / count * 1000:>10.2f} {new / count * 1000:>7.2f} {count / old:>12.1f}"
            f" {count / new:>7.1f} {old / new:>5.1f}x {differences[part]:>11.6f}"
        )
    for name, taken in memory.items():
        print(f"peak memory on top of the models, {name}: {statistics.median(taken) / 2**20:.0f} MB")


def largest_differences(reference: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> dict[str, float]:
    """By filter; ours must have every number that the reference has."""
    part_of = {
        "rouge_l": "rules", "reward_raw": "rewards", "reward": "rewards", "sts": "sts", "nli": "nli",
        "clip_paragraphs": "clip",
    }  # fmt: skip
    largest = dict.fromkeys([*FILTERS_TIMED, "all"], 0.0)
    for theirs, own in zip(reference, ours, strict=True):
        for key, value in theirs.items():
            pairs = zip(value, own[key], strict=True) if isinstance(value, list) else [(value, own[key])]
            for one, other in pairs:
                for part in (part_of[key], "all"):
                    largest[part] = max(largest[part], abs(one - other))
    return largest


class Ours:
    """The scorer, its parts timed from outside."""

    def __init__(self, config: ScoringConfig, call: int):
        self._scorer, self._call = Scorer(config), call
        self._took: dict[str, float] = defaultdict(float)
        self._flops: dict[str, float] | None = None
        for part in FILTERS_TIMED:
            name = f"_add_{part}"
            setattr(self._scorer, name, self._timed(part, getattr(self._scorer, name)))

    def _timed(self, part: str, add: Callable[[Any], None]) -> Callable[[Any], None]:
        def timed(rows: Any) -> None:
            if self._flops is not None:
                from torch.utils.flop_counter import FlopCounterMode

                with FlopCounterMode(display=False) as counter:
                    add(rows)
                self._flops[part] += counter.get_total_flops()
                return
            started = time.perf_counter()
            add(rows)
            self._took[part] += time.perf_counter() - started

        return timed

    def flops(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Of the matrix products, by filter and in all; padding included."""
        self._flops = counted = dict.fromkeys(FILTERS_TIMED, 0.0)
        self.run(samples)
        self._flops = None
        return {**counted, "all": sum(counted.values())}

    def run(self, samples: Sequence[Sample]) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Scores, and seconds by filter and in all."""
        self._took.clear()
        started = time.perf_counter()
        found: list[Any] = []
        for start in range(0, len(samples), self._call):
            found += self._scorer.score(samples[start : start + self._call])
        return found, {**self._took, "all": time.perf_counter() - started}


class Reference:
    """The reference's functions, one sample at a time, with models loaded by the libraries that it uses."""

    def __init__(self, config: ScoringConfig):
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

    def run(self, samples: Sequence[Sample]) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Scores, and seconds by filter and in all."""
        took: dict[str, float] = defaultdict(float)
        started = time.perf_counter()
        found = [self._score(sample, took) for sample in samples]
        return found, {**took, "all": time.perf_counter() - started}

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
        if "sts" in FILTERS[sample.task]:
            timed("sts", "sts", lambda: self.sts(output, original))
        if "nli" in FILTERS[sample.task]:
            timed("nli", "nli", lambda: self.nli(question, output, original))
        if "clipscore" in FILTERS[sample.task]:
            timed("clip", "clip_paragraphs", lambda: self.clip_paragraphs(sample.images[0].data, output))
        return scores

    def reward(self, question: str, answer: str) -> float:
        """One pair, one forward pass."""
        with self._torch.inference_mode():
            inputs = self._reward_tokenizer(question, answer, return_tensors="pt", truncation=True).to(self._device)
            return float(self._reward(**inputs).logits[0])

    def sts(self, output: str, original: str) -> float:
        """Each text by itself."""
        a = self._sts.encode(output, normalize_embeddings=True, show_progress_bar=False)
        b = self._sts.encode(original, normalize_embeddings=True, show_progress_bar=False)
        return float(a @ b)

    def nli(self, question: str, output: str, original: str) -> list[float]:
        """One pair."""
        pair = premise_and_hypothesis(question=question, output=output, original=original)
        return [float(logit) for logit in self._nli.predict([pair], show_progress_bar=False)[0]]

    def clip_paragraphs(self, data: bytes, output: str) -> list[float]:
        """Paragraph by paragraph, sentence by sentence."""
        image = images.decode(data)
        return [self.clip_score(image, text) for text in paragraphs(output)]

    def clip_score(self, image: Any, text: str) -> float:
        """100 * mean cosine of the image and at most ten sentences."""
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


def drawn(count: int, seed: int = 0) -> list[Sample]:
    """Rewritten samples, the tasks in PF-1M's proportions."""
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
    """Gives a list that will hold the most bytes that were taken inside, over what was held before (Linux)."""
    found: list[int] = []
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = psutil.Process().memory_info().rss
    yield found
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    found.append(int(line.split()[1]) * 1024 - before)


if __name__ == "__main__":
    main()
