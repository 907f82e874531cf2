"""The job around distortion: shards in, shards of pairs out, resumed by shard, counts that add up, a page of it."""

from __future__ import annotations

import dataclasses
import io
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as Pillow

from actors.distortion import DistortionActor
from polite_flamingo.config import to_yaml
from polite_flamingo.distortion.config import DistortionConfig, EndpointConfig, LocalConfig, RetrievalConfig, Shares
from polite_flamingo.distortion.pairs import distort as distort_samples
from polite_flamingo.distortion.rule_speaker import RuleSpeaker
from polite_flamingo.distortion.speakers import Speaker, SpeakerRequest
from polite_flamingo.distortion.summary import count, pick, total
from polite_flamingo.endpoints.client import EndpointDown
from polite_flamingo.pools import PoolConfig, PoolsConfig
from polite_flamingo.report.distortion import write_distortion_page
from polite_flamingo.sample import Image, Quarantined, Sample, Turn
from polite_flamingo.storage.ledger import (
    Manifest,
    OutputLayout,
    encode_quarantine,
    read_manifest,
    read_quarantine,
    read_scored,
    write_file,
)
from polite_flamingo.storage.location import location
from polite_flamingo.storage.run_info import RunInfo
from polite_flamingo.storage.shards import write_shard
from ray_jobs import console
from ray_jobs.console import JobFailed
from ray_jobs.distort import DistortConfig, config_hash, distort, fail_without_pairs, speaker_of, summarise, try_out
from tests.support.build_world import text_row, write_world
from tests.support.page_reader import Page, assert_readable_aloud, assert_self_contained

REPO = Path(__file__).parents[2]
PROFILES = REPO / "profiles"


class MoodySpeaker(RuleSpeaker):
    """Fails on rows that say so."""

    name = "moody"

    def say(self, requests: Sequence[SpeakerRequest]) -> list[str]:
        if any("choke" in request.response for request in requests):
            raise RuntimeError("cannot say that")
        return super().say(requests)


class MoodyActor(DistortionActor):
    def load_speaker(self, config: DistortionConfig) -> Speaker:
        return MoodySpeaker()


class BrokenSpeaker(RuleSpeaker):
    def say(self, requests: Sequence[SpeakerRequest]) -> list[str]:
        raise ConnectionError("nobody answers")


class BrokenActor(DistortionActor):
    def load_speaker(self, config: DistortionConfig) -> Speaker:
        return BrokenSpeaker()


def job(source: Path, out: Path, **changes: object) -> DistortConfig:
    pools = PoolsConfig(distorting=PoolConfig(cpus=0.5, rows_per_call=4), max_failures_in_a_row=6)
    spoken = DistortionConfig(shares=Shares(llm=1, text=0, captions_and_boxes=0))  # nlpaug takes seconds to import
    return DistortConfig(**{"input": str(source), "out": str(out), "distortion": spoken, "pools": pools, **changes})  # type: ignore[arg-type]


