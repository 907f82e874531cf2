"""`python -m tests.support.run_rewriting URL INPUT OUT`: the rewriting actor and the commit of a build, without Ray.

Two shards are in work at once, each in a thread. A process of its own, to be killed; it skips finished shards.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from actors.base import ActorSettings
from actors.commit import commit_blocks
from actors.rewriting import RewriterActor
from actors.rows import Block
from polite_flamingo.faults import journal
from polite_flamingo.rewriters.config import EndpointConfig, RewriterSection
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import location
from polite_flamingo.storage.shards import read_shard
from tests.support.fake_chat import MODEL


def main(url: str, source: str, out: str) -> None:
    layout = OutputLayout(root=out)
    journal.clear(layout.journal)
    endpoint = EndpointConfig(urls=(url,), model=MODEL, concurrency=6, pause=0.0, longest_pause=0.02)
    settings = ActorSettings(out=location(out), rows_per_call=8, max_failures_in_a_row=8, actors=1)
    actor = RewriterActor(RewriterSection(kind="endpoint", endpoint=endpoint), settings)

    def run(path: Path) -> None:
        rows = read_shard(location(path))
        block = Block(name=path.stem, shard=str(path), first=0, shard_rows=len(rows), rows=rows)
        commit_blocks(actor(block.to_table()), layout, "made", answers=True)

    finished = layout.finished()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, [path for path in sorted(Path(source).glob("*.tar")) if path.stem not in finished]))


if __name__ == "__main__":
    main(*sys.argv[1:])
