"""The command and the files for `serve deploy`, as far as they go without Ray running."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from polite_flamingo.pools import Needs, PoolsConfig
from ray_jobs import console, serve
from ray_jobs.build_pf1m import BuildConfig
from ray_jobs.console import CannotStart
from ray_jobs.serve import HAPROXY_FILES, ServeConfig, check_port, private_folder
from serving.batches.build_files import profile_of
from serving.config import ScaleConfig, ServiceConfig, from_profile

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "serving").glob("*.yaml"))


def test_there_is_a_file_for_the_tiny_models_and_one_for_the_published() -> None:
    assert [file.name for file in FILES] == ["clever-9b.yaml", "tiny.yaml"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_ray_serve_takes_the_file_and_the_service_its_arguments(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve.schema import ServeDeploySchema

    from serving.server.deployments import app

    monkeypatch.chdir(ROOT)
    schema = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text()))
    (application,) = schema.applications
    assert application.import_path == "serving.server.deployments:app" and application.route_prefix == "/"
    assert app(application.args)._bound_deployment.name == "ingress"


def test_only_the_service_with_keys_listens_to_other_machines() -> None:
    for file in FILES:
        content = yaml.safe_load(file.read_text())
        outside = content["http_options"]["host"] != "127.0.0.1"
        keys = content["applications"][0]["args"]["set"].get("serving.access.keys", "")
        assert bool(keys) == outside, file.name


def test_what_cannot_be_served_is_told_before_anything_starts() -> None:
    from serving.server.deployments import app, build

    beams = from_profile(ROOT / "profiles/tiny.yaml", {"serving.chat.generation.num_beams": 3})
    with pytest.raises(ValueError, match=r"clever-flamingo: .*num_beams to 1"):
        build(beams)
    with pytest.raises(ValueError, match=r"nowhere is not a trained model"):
        build(from_profile(ROOT / "profiles/tiny.yaml", {"serving.chat.flamingo.folder": "nowhere"}))
    with pytest.raises(ValueError, match="unknown port"):
        app({"profile": "profiles/tiny.yaml", "port": 1})


def test_replicas_follow_the_need_of_the_last_seconds() -> None:
    from serving.server.deployments import build

    more = {
        "serving.scale.ingress.max": 3,
        "serving.scale.ingress.target": 7,
        "serving.scale.ingress.upscale_seconds": 4,
    }
    made = build(from_profile(ROOT / "profiles/tiny.yaml", more))._bound_deployment
    scaling = made._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 3, 7)
    assert scaling.upscale_delay_s == 4 and scaling.metrics_interval_s < scaling.look_back_period_s <= 4


def test_a_taken_port_is_told_in_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CannotStart, match=rf"cannot listen on 127.0.0.1:{port} .*--port"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_nobody_else_on_the_machine_can_command_haproxy(tmp_path: Path) -> None:
    """Ray lets everybody write to the socket: what keeps others away is its folder."""
    for name, file in HAPROXY_FILES.items():
        assert Path(os.environ[name]).name == file or not file, "set when the tests began"
    socket_file = Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"])
    assert socket_file.parent.stat().st_mode & 0o777 == 0o700 and socket_file.parent.stat().st_uid == os.getuid()
    node = 56  # letters of its folder in ours; a socket's name may have 107
    assert len(str(socket_file)) + node + len("/.12345.tmp") < 107

    usual = private_folder(tmp_path)
    assert usual == private_folder(tmp_path) and usual.stat().st_mode & 0o777 == 0o700
    usual.chmod(0o755)
    other = private_folder(tmp_path)
    assert other != usual and other.stat().st_mode & 0o777 == 0o700
    usual.rmdir()
    usual.symlink_to(tmp_path)  # somebody was faster
    assert private_folder(tmp_path) not in (usual, tmp_path)


def test_a_cluster_needs_what_the_least_replicas_take() -> None:
    scale = ScaleConfig()
    assert scale.needs() == Needs(cpus=2.0)
    assert replace(scale, chat=replace(scale.chat, min=3, max=5, gpus=1.0)).needs().gpus == 3


def test_every_section_of_a_profile_arrives_in_the_service_and_in_its_bulk_jobs(tmp_path: Path) -> None:
    """`make serve` and `serve deploy` read the same sections, and hand a bulk job those that are a build's."""
    content = yaml.safe_load((ROOT / "profiles/tiny.yaml").read_text())
    content["thresholds"] = {"sts": 0.61}
    content["scoring"] = {**content.get("scoring", {}), "device": "cpu"}
    content["pools"] = {
        "rewriting": {"min_actors": 2, "max_actors": 5, "cpus": 0.1, "gpus": 0.2, "rows_per_call": 7},
        "scoring": {"min_actors": 3, "max_actors": 4, "cpus": 0.3, "gpus": 0.4, "rows_per_call": 9},
        "distorting": {"rows_per_call": 11}, "sampling": {"rows_per_call": 3}, "rating": {"rows_per_call": 4},
        "task_cpus": 0.15, "max_failures_in_a_row": 13, "autoscaling": True,
    }  # fmt: skip
    profile = tmp_path / "profile.yaml"
    profile.write_text(yaml.safe_dump(content))
    arguments = ["--profile", str(profile)]
    sections = [one.name for one in fields(ServiceConfig)]
    assert sections == [one.name for one in fields(ServeConfig) if one.name not in ("host", "port")]
    made = console.parse("serve", "", ServeConfig, arguments)
    service, deployed = made.service, from_profile(profile)
    for name in sections:
        assert getattr(service, name) == getattr(deployed, name) == getattr(made, name), name

    place = ["--input", "in", "--out", "out"]
    asked = console.parse("build_pf1m", "", BuildConfig, [*arguments, *place])
    for one in (service, deployed):
        written = tmp_path / "bulk.yaml"
        written.write_text(profile_of(one))
        assert console.parse("build_pf1m", "", BuildConfig, ["--profile", str(written), *place]) == asked
    for field in fields(asked.pools):
        assert getattr(asked.pools, field.name) != getattr(PoolsConfig(), field.name), f"{field.name} was not tried"


def test_help_names_the_sections_and_the_place() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ray_jobs.serve", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0
    for option in ("--profile", "--port", "--host", "--serving.access.keys", "--serving.scale.chat.max"):
        assert option in done.stdout


def test_an_impossible_port_is_refused_before_ray_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serve.main(["--profile", str(Path(__file__).parents[2] / "profiles" / "tiny.yaml"), "--port", "70000"])
    assert "port: must be from 0 (any free one) to 65535, got 70000" in capsys.readouterr().err


def test_a_file_of_keys_is_looked_at_before_ray_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, says in {
        "s3://bucket/keys.json": "--serving.access.keys takes a path on this machine",
        f"{tmp_path}/none.json": "No such file or directory; `polite-flamingo keys new",
    }.items():
        assert serve.main(["--profile", str(ROOT / "profiles" / "tiny.yaml"), "--serving.access.keys", file]) == 2
        captured = capsys.readouterr()
        assert says in captured.err and "Ray" not in captured.out