def files(out: Path) -> dict[str, bytes]:
    """Return what must not depend on how often the job was started."""
    layout = OutputLayout(root=out, samples="pairs")
    manifests = {name: read_manifest(layout.manifest(name)) for name in layout.finished()}
    return {
        f"{kind} of {name}": (out / file.path).read_bytes()
        for name, manifest in manifests.items()
        for kind, file in manifest.files.items()
    }


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shards_become_pairs_once_and_what_fails_has_a_reason(
    tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_world(tmp_path / "in", shards=3, special={(1, 4): "A row to choke on is here."})
    chat = Sample(
        key="chats/train/1", dataset="chats", task="text",
        turns=(Turn(instruction="Hi?", response="Hello there, friend."), Turn(instruction="Who?", response="It is I.")),
    )  # fmt: skip
    picture = io.BytesIO()
    Pillow.new("RGB", (8, 8), "teal").save(picture, "PNG")
    described = Sample(
        key="llava_detail/train/7", dataset="llava_detail", task="dialogue", meta={"images": ["000000000007.jpg"]},
        turns=(Turn(instruction="<image>Describe it.", response="The picture is teal all over."),),
        images=(Image(extension="png", data=picture.getvalue()),),
    )  # fmt: skip
    write_shard(source / "s3.tar", [chat, replace(text_row(3, 1), rewritten="A pair already.")])
    write_shard(source / "s4.tar", [described])
    (source / "s2.tar").write_bytes((source / "s2.tar").read_bytes()[:5000])
    captions = tmp_path / "captions.json"
    annotated = [{"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "width": 8, "height": 8}]
    captions.write_text(json.dumps({"images": annotated, "annotations": [{"image_id": 7, "caption": "Teal."}]}))
    spoken = DistortionConfig(
        turns="all",
        shares=Shares(llm=1, text=0, captions_and_boxes=1e9),
        retrieval=RetrievalConfig(annotations=(str(captions),)),
    )
    config = job(source, tmp_path / "out", distortion=spoken)
    distort(config, MoodyActor)

    layout = OutputLayout(root=tmp_path / "out", samples="pairs")
    assert layout.finished() == ["s0", "s1", "s2", "s3", "s4"]
    pairs = [pair for name in layout.finished() for pair in read_scored(layout, name)]
    gone = [row for name in layout.finished() for row in read_quarantine(layout, name)]
    assert {row.reason: row.key for row in gone} == {
        "distortion_failed": "notes/s1/4", "truncated_tar": gone[1].key, "unsupported": "notes/s3/1",
    }  # fmt: skip
    assert len(gone) == 3 and "cannot say that" in gone[0].detail
    assert {"chats/train/1/turn0", "chats/train/1/turn1"} <= {pair.key for pair in pairs}
    originals = {row.key: row for shard in range(2) for row in [text_row(shard, n) for n in range(10)]}
    for pair in pairs:
        assert pair.rewritten and pair.response != pair.rewritten and len(pair.turns) == 1
        assert pair.provenance["shard"].endswith(".tar")
        if pair.key == described.key:
            assert (pair.response, pair.rewritten) == ("Teal.", described.response)
        else:
            assert pair.provenance["distortion"]["speaker"] == "moody"
        if pair.key in originals:
            assert pair.rewritten == originals[pair.key].response
    stats = json.loads(layout.stats.read_text())
    assert stats["rows_in"] == len(pairs) + len(gone) and stats["pairs"] == len(pairs)
    assert stats["kinds"] == {"llm": len(pairs) - 1, "captions_and_boxes": 1}
    assert stats["quarantined"] == {"distortion_failed": 1, "truncated_tar": 1, "unsupported": 1}
    assert read_manifest(layout.manifest("s0")).seconds.keys() == {"distortion"}
    assert_self_contained(layout.preview.read_text())

    before, made = files(tmp_path / "out"), layout.manifest("s0").path.stat().st_mtime_ns
    layout.manifest("s1").delete()  # as if the job had been killed just before it was written
    capsys.readouterr()
    distort(config, MoodyActor)
    assert files(tmp_path / "out") == before and layout.manifest("s0").path.stat().st_mtime_ns == made
    assert "4 of 5 shards are already done: s0, s2, s3, s4" in capsys.readouterr().out

    turn = Turn(instruction="<image>Describe it.", response="Red.")
    write_shard(source / "s4.tar", [replace(described, turns=(turn,))])
    with pytest.raises(ValueError, match=r"input of 1 of 5 shards has changed since .*: s4; give another"):
        distort(config, MoodyActor)
    write_shard(source / "s4.tar", [described])

    distort(replace(config, again=True))  # the plain rules do not choke
    assert "distortion_failed" not in json.loads(layout.stats.read_text())["quarantined"]
    assert layout.manifest("s0").path.stat().st_mtime_ns == made, "shards without such rows are left"
    with pytest.raises(ValueError, match="another configuration"):
        distort(replace(config, distortion=replace(spoken, seed=1)))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_speaker_that_is_broken_ends_the_job_instead_of_quarantining_everything(
    tmp_path: Path, ray_session: None
) -> None:
    source = write_world(tmp_path / "in", shards=2)
    with pytest.raises(JobFailed, match=r"rows in a row ended in distortion_failed.*nobody answers"):
        distort(job(source, tmp_path / "out"), BrokenActor)
    assert OutputLayout(root=tmp_path / "out").finished() == []


def test_help_explains_and_a_mistake_costs_one_line() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "ray_jobs.distort", "--help"], cwd=REPO, capture_output=True, text=True
    )
    assert shown.returncode == 0
    for part in (
        "--distortion.speaker",
        "the terse robot",
        "--distortion.shares.text",
        "--again",
        "--pools.distorting",
    ):
        assert part in shown.stdout, part
    wrong = subprocess.run(
        [sys.executable, "-m", "ray_jobs.distort", "--input", "a", "--out", "b", "--distortion.speaker", "local"],
        cwd=REPO, capture_output=True, text=True,
    )  # fmt: skip
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "distortion.local.model" in wrong.stderr


@pytest.mark.parametrize("name", ["tiny", "openflamingo-9b-v1"])
def test_profiles_say_how_to_distort(name: str) -> None:
    arguments = ["--profile", str(PROFILES / f"{name}.yaml"), "--input", "a", "--out", "b"]
    config = console.parse("distort", "", DistortConfig, arguments)
    assert config.distortion.speaker == {"tiny": "rules", "openflamingo-9b-v1": "endpoint"}[name]
    assert config.distortion.shares == Shares(), "the paper's counts"
    again = to_yaml(config)
    assert "api_key_variable" in again and "OPENAI_API_KEY" in again, "the name of the variable, never the key"


def test_the_hash_changes_with_what_a_pair_may_hang_on_and_with_nothing_else(tmp_path: Path) -> None:
    captions = tmp_path / "captions.json"
    captions.write_text("{}")

    def hashed(config: DistortionConfig) -> str:
        return config_hash(config, speaker_of(config))

    asked = DistortionConfig(speaker="endpoint", endpoint=EndpointConfig(model="m"))
    same = [
        asked,
        replace(asked, endpoint=EndpointConfig(model="m", url="https://elsewhere/v1", concurrency=2, timeout=9)),
        replace(asked, local=LocalConfig(batch=3)),
    ]
    assert len({hashed(config) for config in same}) == 1
    other = [
        DistortionConfig(),
        replace(asked, endpoint=EndpointConfig(model="n")),
        replace(asked, endpoint=EndpointConfig(model="m", api="chat")),
        replace(asked, seed=1),
        replace(asked, turns="all"),
        replace(asked, command_share=0.4),
        replace(asked, shares=Shares(text=1)),
        replace(asked, retrieval=RetrievalConfig(annotations=(str(captions),))),
        replace(asked, retrieval=RetrievalConfig(datasets=("x",))),
        DistortionConfig(speaker="local", local=LocalConfig(model="zoo:nli")),
        DistortionConfig(speaker="local", local=LocalConfig(model="zoo:reward")),
    ]
    assert len({hashed(config) for config in [asked, *other]}) == 12
    before = hashed(other[7])
    captions.write_text("{ }")
    assert hashed(other[7]) != before, "other annotations under the same name"


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}\u202e\x00</p></article>"


