"""Samples to vote on, votes as people make them, and the page of votes in a browser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from polite_flamingo.candidates import Candidate, Rating
from polite_flamingo.preference.votes.battles import Battle, battles_of
from polite_flamingo.preference.votes.log import Action, Vote
from polite_flamingo.sample import Sample, Turn
from tests.support.made_samples import make_sample
from tests.support.patience import wait_until

ROOT = Path(__file__).parents[2]


def rewritten(number: int, *, reward: float = 1.0, nli: Sequence[float] = (-2.0, 3.0, 0.5)) -> Sample:
    """A sample of a build; its rewritten text has this much more reward than the raw annotation."""
    return replace(make_sample(number, 1), scores={"reward": reward, "reward_raw": 0.0, "nli": [*nli]})


def answered(number: int, answers: dict[str, float], judge: str = "rule") -> Sample:
    """A sample with one answer per model, and the judge's score of it."""
    candidates = tuple(
        Candidate(text=f"Text {place} on {number}.", model=model, number=place, ratings=(rated(judge, score),))
        for place, (model, score) in enumerate(answers.items())
    )
    return replace(make_sample(number, 1, rewritten=False), candidates=candidates)


def rated(judge: str, score: float, *, blind: bool = False) -> Rating:
    """A rating whose three scored attributes add up to `score`."""
    each = dict.fromkeys(("helpfulness", "correctness", "coherence"), score / 3)
    return Rating(judge=judge, values={**each, "complexity": 0, "verbosity": 0}, blind=blind)


def conversation(turns: int) -> Sample:
    """A sample of several rewritten turns about one picture."""
    made = make_sample(9, 1)
    return replace(
        made,
        task="dialogue",
        rewritten=None,
        turns=tuple(
            Turn(
                instruction="<image>" * (turn == 0) + f"Question {turn}?",
                response=f"raw {turn}",
                rewritten=f"Answer {turn}, gladly.",
            )
            for turn in range(turns)
        ),
    )


def battles(samples: Sequence[Sample]) -> list[Battle]:
    return [battle for sample in samples for battle in battles_of(sample)]


def cast(battle: Battle, voter: str, action: Action, *, left: str = "first", seconds: float = 4.0) -> Vote:
    return Vote(
        voter=voter, battle=battle.id, action=action, left=left, seconds=seconds, time="2026-11-30T12:00:00+00:00",
        kind=battle.kind, key=battle.key, turn=battle.turn, first=battle.first.name, second=battle.second.name,
        first_number=battle.first.number, second_number=battle.second.number,
    )  # fmt: skip


class Service:
    """`polite-flamingo vote` in a process of its own, which a test can kill and start again on the same port."""

    def __init__(self, source: Path, out: Path, *options: str):
        with socket.create_server(("127.0.0.1", 0)) as trial:
            self.port = int(trial.getsockname()[1])
        self._command = [sys.executable, "-m", "ray_jobs.vote", "--input", str(source), "--out", str(out)]
        self._command += ["--port", str(self.port), *options]
        self._said = out.parent / "said.txt"
        self.process: subprocess.Popen[bytes]

    def start(self) -> str:
        """Return the link that it prints."""
        with self._said.open("w") as said:
            self.process = subprocess.Popen(self._command, cwd=ROOT, stdout=said, stderr=said, env={**os.environ})
        wait_until(lambda: "#token=" in self._said.read_text() or self.process.poll() is not None)
        said_all = self._said.read_text()
        assert "#token=" in said_all, said_all
        return next(word for word in said_all.split() if "#token=" in word)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> str:
        """End it as Ctrl-C does, and return all it said."""
        self.process.terminate()
        self.process.wait()
        return self._said.read_text()
