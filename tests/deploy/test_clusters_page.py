"""The commands of docs/clusters.md: at most ten from a bucket to a report, and every one is understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from polite_flamingo.sources.registry import SOURCES
from ray_jobs import build_pf1m, console, ingest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clusters.md").read_text()
WAYS = {
    title: re.search(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for title, text in re.findall(r"^## (ray up|Kubernetes|Slurm)\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
}


@pytest.fixture(params=["ray up", "Kubernetes", "Slurm"])
def commands(request: pytest.FixtureRequest) -> list[str]:
    block = WAYS[request.param]
    assert block, f"no commands under {request.param}"
    return block[1].replace("\\\n", " ").splitlines()


def test_ten_commands_lead_from_a_bucket_to_a_report(commands: list[str]) -> None:
    assert len(commands) <= 10
    assert any("s3://BUCKET/shards" in command for command in commands)
    assert "aws s3 cp s3://BUCKET/pf1m/report.html ." in commands


def test_our_command_line_understands_them(commands: list[str]) -> None:
    for command in commands:
        words = shlex.split(command)
        if "polite-flamingo" not in words:
            continue
        job, *arguments = words[words.index("polite-flamingo") + 1 :]
        if job == "ingest":
            options = console.parse(job, "", ingest.IngestOptions, arguments)
            assert options.source in SOURCES and options.out == "s3://BUCKET/shards"
        else:
            built = console.parse(job, "", build_pf1m.BuildConfig, arguments)
            assert (job, built.input, built.out) == ("build", "s3://BUCKET/shards", "s3://BUCKET/pf1m")
            assert built.pools.autoscaling == (words[0] != "sbatch"), "Slurm starts no more nodes, the others do"


def test_rays_command_line_understands_them(commands: list[str]) -> None:
    from ray.dashboard.modules.job.cli import job_cli_group
    from ray.scripts.scripts import cli

    for command in commands:
        words = shlex.split(command)
        if "ray" in words[:2]:
            name, *arguments = words[words.index("ray") + 1 :]
            found = cli.commands[name]
            if name == "job":
                found, arguments = job_cli_group.commands[arguments[0]], arguments[1:]
            found.make_context(name, arguments)  # an unknown option raises


def test_the_files_and_names_in_them_exist(commands: list[str]) -> None:
    for name in re.findall(r"(?:deploy/\S+|cluster\.yaml)", " ".join(commands)):
        assert (ROOT / name).is_file(), name
    manifests = [*(ROOT / "deploy/kuberay").glob("*.yaml")]
    named = {one["metadata"]["name"] for path in manifests for one in yaml.safe_load_all(path.read_text())}
    for command in commands:
        if pod := re.search(r"kubectl (?:delete pod|cp weights|logs -f job/) ?([\w-]+)", command):
            assert pod[1] in named, command
        if secret := re.search(r"create secret generic ([\w-]+)", command):
            assert all(secret[1] in path.read_text() for path in manifests if path.name != "weights.yaml")


def test_the_rights_on_the_page_are_those_of_the_policy() -> None:
    told = set(re.findall(r"^\| `(s3:\w+)`", PAGE, re.MULTILINE))
    policy = (ROOT / "deploy" / "aws" / "bucket.json").read_text()
    assert told == set(re.findall(r"s3:\w+", policy))