def pairs_of(
    count_: int, text: str = "A plain row of many words is written here, and another one is there."
) -> list[Sample]:
    rows = [replace(text_row(0, n, text), task="text") for n in range(count_)]
    made = distort_samples(rows, DistortionConfig(shares=Shares(llm=1, text=0, captions_and_boxes=0)))
    return [row for row in made if isinstance(row, Sample)]


def page(tmp_path: Path, pairs: Sequence[Sample], **stats: object) -> str:
    run = RunInfo(title="x", command="python -m ray_jobs.distort", started="2026-01-01", config=HOSTILE)
    numbers = {"shards": 1, "rows_in": len(pairs) + 2, "pairs": len(pairs), "quarantined_rows": 2}
    told = {**numbers, **total([count(pairs)]), "quarantined": {"bad_json": 2}, **stats}
    shown = pick(["s"], lambda name: pairs, 5)
    write_distortion_page(location(tmp_path / "page.html"), stats=told, pairs=shown, run=run)
    return (tmp_path / "page.html").read_text()


def test_the_page_shows_both_texts_and_says_plainly_who_spoke(tmp_path: Path) -> None:
    pairs = pairs_of(40)
    text = page(tmp_path, pairs)
    assert_self_contained(text)
    read = Page(text)
    assert_readable_aloud(read)
    assert "Speaker: rules. No language model was used" in " ".join(read.words.split())
    assert read.words.count("Distorted") == 5 and "5 of 40" in read.words and "bad_json" in read.words
    robot = [
        replace(pair, provenance={"distortion": {**pair.provenance["distortion"], "speaker": "guanaco"}})
        for pair in pairs
    ]
    text = " ".join(Page(page(tmp_path, robot)).words.split())
    assert "Speaker: guanaco." in text and "No language model was used" not in text


