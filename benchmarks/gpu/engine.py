"""The engine on one GPU at the size of OpenFlamingo-9B, compared with the GPU's limits and the reference's loop.

    python -m benchmarks.gpu.engine [--out FILE] [--semantics v2] [--budget-seconds 540]
    python -m benchmarks.gpu.engine --shape tiny --device cpu      # checks that the program works, nothing else

Weights are random and made on the device; no Ray, no download. One run measures

- both ceilings: matrix products, and streamed reads of memory;
- decoding at several batch sizes and one context, compared with the floor: the longer of the time to read all weights,
  keys and values once at the memory ceiling, and the time to compute at the arithmetic ceiling; with and without CUDA
  graphs, with attention as two batched products and as torch's fused kernel;
- images, from pixels and from JPEGs to keys and values, and prompts;
- the whole engine on a mix of requests, and the reference's loop (one sample at a time through open_flamingo and
  transformers' `generate`) on some of them;

and forecasts the GPU hours of PF-1M from the whole engine's rate. It prints medians and the number of runs; what the
time budget does not allow is reported as not measured. Decoding is greedy, and lengths of texts are fixed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.gpu import measures
from benchmarks.gpu.attention import ATTENTIONS
from benchmarks.gpu.model import MIX, SHAPES, SYSTEM, Ids, build, mixed
from benchmarks.gpu.report import Report, ends, goal
from polite_flamingo.flamingo.engine.metrics import CallCost
from polite_flamingo.flamingo.engine.roofline import Ceilings, measure

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

SAMPLES = 1_170_000
"""Samples that Polite Flamingo rewrote for PF-1M (arXiv 2307.01003)."""
SHARE, TOKENS, TIMES = 0.55, 8_000, 150
"""Goals: share of the floor at each batch size; tokens/s at the largest; speed-up over the reference's loop."""


def main() -> None:
    """Measure within the budget, print along the way, write the file after each section."""
    options = arguments()
    device = torch.device(options.device)
    report = Report(options, device, "The engine", "gpu.engine")
    bench = Bench(options, device, report)
    for section in (
        bench.ceilings, bench.decoding, bench.mix, bench.loop, bench.vision, bench.prompts, bench.variants, bench.mixes,
        bench.forecast, bench.goals,
    ):  # fmt: skip
        section()
        report.write()


def arguments() -> argparse.Namespace:
    """Parse the command line; default sizes depend on the shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="9b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--semantics", choices=("v1", "v2"), default="v1", help="version of attention (%(default)s)")
    parser.add_argument(
        "--attention", choices=ATTENTIONS, default="bmm", help="attention of a decode step (%(default)s)"
    )
    parser.add_argument(
        "--sampled", action="store_true", help="decode the mix with the reference's sampling instead of greedily"
    )
    parser.add_argument("--batches", type=int, nargs="+", help="rows decoded together")
    parser.add_argument("--context", type=int, help="average tokens per row")
    parser.add_argument("--steps", type=int, help="decode steps per run")
    parser.add_argument(
        "--runs", type=int, default=5, help="runs per measurement; the median is reported (%(default)s)"
    )
    parser.add_argument("--requests", type=int, help="requests of the mix per run")
    parser.add_argument("--looped", type=int, help="requests through the reference's loop")
    parser.add_argument(
        "--prefill-tokens", type=int, default=2048, help="prompt tokens between two decode steps (%(default)s)"
    )
    parser.add_argument(
        "--budget-seconds", type=float, default=540.0, help="start no run later than this (%(default)s)"
    )
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    options = parser.parse_args()
    large = options.shape == "9b"
    for name, usual, tiny in (
        ("batches", [64, 128, 256], [2, 4]), ("context", 512, 48), ("steps", 32, 4), ("requests", 1024, 24),
        ("looped", 5, 2),
    ):  # fmt: skip
        if getattr(options, name) is None:
            setattr(options, name, usual if large else tiny)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no GPU; to check the program without one, use --shape tiny --device cpu")
    if options.attention == "triton" and not options.device.startswith("cuda"):
        parser.error("--attention triton needs a GPU")
    if options.context <= options.steps // 2 + 1:
        parser.error("--context must be longer than half of --steps")
    return options


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A measured decode step: its seconds, the lower bound, and the number of runs."""

    rows: int
    attention: str
    graphs: bool
    seconds: float
    floor: float
    bound: str
    runs: int
    peak: str

    @property
    def rate(self) -> float:
        """Generated tokens per second."""
        return self.rows / self.seconds

    @property
    def share(self) -> float:
        """The floor as a share of the measured time."""
        return self.floor / self.seconds


