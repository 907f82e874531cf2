"""What a build costs in requests, shard by shard: docs/clusters.md says what is counted here."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from polite_flamingo.config import load
from polite_flamingo.faults import journal
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import Image, Sample
from polite_flamingo.storage.bucket import get_bucket
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.run_info import write_run
from polite_flamingo.storage.shards import read_shard, write_shard
from polite_flamingo.storage.tar_export import count_images
from ray_jobs.build_pf1m import BuildConfig
from ray_jobs.resumable_job import begin_run
from ray_jobs.select import select
from tests.support.s3_proxy import Proxy, Request, s3_proxy
from tests.support.scored import draw, scored

PAGE = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
CALLS = 3
"""Calls per pool and shard."""

PICTURES = 5
"""Kept pictures per shard."""

STEPS = ("read", "notes", "commit", "select")


@pytest.fixture
def proxy(s3: dict[str, str], bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with s3_proxy(s3) as (proxy, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        get_bucket.cache_clear()
        yield proxy
        get_bucket.cache_clear()


def kind(request: Request) -> str:
    """The column of the table that a request belongs to."""
    if request.method == "GET" and "list-type" in request.path:
        return "LIST"
    if request.method == "POST":
        return "deletion"
    return {"GET": "GET, HEAD", "HEAD": "GET, HEAD"}.get(request.method, request.method)


def build(shards: int, root: Location, proxy: Proxy) -> dict[str, Counter[str]]:
    """Build and select without models and without Ray. Returns step -> kind of request -> number."""
    for number in range(shards):
        rows = [with_picture(scored(f"vqa_v2/val/{number}-{row}"), row) for row in range(PICTURES)]
        write_shard(root / "in" / f"s{number}.tar", rows)
    layout = OutputLayout(root=root / "out")
    write_run(layout, begin_run("hash", {}, ""))
    steps: dict[str, Counter[str]] = defaultdict(Counter)

    @contextmanager
    def counting(step: str) -> Iterator[None]:
        before = len(proxy.requests)
        yield
        steps[step].update(kind(request) for request, _ in proxy.requests[before:])

    with counting("find"):
        inputs = shard_names(str(root / "in"))
    for name, place in inputs.items():
        with counting("read"):
            InputFile.at(place)
            found = read_shard(place)
        for stage in ("rewriting", "scoring"):
            with counting("notes"):
                note = journal.Journal(layout.journal, stage).open(name)
                for call in range(CALLS):
                    with note.busy(call, [call], alone=False):
                        pass
        with counting("commit"):
            commit_shard(layout, name, found, partial(manifest, name, found))
            journal.forget(layout.journal, name)
    with counting("select"):
        select(layout, Thresholds())
    return steps


def with_picture(sample: Sample, number: int) -> Sample:
    """Give a sample a picture that no other of its shard has."""
    return replace(sample, images=(Image(extension="png", data=draw("red", "circle", 90 + number)),))


def manifest(name: str, rows: list[Sample], scored: int, quarantined: int) -> Manifest:
    stats = count_images(rows)  # as a build does
    return Manifest(
        shard=name, rows_in=len(rows), scored=scored, quarantined=quarantined, config_hash="hash", stats=stats
    )


def told() -> dict[str, dict[str, str]]:
    """Step -> kind of request -> what the table on the page says."""
    kinds = ("PUT", "GET, HEAD", "LIST", "deletion")
    rows = re.findall(r"^\| (\w+) \|" + r" ([^|]+?) \|" * 4 + " ", PAGE, re.MULTILINE)
    return {step: dict(zip(kinds, cells, strict=True)) for step, *cells in rows if step in STEPS}


def test_the_page_says_what_a_shard_costs(proxy: Proxy, bucket: str) -> None:
    few, more = (
        build(shards, location(f"{bucket}/{shards}"), proxy) for shards in (20, 24)
    )  # the report shows samples of a few

    assert set(told()) == set(STEPS)
    for step, cells in told().items():
        for kind, cell in cells.items():
            number = re.sub("calls", str(2 * CALLS), re.sub("pictures", str(PICTURES), cell.replace("×", "*")))
            assert (more[step][kind] - few[step][kind]) / 4 == eval(number), (step, kind)


def test_the_pages_sum_for_a_million_rows_is_right() -> None:
    pools = load(BuildConfig, "profiles/openflamingo-9b-v1.yaml", {"input": "in", "out": "out"}).pools
    calls = sum(math.ceil(1000 / pool.rows_per_call) for pool in (pools.rewriting, pools.scoring))
    puts = sum(int(re.match(r"\d+", cells["PUT"])[0]) for cells in told().values()) + 2 * calls  # type: ignore[index]
    assert f"{calls} calls" in PAGE and f"{puts * 1000:,} PUTs" in PAGE
