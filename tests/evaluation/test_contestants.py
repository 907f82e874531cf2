from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from polite_flamingo.endpoints.answers import Unfinished
from polite_flamingo.evaluation.contestants import Checkpoint, Endpoint, Recorded, contestants_of, wanted_by
from polite_flamingo.evaluation.responses import read_responses, write_responses
from polite_flamingo.flamingo.config import FlamingoConfig
from polite_flamingo.flamingo.model.saved import FILE, write_config
from polite_flamingo.hub import ZOO
from polite_flamingo.sample import BadSample
from polite_flamingo.storage.location import location

MODEL = FlamingoConfig(vision="zoo:clip", language_model="zoo:flamingo", tokenizer="zoo:flamingo")


def test_all_forms(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / FILE).write_text(write_config(tmp_path / "model", MODEL))
    profile = tmp_path / "profile.yaml"
    profile.write_text(
        yaml.safe_dump({"rewriter": {"flamingo": {"vision": "a", "language_model": "b", "tokenizer": "c"}}})
    )
    (tmp_path / "said.jsonl").write_text("")
    found = contestants_of(
        {
            "folder": str(tmp_path / "model"),
            "embedded": "zoo:clever_flamingo",
            "profile": str(profile),
            "file": f"recorded:{tmp_path}/said.jsonl",
            "server": "endpoint:org/a@model@https://host:8000/v1",
        }
    )
    assert found == {
        "folder": Checkpoint(flamingo=FlamingoConfig(folder=str(tmp_path / "model"))),
        "embedded": Checkpoint(flamingo=FlamingoConfig(folder=str(ZOO / "clever_flamingo"))),
        "profile": Checkpoint(flamingo=FlamingoConfig(vision="a", language_model="b", tokenizer="c")),
        "file": Recorded(place=location(tmp_path / "said.jsonl")),
        "server": Endpoint(model="org/a@model", url="https://host:8000/v1"),
    }


def test_steerlm_s_contestants_are_asked_for_what_they_were_trained_on() -> None:
    url = "https://host:8000/v1"
    found = contestants_of(
        {
            "plain": f"endpoint:m@{url}",
            "best": f"steerlm-best:endpoint:m@{url}",
            "short": "steerlm-short:zoo:clever_flamingo",
        }
    )
    assert found["best"] == Endpoint(model="m", url=url, wanted="best")
    assert isinstance(found["short"], Checkpoint) and found["short"].flamingo.folder == str(ZOO / "clever_flamingo")
    assert wanted_by(found["plain"]) == {} and [*wanted_by(found["best"]).values()] == [4] * 5
    assert [*wanted_by(found["short"]).values()] == [4, 4, 4, 2, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("steerlm-best:recorded:{folder}/other.yaml", "steerlm-best: takes a model or an endpoint, not 'recorded:"),
        ("steerlm-best:steerlm-best:zoo:clever_flamingo", "takes a model or an endpoint, not 'steerlm-best:"),
        ("steerlm-best:gpt-4", "'gpt-4' does not exist and has no known form"),
        ("gpt-4", r"contestant x: 'gpt-4' does not exist and has no known form \(a model's folder"),
        ("recorded:nowhere.jsonl", "contestant x: the file 'nowhere.jsonl' does not exist"),
        ("endpoint:gpt", "is not endpoint:MODEL@http"),
        ("endpoint:@http://host/v1", "is not endpoint:MODEL@http"),
        ("{folder}", "is not a trained model: it has no flamingo.yaml"),
        ("{folder}/other.yaml", "has no section rewriter.flamingo"),
        ("base:{folder}/other.yaml", "has no section training.base"),
        ("base:nowhere.yaml", "does not exist and has no known form"),
        ("{folder}/typo.yaml", "vison"),
        ("zoo:nothing", "contestant x: model 'zoo:nothing': .* does not exist"),
        ("zoo:nli", "has no flamingo.yaml"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "other.yaml").write_text("scoring: {nli: zoo:nli}\n")
    (tmp_path / "typo.yaml").write_text("rewriter: {flamingo: {vison: a}}\n")
    with pytest.raises(ValueError, match=message) as error:
        contestants_of({"x": line.format(folder=tmp_path)})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["raw annotation", "a/b", "", "..", "a b"])
def test_a_name_must_be_one_of_a_folder(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a name"):
        contestants_of({name: "recorded:x"})


def test_answers_and_failures_survive_the_file(tmp_path: Path) -> None:
    answers = {
        "a/b/1": "A dog.\nTwo lines, “quoted”.", "a/b/2": "", "a/b/3": BadSample("corrupt_image", "cut short"),
        "a/b/cut": Unfinished("A dog", "length"), "a/b/4": "half \ud800",
    }  # fmt: skip
    write_responses(tmp_path / "said.jsonl", answers)
    found = read_responses(tmp_path / "said.jsonl")
    assert list(found) == list(answers)
    bad, cut = found.pop("a/b/3"), found["a/b/cut"]
    assert isinstance(cut, Unfinished) and cut.why == "length"
    assert isinstance(bad, BadSample) and (bad.reason, bad.detail) == ("corrupt_image", "cut short")
    assert found == {key: answer for key, answer in answers.items() if key != "a/b/3"}


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"key": "a"}', '{"key": 1, "response": "x"}', '{"key": "a", "response": null}',
             '{"key": "a", "failed": "bad luck"}'],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "said.jsonl").write_text('{"key": "first", "response": "x"}\n\n' + line + "\n")
    with pytest.raises(ValueError, match=r"said.jsonl, line 3: each line must be like"):
        read_responses(tmp_path / "said.jsonl")


def test_a_key_answered_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "said.jsonl").write_text('{"key": "a", "response": "x"}\n' * 2)
    with pytest.raises(ValueError, match="line 2: 'a' is already on an earlier line"):
        read_responses(tmp_path / "said.jsonl")
    (tmp_path / "said.jsonl").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_responses(tmp_path / "said.jsonl")


def test_the_base_of_the_tiny_profile_is_its_model_without_the_rewriter_s_lora() -> None:
    profile = Path(__file__).parents[2] / "profiles" / "tiny.yaml"
    found = contestants_of({"polite": str(profile), "base": f"base:{profile}"})
    polite, base = found["polite"], found["base"]
    assert isinstance(polite, Checkpoint) and isinstance(base, Checkpoint)
    assert base.flamingo == dataclasses.replace(polite.flamingo, lora="") != polite.flamingo


def test_a_folder_s_model_is_checked_at_once(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(write_config(tmp_path, dataclasses.replace(MODEL, vision="x")) + "surprise: 1\n")
    with pytest.raises(ValueError, match="surprise"):
        contestants_of({"x": str(tmp_path)})
