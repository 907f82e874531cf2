"""Every way of the endpoint benchmark asks each question once, and the server's own figures say so."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from benchmarks.pipeline.endpoint import MODEL, figures, loop, rewriter, rows_of
from polite_flamingo.rewriters.config import EndpointConfig


def test_ways_ask_the_same_of_a_server_that_counts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.pipeline.endpoint", "--serve", "0.001"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
            config, shards = EndpointConfig(urls=(url,), model=MODEL, concurrency=8), [rows_of(n, 20) for n in range(3)]
            asyncio.run(loop(config, [one for rows in shards for one in rows]))
            bare = figures(url)
            rewriter(config, shards, tmp_path)
            ours = figures(url)
        finally:
            server.kill()
    assert bare["rows"] == ours["rows"] == 60 and bare["rate"] > 0 < ours["rate"]
    assert 0 < bare["at_once"] <= 8 and 0 < ours["at_once"] <= 8