class Bench:
    """The sections of the report, the most important first; later ones use results of earlier ones."""

    def __init__(self, options: argparse.Namespace, device: torch.device, report: Report):
        self.options, self.device, self.report = options, device, report
        self.shape = SHAPES[options.shape]
        self.real = device.type == "cuda" and options.shape == "9b"
        self._deadline = time.monotonic() + options.budget_seconds
        started = time.monotonic()
        self.model: FlamingoModel = build(self.shape, options.semantics, device, getattr(torch, options.dtype))
        numbers = sum(one.numel() for one in self.model.parameters())
        report.say(f"{numbers:,} parameters, made in {time.monotonic() - started:.0f} s.")
        self.limits: Ceilings
        self.decoded: dict[tuple[int, str, bool], Decoded] = {}
        self.requests_a_second = self.tokens_a_second = self.looped_tokens_a_second = 0.0

    def has_time(self) -> bool:
        """Whether the budget allows another run."""
        return time.monotonic() < self._deadline

    def ceilings(self) -> None:
        """Measure the ceilings."""
        self.limits = measure(self.device, getattr(torch, self.options.dtype))
        rows = [
            f"matrix products, {self.options.dtype} | {self.limits.flops / 1e12:.1f} TFLOP/s",
            f"streamed reads | {self.limits.bytes_per_second / 1e12:.3f} TB/s",
        ]
        self.report.table("Ceilings", "of this device | measured", rows)

    def decoding(self) -> None:
        """Measure decode steps at each batch size."""
        for rows in self.options.batches:
            self._decode(rows, self.options.attention, True)
        self._print_decoded(f"Decoding, context {self.options.context}")

    def variants(self) -> None:
        """Measure them without CUDA graphs, and with the other attention."""
        before = dict(self.decoded)
        for attention, graphs in (
            *((attention, True) for attention in self._others()),
            (self.options.attention, False),
        ):
            for rows in self.options.batches:
                self._decode(rows, attention, graphs)
        usual, self.decoded = before, {key: one for key, one in self.decoded.items() if key not in before}
        self._print_decoded("Decoding, one thing changed")
        lines = []
        for (rows, attention, graphs), one in self.decoded.items():
            if with_it := usual.get((rows, self.options.attention, True)):
                name = f"attention `{self.options.attention}` rather than `{attention}`" if graphs else "CUDA graphs"
                lines.append(f"{name} | {rows} | {one.seconds / with_it.seconds:.2f}")
        self.report.table("What each buys", "optimisation | rows | time without it, over time with it", lines)
        self.decoded |= usual

    def _decode(self, rows: int, attention: str, graphs: bool) -> None:
        if not self.has_time():
            return
        context, count = self.options.context, self.options.steps
        self._reset_peak()
        with measures.engine_of(self.model, attention, slots=rows, cuda_graphs=graphs) as engine:
            seconds = measures.steps(engine, self.shape, rows, context, count, self.options.runs, self.has_time)
            work = CallCost(engine.decoder, self.model.latents_shape[0])
        if not seconds:
            return
        seeing = rows if self.options.semantics == "v2" else 0
        places = round(rows * (context + 0.5))  # including the step's own token
        floors = {
            "memory": work.bytes(places=places, seeing=seeing, images=seeing) / self.limits.bytes_per_second,
            "arithmetic": work.flops(answers=rows, tokens=rows, places=places, pairs=places, seeing=seeing)
            / self.limits.flops,
        }
        bound = max(floors, key=lambda name: floors[name])
        self.decoded[rows, attention, graphs] = Decoded(
            rows=rows, attention=attention, graphs=graphs, seconds=statistics.median(seconds) / count,
            floor=floors[bound], bound=bound, runs=len(seconds), peak=self._peak(),
        )  # fmt: skip

    def _print_decoded(self, title: str) -> None:
        rows = [
            f"{one.rows} | {one.attention} | {self._graphs(one.graphs)} | {1e3 * one.seconds:.2f} | {one.rate:.0f} "
            f"| {1e3 * one.floor:.2f} ({one.bound}) | {one.share:.1%} | {one.peak} | {one.runs}"
            for one in self.decoded.values()
        ]
        head = "rows | attention | CUDA graphs | ms a step | tokens/s | floor, ms | share of the floor | peak GB | runs"
        self.report.table(title, head, rows)
        if not all(self._is_measured(rows) for rows in self.options.batches):
            self.report.say("", "Missing batch sizes did not fit the memory or the budget.")

    def _graphs(self, wanted: bool) -> str:
        if self.device.type == "cuda":
            return "yes" if wanted else "no"
        return "no, but their buffers" if wanted else "no"

    def _is_measured(self, rows: int) -> bool:
        return any(one.rows == rows for one in self.decoded.values())

    def mix(self) -> None:
        """Measure the whole engine on the mix, from JPEGs to texts."""
        if not self.has_time():
            return
        rates, row, shares = self._whole(self.options.attention)
        self.requests_a_second, self.tokens_a_second = rates
        self.report.table("The whole engine on the mix", self.MIXED, [row])
        self.report.say("", f"{self.options.requests} new requests per run, warm. Time on the host: {shares}.")

    MIXED = "attention | slots | requests/s | generated tokens/s | peak GB | runs"

    def mixes(self) -> None:
        """Measure the mix with the other attentions."""
        rows = [self._whole(attention)[1] for attention in self._others() if self.has_time()]
        self.report.table("The whole engine on the mix, other attention", self.MIXED, rows)

    def _whole(self, attention: str) -> tuple[tuple[float, float], str, str]:
        """Return requests and tokens per second, a row of the table, and the shares of the host's time."""
        slots = max((one.rows for one in self.decoded.values()), default=min(self.options.batches))
        self._reset_peak()
        budget, count = self.options.prefill_tokens, self.options.requests
        with measures.engine_of(self.model, attention, slots=slots, prefill_tokens=budget) as engine:
            runs = measures.whole(
                engine, self.shape, count, self.options.runs, self.has_time, sampled=self.options.sampled
            )
            spent, held = dict(engine.metrics.seconds), engine.slots
        requests = statistics.median(count / seconds for seconds, _ in runs)
        tokens = statistics.median(made / seconds for seconds, made in runs)
        row = f"{attention} | {held} | {requests:.2f} | {tokens:.0f} | {self._peak()} | {len(runs)}"
        total = sum(spent.values())
        return (requests, tokens), row, ", ".join(f"{cause} {value / total:.0%}" for cause, value in spent.items())

    def _others(self) -> list[str]:
        on_a_gpu = self.device.type == "cuda"
        return [
            attention
            for attention in ATTENTIONS
            if attention != self.options.attention and (on_a_gpu or attention != "triton")
        ]

    def loop(self) -> None:
        """Measure the reference on some requests of the mix."""
        if not self.has_time():
            return
        tokenizer = self.model.tokenizer
        assert isinstance(tokenizer, Ids)
        requests = mixed(self.shape, tokenizer, 1000, seed=0)[: self.options.looped]
        runs = measures.reference(self.model, requests, self.has_time)
        seconds, tokens = sum(one for one, _ in runs), sum(one for _, one in runs)
        self.looped_tokens_a_second = tokens / seconds
        times = f"{self.tokens_a_second * seconds / tokens:.0f}" if self.tokens_a_second else "not measured"
        self.report.table(
            "The reference's loop",
            "requests | generated tokens/s | requests/s at the mix's mean length | the engine, times as fast",
            [f"{len(runs)} | {tokens / seconds:.1f} | {self._looped_requests():.3f} | {times}"],
        )

    def _looped_requests(self) -> float:
        mean = self.tokens_a_second / self.requests_a_second if self.requests_a_second else float("nan")
        return self.looped_tokens_a_second / mean

    def vision(self) -> None:
        """Measure images per second, from pixels and from JPEGs."""
        if not self.has_time():
            return
        rows = []
        large = 64 if self.options.shape == "9b" else 4
        with measures.engine_of(self.model, self.options.attention, slots=1) as engine:
            for count in (large // 4, large):
                found = measures.pixels_to_kv(engine, self.model, count, self.options.runs, self.has_time)
                rows.append(
                    f"pixels on the device, {count} at once | {count / statistics.median(found):.1f} | {len(found)}"
                )
            found = measures.jpegs_to_kv(engine, self.shape, 2 * large, self.options.runs, self.has_time)
            width, height = self.shape.picture
            rate = 2 * large / statistics.median(found)
            rows.append(f"JPEGs of {width} × {height} in memory, as the engine does | {rate:.1f} | {len(found)}")
        self.report.table("Images to keys and values of every layer", "from | images/s | runs", rows)

    def prompts(self) -> None:
        """Measure prompt tokens per second."""
        rows = []
        count = min(self.options.batches)
        for budget in (2048, 8192):
            if not self.has_time():
                break
            config = {"slots": count, "prefill_tokens": budget, "prefixes": 0}
            with measures.engine_of(self.model, self.options.attention, **config) as engine:
                length = self.options.context
                found = measures.prompts(engine, count, length, self.options.runs, self.has_time)
                work = CallCost(engine.decoder, self.model.latents_shape[0])
            seconds = statistics.median(found)
            pairs = count * length * (length + 1) // 2
            needed = work.flops(answers=count, tokens=count * length, places=count * length, pairs=pairs, seeing=0)
            share = needed / self.limits.flops / seconds
            rows.append(f"{budget} | {count * length / seconds:.0f} | {share:.1%} | {len(found)}")
        head = "tokens at once, at most | prompt tokens/s | share of the arithmetic's ceiling | runs"
        self.report.table(f"Prompts of {self.options.context} tokens without images", head, rows)

    def forecast(self) -> None:
        """Forecast the GPU hours of PF-1M."""
        if not self.requests_a_second:
            return
        unit = "GPU hours" if self.real else "hours of this device at this shape (no forecast for a GPU)"
        hours = SAMPLES / self.requests_a_second / 3600
        self.report.say(
            "", "## Forecast for PF-1M", "",
            f"{SAMPLES:,} samples / {self.requests_a_second:.2f} requests/s = **{hours:.1f} {unit}** for rewriting. "
            "Assumed:", "",
            "- the mix below: shares are the paper's counts, lengths are assumed, and hours grow with them;",
            f"- {'sampling, no n-gram of 3 twice' if self.options.sampled else 'greedy decoding, no n-gram banned'}; "
            "filters, reading and writing not included;",
            "- shards large enough to keep the slots full; no image cached from an earlier shard.",
        )  # fmt: skip
        if self.looped_tokens_a_second:
            looped = SAMPLES / self._looped_requests() / 3600
            self.report.say("", f"The reference's loop at its rate above would take {looped:,.0f} {unit}.")
        rows = [
            f"{name} | {kind.count:,} | {kind.images} | {ends(kind.asked)} | {ends(kind.draft, SYSTEM)} "
            f"| {ends(kind.answer)}"
            for name, kind in MIX.items()
        ]
        head = "kind | adopted | images | samples that share them | prompt tokens besides images | generated tokens"
        self.report.table("The mix", head, rows)
        if self.shape.scale != 1:
            self.report.say("", f"Here all lengths are multiplied by {self.shape.scale}.")

    def goals(self) -> None:
        """Compare with the goals."""
        if not self.real:
            self.report.say("", "The goals are for an H200 at the shape `9b`: not measured here.")
            return
        rows = []
        for count in self.options.batches:
            one = self.decoded.get((count, self.options.attention, True))
            rows.append(goal(f"share of the floor at batch {count}", one and one.share, SHARE, "{:.1%}"))
        largest = self.decoded.get((max(self.options.batches), self.options.attention, True))
        rows.append(
            goal(
                f"generated tokens/s at batch {max(self.options.batches)}", largest and largest.rate, TOKENS, "{:,.0f}"
            )
        )
        known = self.tokens_a_second and self.looped_tokens_a_second
        ratio = self.tokens_a_second / self.looped_tokens_a_second if known else None
        rows.append(goal("the whole engine, times the reference's loop", ratio, TIMES, "{:,.0f}"))
        self.report.table("Goals, set for an H200", "what | goal | measured | reached", rows)

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _peak(self) -> str:
        return f"{torch.cuda.max_memory_allocated(self.device) / 1e9:.1f}" if self.device.type == "cuda" else "–"


if __name__ == "__main__":
    main()
