"""What a user gives as a path is a path of this machine, or refused in one line by every job."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from polite_flamingo.ingest.mixture import Entry, Mixture
from polite_flamingo.storage.user_paths import expanded, is_pattern, user_path
from ray_jobs import console, ingest
from ray_jobs.build_pf1m import BuildConfig
from ray_jobs.distort import DistortConfig
from ray_jobs.evaluate_config import EvaluateConfig
from ray_jobs.replay import ReplayConfig
from ray_jobs.select import SelectConfig
from ray_jobs.train import TrainConfig

REPO = Path(__file__).parents[2]
TINY = ["--profile", str(REPO / "profiles" / "tiny.yaml")]


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("s3:/bucket/data", "two slashes: s3://bucket/data"),
        ("s3://", "names no bucket"),
        ("S3://bucket/data", "write s3:// in small letters"),
        ("s3://user@bucket/data", "user@bucket is not the name of a bucket"),
        ("s3://bucket:80/data", "bucket:80 is not the name of a bucket"),
        ("s3://b*/data", "is not the name of a bucket"),
        ("s3://bucket//data", "write the key itself"),
        ("s3://bucket/a/../b", "write the key itself"),
        ("s3://bucket/./b", "write the key itself"),
        ("s3://bucket/data\n", "no control characters"),
        ("s3a://bucket/data", "write s3://"),
        ("https://a.example/0.tar", "download it first"),
        ("file:///data", "without file://"),
        ("abfs://c@a.dfs.core.windows.net/x", "write az://CONTAINER"),
        ("pipe:aws s3 cp s3://b/0.tar -", "copy it to a disk"),
        ("", "is empty"),
        ("$NOT_SET_HERE/data", r"\$NOT_SET_HERE is not set"),
        ("~nobody-of-this-name/data", "no such user"),
    ],
)
def test_what_is_no_path_is_refused_with_a_remedy(given: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    with pytest.raises(ValueError, match=remedy) as caught:
        user_path(given, "--input")
    assert str(caught.value).startswith("--input") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["s3://bucket/data", "gs://bucket", "az://container/a/b/", "s3://bucket/a..b/.c/**/{d,e}*"]
)
def test_addresses_are_taken_as_they_are_where_data_lies(address: str) -> None:
    assert all(user_path(address, option) == address for option in ("--input", "--out", "--data.a", "--annotations"))
    with pytest.raises(
        ValueError, match=r"--mixture .* takes a path on this machine: .*--input and --out take addresses"
    ):
        user_path(address, "--mixture")


def test_a_profile_lies_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        console.parse("select", "", SelectConfig, ["--profile", "s3://bucket/mine.yaml", "--out", "out"])
    assert "--profile s3://bucket/mine.yaml: --profile takes a path on this machine" in capsys.readouterr().err


def test_a_hub_is_only_read() -> None:
    assert user_path("hf://datasets/a/b", "--input") == "hf://datasets/a/b"
    with pytest.raises(ValueError, match=r"--out hf://datasets/a/b: hf:// is only read"):
        user_path("hf://datasets/a/b", "--out")


def test_homes_and_variables_are_replaced_unless_a_file_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert user_path("~/a", "--out") == user_path("$HOME/a", "--out") == user_path("${HOME}/a", "--out")
    assert user_path("~/a", "--out") == f"{tmp_path}/a"
    for odd in ("$HOME", "a b\n", "C:", "x:y", "{a,b}", "c:\\data"):
        (tmp_path / odd).mkdir()
        assert user_path(odd, "--out") == odd and not is_pattern(odd)
    assert user_path("absent/", "--out") == "absent/"


def test_patterns_stand_for_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/08.tar", "a/09.tar", "a/10.tar", "b/x.tar"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    assert expanded("a/{08..10}.tar") == ["a/08.tar", "a/09.tar", "a/10.tar"]
    assert expanded("{b,a}/*.tar") == ["b/x.tar", "a/08.tar", "a/09.tar", "a/10.tar"]
    assert expanded("a/{08,10}.tar") == ["a/08.tar", "a/10.tar"]
    assert not is_pattern("a/{x}.tar") and is_pattern("a/0?.tar")
    with pytest.raises(
        ValueError, match=r"3 of the 6 files of a/\{08\.\.13\}\.tar do not exist; the first is a/11\.tar"
    ):
        expanded("a/{08..13}.tar")
    with pytest.raises(ValueError, match=r"nothing matches c/\*\.tar"):
        expanded("c/*.tar")
    for endless in ("{0..99999999}.tar", "{0..9999}{0..9999}.tar"):
        with pytest.raises(ValueError, match=r"more than 1,000,000"):
            expanded(endless)


JOBS = {
    "build_pf1m": (BuildConfig, ("input", "out")),
    "distort": (DistortConfig, ("input", "out")),
    "evaluate": (EvaluateConfig, ("input", "out")),
    "train": (TrainConfig, ("data.a", "out", "init")),
    "select": (SelectConfig, ("out",)),
    "replay": (ReplayConfig, ("out",)),
}


@pytest.mark.parametrize("option", ["build_pf1m input", *(f"{job} {o}" for job, (_, os) in JOBS.items() for o in os)])
def test_every_job_refuses_an_address_before_it_makes_a_folder_of_it(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    job, _, wrong = option.partition(" ")
    config_class, options = JOBS[job]
    arguments = [*TINY, *(["--stage", "clever-1"] if job == "train" else [])]
    for name in options:
        value = "ftp://host/x" if name == wrong else "x"
        arguments += ["--data", f"{{a: '{value}'}}"] if name == "data.a" else [f"--{name}", value]
    with pytest.raises(SystemExit) as caught:
        console.parse(job, "", config_class, arguments)
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.count("\n") == 1
    assert f"--{wrong} ftp://host/x: ftp: is not supported" in said
    assert not list(tmp_path.iterdir())


def test_a_path_in_a_profile_is_read_likewise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HERE", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("input: $HERE/in\nout: ~/out\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    made = console.parse("build_pf1m", "", BuildConfig, [*TINY, "--profile", str(tmp_path / "mine.yaml")])
    assert (made.input, made.out) == (f"{tmp_path}/in", f"{tmp_path}/out")


@pytest.mark.parametrize("wrong", ["annotations", "images", "out", "root", "mixture"])
def test_an_ingest_refuses_an_address_in_one_line(
    tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--source", "table", "--annotations", "t.csv", "--images", ".", "--out", "out"]
    if wrong == "mixture":
        arguments = ["--out", "out"]
    with pytest.raises(SystemExit) as ended:
        sys.exit(ingest.main([*arguments, f"--{wrong}", "ftp://host/x"]))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"--{wrong} ftp://host/x: ftp: is not supported" in said
    assert not list(tmp_path.iterdir())


def test_a_mixture_names_the_entry_with_an_address(tmp_path: Path) -> None:
    mixture = Mixture(sources={"a": Entry(source="table", annotations=["https://a.example/t.csv"])})
    with pytest.raises(ValueError, match=r"a: annotations https://a\.example/t\.csv: https: is not supported"):
        mixture.configs(tmp_path, tmp_path)


def test_annotations_may_be_a_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (8, 9, 10):
        (tmp_path / f"{number:02d}.csv").write_text(f"prompt,response\nhello {number},hi\n")
    command = ["--source", "table", "--out", str(tmp_path / "out"), "--local", "--annotations"]
    assert ingest.main([*command, f"{tmp_path}/{{08..10}}.csv"]) == 0
    assert "3 samples" in capsys.readouterr().out
    assert ingest.main([*command, f"{tmp_path}/{{08..12}}.csv"]) == 2
    assert "2 of the 5 files" in capsys.readouterr().err