def test_text_from_anywhere_cannot_leave_its_place(tmp_path: Path) -> None:
    evil = [
        dataclasses.replace(
            pair, key=HOSTILE, dataset=HOSTILE, turns=(Turn(instruction=HOSTILE, response=HOSTILE),),
            rewritten=HOSTILE * 30,
            provenance={"distortion": {"kind": "llm", "speaker": HOSTILE, "command": HOSTILE, HOSTILE: {HOSTILE: 1}}},
        )
        for pair in pairs_of(3)
    ]  # fmt: skip
    text = page(tmp_path, evil)
    assert_self_contained(text)
    assert not {tag for tag, _ in Page(text).tags} & {"img", "script"} and "\x00" not in text


def test_the_page_counts_rejected_draws_and_commands_not_followed(tmp_path: Path) -> None:
    text = page(
        tmp_path, pairs_of(3), not_taken={"echo": 40, "cut": 2}, followed={"yes": 2, "no": 1}, not_followed={"typos": 1}
    )
    read = " ".join(Page(text).words.split())
    assert "42 draws rejected: 40 echo, 2 cut" in read and "Extra commands that were not followed" in read


def test_a_server_is_asked_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_world(tmp_path / "in", shards=1)
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        endpoint = EndpointConfig(url=address, model="m", pause=0.0, attempts=2)
        spoken = DistortionConfig(speaker="endpoint", endpoint=endpoint)
        monkeypatch.setattr("ray_jobs.distort.running_ray", None)  # starting Ray would raise
        with pytest.raises(EndpointDown, match=r"does not answer as it should.*refused.*Is it running") as raised:
            distort(job(source, tmp_path / "out", distortion=spoken))
        assert "\n" not in str(raised.value)
        try_out(replace(spoken, shares=Shares(llm=0)))  # nobody is needed


def test_not_one_pair_is_a_failure_that_says_why(tmp_path: Path) -> None:
    layout = OutputLayout(root=tmp_path, samples="pairs")
    gone = Quarantined(
        key="k", shard="s", index=0, reason="not_distorted", detail="k: 4 draws of llm, none taken: 4 echo"
    )
    files = {"quarantine": write_file(layout, "s", "0", "quarantine", encode_quarantine([gone, gone]))}
    manifest = Manifest(shard="s", rows_in=2, scored=0, quarantined=2, config_hash="", files=files)
    layout.manifest("s").create(manifest.to_json())
    told = {"rows_in": 2, "pairs": 0, "quarantined": {"not_distorted": 2}}
    layout.stats.put(json.dumps(told))
    with pytest.raises(
        console.AllFailed, match=r"not one of 2 rows became a pair: 2 not_distorted\. .*none taken: 4 echo"
    ):
        fail_without_pairs(layout)
    for fine in ({**told, "pairs": 1}, {**told, "rows_in": 0}):
        layout.stats.put(json.dumps(fine))
        fail_without_pairs(layout)


def test_a_page_of_nothing_is_a_page(tmp_path: Path) -> None:
    text = page(tmp_path, [])
    assert_self_contained(text)
    assert "0 pairs" in Page(text).words and "nobody" in text


def test_counts_add_up_over_shards_and_the_page_shows_many_commands() -> None:
    pairs = pairs_of(60)
    halves = [count(pairs[:25]), count(pairs[25:])]
    assert total(halves) == total([count(pairs)])
    assert sum(total(halves)["commands"].values()) == 60 == total(halves)["kinds"]["llm"]
    gone = Quarantined(key="k", shard="s", index=0, reason="bad_json", detail="d")
    assert count([gone]) == count([])
    shown = pick(["a", "b"], lambda name: pairs[:30] if name == "a" else pairs[30:], 8)
    assert len({pair.provenance["distortion"]["command"] for pair in shown["llm"]}) == 8


def test_a_summary_of_what_does_not_add_up_is_refused(tmp_path: Path) -> None:
    layout = OutputLayout(root=tmp_path, samples="pairs")
    with pytest.raises(AssertionError, match="written before"):
        summarise(layout)
