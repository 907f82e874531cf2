"""What a user reads when something is wrong: one line, exit status 2, and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from polite_flamingo.config import SECTIONS, to_yaml
from polite_flamingo.pools import PoolConfig, PoolsConfig
from ray_jobs import console, select
from ray_jobs.build_pf1m import BuildConfig, identify
from ray_jobs.cluster import await_room, check_size
from ray_jobs.replay import ReplayConfig
from ray_jobs.select import SelectConfig, settings_of_build

REPO = Path(__file__).parents[2]
TINY = str(REPO / "profiles" / "tiny.yaml")
COMMON = ["--profile", TINY, "--input", "in", "--out", "out"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=REPO, capture_output=True, text=True, timeout=500)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, job: type = BuildConfig) -> str:
    """The one line of an exit with status 2."""
    with pytest.raises(SystemExit) as exit:
        console.parse("build_pf1m", "", job, arguments)
    assert exit.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    return printed


@pytest.mark.parametrize(
    "profile",
    sorted(set((REPO / "profiles").glob("*.yaml")) - set((REPO / "profiles").glob("*-mixture.yaml"))),
    ids=lambda path: path.stem,
)
def test_every_profile_fills_a_build_and_survives_being_written(profile: Path, tmp_path: Path) -> None:
    config = console.parse("b", "", BuildConfig, ["--profile", str(profile), "--input", "in", "--out", "out"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert console.parse("b", "", BuildConfig, ["--profile", str(tmp_path / "config.yaml")]) == config


def test_the_command_line_wins_over_the_profile() -> None:
    config = console.parse("b", "", BuildConfig, [*COMMON, "--thresholds.sts", "0.5", "--fresh"])
    assert (config.thresholds.sts, config.fresh, config.rewriter.flamingo.vision) == (0.5, True, "zoo:clip")


def test_one_profile_serves_every_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = tmp_path / "all.yaml"
    others = "\n".join(f"{section}: {{whatever: 1}}" for section in SECTIONS if section not in ("thresholds", "prices"))
    profile.write_text(f"{others}\nthresholds: {{sts: 0.7}}\n")
    config = console.parse("s", "", SelectConfig, ["--profile", str(profile), "--out", "out"])
    assert config.thresholds.sts == 0.7
    profile.write_text("treshold: {sts: 0.7}\n")
    assert "treshold" in refused(capsys, f"--profile={profile}", "--out", "out", job=SelectConfig)


def test_mistakes_end_with_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("rewriter:\n  flamingo:\n    visoin: zoo:clip\n")
    assert "flamingo.visoin" in refused(capsys, "--profile", str(bad), "--input", "a", "--out", "b")
    bad.write_text("thresholds: {sts: 0.7}\npools: {rewritting: {}}\n")
    assert "pools.rewritting: unknown; did you mean pools.rewriting?" in refused(capsys, "--profile", str(bad))
    bad.write_text("rewriter: [\n")
    assert "parsing" in refused(capsys, "--profile", str(bad), "--input", "a", "--out", "b")
    assert "does not exist" in refused(capsys, "--profile", "absent.yaml", "--input", "a", "--out", "b")
    assert "--thresholds.sst" in refused(capsys, *COMMON, "--thresholds.sst", "0.5")
    assert "--threshold.sts: unknown; did you mean --thresholds.sts?" in refused(
        capsys, *COMMON, "--threshold.sts", "1"
    )
    assert "thresholds.sts: must be a number, got 'high'" in refused(capsys, *COMMON, "--thresholds.sts", "high")
    whole = "give the mapping as a whole, such as --prices.tokens '{judge: {prompt: VALUE}}'"
    assert whole in refused(capsys, *COMMON, "--prices.tokens.judge.prompt", "1")
    assert "required: out" in refused(capsys, "--profile", TINY, "--input", "a")
    assert "min_actors" in refused(capsys, *COMMON, "--pools.rewriting.min_actors", "3")
    assert "none of truncated_tar" in refused(capsys, "--out", "a", "--reason", "[mood]", job=ReplayConfig)
    assert "required: out" in refused(capsys, job=SelectConfig)


def test_too_small_a_cluster_is_refused_before_it_hangs() -> None:
    check_size({"CPU": 2.0}, PoolsConfig().needs())
    check_size({"CPU": 2.0}, PoolsConfig().needs(), {"CPU": 1.75})
    with pytest.raises(ValueError, match=r"need 1\.75 CPUs; of the cluster's 8, others hold 7 and 1 are free"):
        check_size({"CPU": 8.0}, PoolsConfig().needs(), {"CPU": 1.0})
    with pytest.raises(ValueError, match=r"need 1\.75 CPUs; of the cluster's 8, others hold 8 and 0 are free"):
        check_size({"CPU": 8.0}, PoolsConfig().needs(), {"memory": 1e9})
    with pytest.raises(ValueError, match=r"need 1\.75 CPUs and the cluster has 1, .*lower pools\.\* in"):
        check_size({"CPU": 1.0}, PoolsConfig().needs())
    with pytest.raises(ValueError, match=r"need 0\.5 GPUs and the cluster has 0.* add --pools\.autoscaling true"):
        check_size({"CPU": 8.0}, PoolsConfig(scoring=PoolConfig(gpus=0.5)).needs())


def test_a_head_without_machines_is_not_too_small(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"memory": 1e9})
    await_room(PoolsConfig().needs())
    assert capsys.readouterr().err == "the cluster has no CPU yet, waiting for its machines …\n"
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 1.0})
    with pytest.raises(ValueError, match="the cluster has 1"):
        await_room(PoolsConfig().needs())


def test_the_hash_covers_results_and_nothing_else(tmp_path: Path) -> None:
    weights = tmp_path / "model.bin"
    weights.write_bytes(b"one")

    def identity(*more: str) -> str:
        arguments = ["--rewriter.flamingo.checkpoints", f"[{weights}]", "--rewriter.flamingo.language_model", "any",
                     "--rewriter.flamingo.tokenizer", "any", "--rewriter.flamingo.vision", "any",
                     "--rewriter.flamingo.lora", "", "--scoring.nli", "any", "--scoring.clip", "any",
                     "--scoring.reward", "any", "--scoring.sts", "any"]  # fmt: skip
        return identify(console.parse("b", "", BuildConfig, [*COMMON, *arguments, *more]))[0]

    first = identity()
    assert (
        identity("--thresholds.sts", "0.9", "--out", "b", "--rewriter.threads", "2", "--scoring.device", "cuda")
        == first
    )
    assert identity("--pools.rewriting.max_actors", "3") == first
    assert identity("--rewriter.engine.slots", "5", "--rewriter.beam_batch", "3") == first, "greedy: no beams"
    beams = ["--rewriter.generation.num_beams", "3"]
    assert identity(*beams, "--rewriter.engine.slots", "5") == identity(*beams) != first
    calls = ["--pools.rewriting.rows_per_call", "5"]
    assert identity(*calls) == identity("--pools.scoring.rows_per_call", "5") == first
    assert len({identity(*beams, *more) for more in ([], ["--rewriter.beam_batch", "3"], calls)}) == 3, "seeds"
    others = {
        identity("--rewriter.generation.max_new_tokens", "7"),
        identity("--scoring.nli", "another"),
    }
    weights.write_bytes(b"two")
    others.add(identity())
    assert len(others | {first}) == 4


def test_select_keeps_the_thresholds_of_the_build_that_are_not_named(tmp_path: Path) -> None:
    config = console.parse(
        "b", "", BuildConfig, [*COMMON, "--thresholds.clip", "27", "--thresholds.clip_single", "true"]
    )
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    arguments = ["--thresholds.sts", "0.6", "--out", str(tmp_path)]
    found = console.parse("s", "", SelectConfig, [*settings_of_build(arguments), *arguments]).thresholds
    assert (found.sts, found.clip, found.clip_single) == (0.6, 27.0, True)
    assert settings_of_build(["--out", str(tmp_path / "none")]) == settings_of_build(["--help"]) == []


def test_select_imports_neither_ray_nor_torch() -> None:
    code = "import sys, ray_jobs.select; assert not {'ray', 'torch', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, timeout=500).returncode == 0


def test_commands_end_with_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = command("ray_jobs.build_pf1m", "--profile", TINY, "--input", str(tmp_path / "none"), "--out", str(tmp_path))
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert "does not exist; give a folder of .tar shards" in found.stderr
    found = command("ray_jobs.select", "--out", str(tmp_path))
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert "holds no finished shard; give the --out of a polite-flamingo build" in found.stderr
    assert console.run("select", "", SelectConfig, select.job, ["--out", str(tmp_path / "none")]) == 2
    assert "none holds no finished shard; give the --out of a polite-flamingo build" in capsys.readouterr().err


def test_help_names_every_section() -> None:
    found = command("ray_jobs.build_pf1m", "--help")
    assert found.returncode == 0
    for option in ("--profile", "--input", "--out", "--fresh", "--thresholds.sts", "--pools.rewriting.max_actors"):
        assert option in found.stdout
    assert "delete what an earlier run left" in found.stdout


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no"), 2),
        (console.CannotStart("no"), 2),
        (console.JobFailed("no"), 1),
        (console.AllFailed("no"), 1),
    ],
)
def test_work_that_failed_ends_with_status_1_and_what_could_not_begin_with_2(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(config: SelectConfig) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["select", *COMMON[:2], "--out", "out"])
    assert console.run("select", "", SelectConfig, job) == status
    assert capsys.readouterr().err == "select: error: no\n"
