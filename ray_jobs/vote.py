"""Let people vote on blind pairs in a browser; ratings, agreement and labels come from their votes.

    polite-flamingo vote --input out/demo --out out/votes
    polite-flamingo vote --input out/pairs/pairs --out out/votes --pairs 500
    polite-flamingo vote --input out/eval --answers out/evaluation --out out/votes --host 0.0.0.0
    polite-flamingo vote --input out/demo --out out/votes --results

Shows the rewritten texts of a build against its raw annotations, the two sides of pairs for training, several answers
to the same question (`sample`), or the answers of an evaluation's models. Serves until Ctrl-C; the same command goes on
where it stopped. Only whoever has the link that it prints can vote; by default only from this machine.

    OUT/votes.jsonl    every vote, appended and synced before the next pair is shown
    OUT/labels.jsonl   what people would keep, for polite-flamingo agreement and audit
    OUT/results.json OUT/report.html
    OUT/token OUT/keys.json   the link's token, and its hash
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.preference.pairing import WEIGHTS, check_weights
from polite_flamingo.preference.votes.battles import KINDS
from polite_flamingo.preference.votes.log import VoteLog
from polite_flamingo.preference.votes.page import KIND_NAMES, elo, page
from polite_flamingo.preference.votes.poll import Poll
from polite_flamingo.preference.votes.reading import Gathered, Wanted, gather
from polite_flamingo.preference.votes.results import Results, labels, results
from polite_flamingo.report.comparison import interval
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.location import Location, location, replacing
from ray_jobs import console, interruption
from ray_jobs.console import CannotStart
from ray_jobs.progress import counted

FEW = 100
"""Fewer votes than this come with a warning: the intervals are wide, and the bootstrap is too sure of them."""

STOP_SECONDS = 5
"""Seconds that open requests get when the server stops."""


@dataclass(frozen=True, kw_only=True)
class VoteConfig:
    """What people vote on, and where the page is.

    Attributes:
        input: output folder of a build, or shards of pairs (OUT/pairs of `pair`) or of sampled answers.
        out: folder of the votes, on a disk.
        answers: output folder of an evaluation of those shards, to vote on the answers of its models.
        show: rewriting, pairs or answers, where the samples hold several of them; by default pairs before answers
            before rewritten texts.
        pairs: most pairs to vote on, chosen at random.
        seed: of the choice and of every order.
        weights: of helpfulness, correctness, coherence, complexity and verbosity in the score that a judge gives an
            answer; as in `pair`.
        instruction: what voters read before they begin.
        host: address to listen on; 0.0.0.0 lets phones and other machines in.
        port: port of the page; 0 for any free one.
        results: only compute the results of the votes so far.
        resampling: how the intervals are made.
    """

    input: str
    out: str
    answers: str = field(default="", metadata={"metavar": "DIR"})
    show: str = ""
    pairs: int = 200
    seed: int = 0
    weights: tuple[float, ...] = WEIGHTS
    instruction: str = (
        "You see a question and two answers. Judge first whether an answer is right, then how helpful and polite it is."
    )
    host: str = "127.0.0.1"
    port: int = 8010
    results: bool = False
    resampling: Resampling = field(default_factory=Resampling)

    def __post_init__(self) -> None:
        """Raise ValueError for an impossible setting."""
        if self.show not in ("", *KINDS):
            raise ValueError(f"show: must be one of {', '.join(KINDS)}, got {self.show!r}")
        if self.answers and self.show not in ("", "answers"):
            raise ValueError(f"show: with answers, only answers can be shown, not {self.show}")
        check_weights(self.weights)
        if self.pairs < 1:
            raise ValueError(f"pairs: must be at least 1, got {self.pairs}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: must be from 0 (any free one) to 65535, got {self.port}")


def job(config: VoteConfig) -> None:
    """Run the job.

    Raises:
        ValueError: there is nothing to vote on, or the folder is in a bucket.
        CannotStart: the port is taken.
    """
    out = location(config.out)
    if out.local is None:
        raise ValueError(f"out: {config.out} is a bucket, which cannot append votes to a file; give a folder on a disk")
    with exclusive(out):
        wanted = Wanted(
            source=config.input, answers=config.answers, show=config.show, count=config.pairs, seed=config.seed,
            weights=config.weights,
        )  # fmt: skip
        gathered = gather(wanted, print)
        if not gathered.battles:
            raise ValueError(
                f"{config.input} holds no two different texts to choose between: {_rows(gathered)}; give a build with "
                "a rewriter, shards of pairs or of candidates, or --answers"
            )
        log = VoteLog(out.local / "votes.jsonl")
        try:
            if not config.results:
                serve(config, Poll(gathered.battles, log, config.seed), gathered, out.local)
            conclude(config, gathered, log, out)
        finally:
            log.close()


def serve(config: VoteConfig, poll: Poll, gathered: Gathered, out: Path) -> None:
    """Serve the page until a signal comes. Raises `CannotStart` if the port is taken."""
    import uvicorn

    from serving.votes.app import create_app

    token = link_token(out)
    app = create_app(poll, instruction=config.instruction, keys=out / "keys.json")
    with listen(config.host, config.port) as listening:
        port = listening.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(
                app, access_log=False, log_config=None, lifespan="off", timeout_graceful_shutdown=STOP_SECONDS
            )
        )
        kinds = {battle.kind for battle in gathered.battles}
        rows = [
            ("pairs", f"{len(gathered.battles):,}: {', '.join(KIND_NAMES[one].lower() for one in sorted(kinds))}"),
            ("from", _rows(gathered)),
            *[(where, f"http://{host}:{port}/#token={token}") for where, host in addresses(config.host)],
        ]
        print(console.table(rows, "vote: ready; Ctrl-C ends it and writes the results"), flush=True)
        interruption.on_signal(partial(setattr, server, "should_exit", True), STOP_SECONDS + 3.0)
        server.run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises `CannotStart` if the address is taken or is not of this machine."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = error.strerror or error
        raise CannotStart(f"cannot listen on {host}:{port} ({why}); choose another one with --port or --host") from None


def addresses(host: str) -> list[tuple[str, str]]:
    """Return under which addresses the page is found, with the name of each."""
    if host not in ("0.0.0.0", "::"):
        return [("page", f"[{host}]" if ":" in host else host)]
    found = [("page", "127.0.0.1")]
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        trial.connect(("192.0.2.1", 9))  # sends nothing: it only asks which of our addresses would be used
        own = trial.getsockname()[0]
        if not ipaddress.ip_address(own).is_loopback:
            found.append(("from elsewhere", own))
    return found


def link_token(out: Path) -> str:
    """Return the token of the link, the same each time, so that open pages survive a restart."""
    from serving.http.keys import new_key, read_keys, write_keys

    place, keys = out / "token", out / "keys.json"
    known = read_keys(keys) if keys.exists() else []
    token = place.read_text().strip() if place.exists() else ""
    if hashlib.sha256(token.encode()).hexdigest() not in {key.sha256 for key in known}:
        token, key = new_key("the link to the votes")
        write_keys(keys, [*known, key])
        with replacing(place) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(f"{token}\n".encode())
    return token


def conclude(config: VoteConfig, gathered: Gathered, log: VoteLog, out: Location) -> None:
    """Write what the votes say, and print it."""
    battles, votes = {battle.id: battle for battle in gathered.battles}, log.all()
    found = results(battles, votes, config.resampling)
    lines = labels(votes)
    (out / "labels.jsonl").put("".join(json.dumps(line) + "\n" for line in lines))
    (out / "results.json").put(json.dumps(found.to_json(), indent=1) + "\n")
    about = [
        ("Input", config.input),
        *([("Answers", config.answers)] if config.answers else []),
        ("Pairs", f"{len(battles):,} of {gathered.possible:,} possible, chosen with seed {config.seed}"),
        ("Rows", _rows(gathered)),
        ("Instruction", config.instruction),
    ]
    report = out / "report.html"
    report.put(page(found, battles, votes, about=about, resampling=config.resampling))
    print(console.table(_summary(found, log, len(lines), report), "what the votes say"))


def _summary(found: Results, log: VoteLog, kept: int, report: Location) -> list[tuple[str, str]]:
    made = sum(count for said, count in found.votes.items() if said != "skip")
    few = f"; fewer than {FEW}, so the figures are rough" if made < FEW else ""
    rows = [("votes", f"{made:,} of {counted(len(found.voters), 'voter')}, on {counted(found.voted, 'pair')}{few}")]
    if log.damaged:
        rows.append(("damaged", f"{counted(log.damaged, 'line')} of votes.jsonl cannot be read and counts for nothing"))
    if found.elsewhere:
        rows.append(("not shown now", f"{counted(found.elsewhere, 'vote')} on other pairs, in the ratings only"))
    rows += [(one.name, elo(one)) for table in found.tables for one in table.people]
    for one in found.agreements:
        share = interval(one.share, share=True)
        rows.append((f"{one.rater} and people", f"{share} agree, kappa {interval(one.kappa)}, n = {one.share.n:,}"))
    return [*rows, ("labels", counted(kept, "line")), ("page", str(report))]


def _rows(gathered: Gathered) -> str:
    """Return where every row went."""
    good = gathered.rows - gathered.quarantined - gathered.without
    total, read = gathered.shards
    shards = counted(total, "shard") if read == total else f"{read:,} of {total:,} shards"
    rest = f"{gathered.without:,} without, {gathered.quarantined:,} unreadable"
    return f"{counted(good, 'row')} with a pair, {rest}, in {shards}"


main = partial(console.run, "vote", __doc__, VoteConfig, job)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
