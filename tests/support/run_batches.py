"""`python -m tests.support.run_batches FOLDER`: a runner of tiny builds in its own process, to be killed."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from polite_flamingo.flamingo.config import FlamingoConfig, RewriterConfig
from serving.batches import build_files
from serving.batches.runner import BatchRunner
from serving.config import BatchesConfig, LimitsConfig, ServiceConfig, ServingConfig
from tests.support.sections import section

LEASE_SECONDS = 2.0
TINY_BUILD = (sys.executable, str(Path(__file__).with_name("tiny_build.py")))


def bulk_config(folder: Path | str, **batches: object) -> ServiceConfig:
    """Return the config of a service without models, whose jobs are in `folder`, which may be in a bucket."""
    model = RewriterConfig(flamingo=FlamingoConfig(vision="none", language_model="none", tokenizer="none"))
    settings = replace(BatchesConfig(folder=str(folder)), **batches)
    limits = LimitsConfig(body_bytes=20_000, text_characters=2000, images=4)
    return ServiceConfig(rewriter=section(model), serving=ServingConfig(chat=model, batches=settings, limits=limits))


def runner(config: ServiceConfig) -> BatchRunner:
    """Return a runner of tiny builds with tiny shards."""
    build_files.SHARD_ROWS = 5
    return BatchRunner(config, build=TINY_BUILD, poll_seconds=0.02, lease_seconds=LEASE_SECONDS, pauses=(0.0, 0.0))


async def main() -> None:
    runner(bulk_config(sys.argv[1])).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
