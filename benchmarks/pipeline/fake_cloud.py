"""The cluster of `cluster.yaml` without a cloud: Ray's own autoscaler starts and stops nodes on this machine.

The head, and whatever it starts, runs in namespaces of its own (Linux; as root or with user namespaces): Ray's provider
of fake nodes wants port 6379, and everything ends with the namespace.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).parents[2]
HEAD = "f" * 51 + "00000"
LISTS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
)  # fmt: skip
"""Settings that Ray's autoscaler demands, though a fake node has no use for them."""
INSIDE = "POLITE_FLAMINGO_INSIDE_NAMESPACES"


def enter_namespaces() -> None:
    """Become this command in namespaces of its own, unless it already is; they end with it."""
    if INSIDE in os.environ:
        return
    own = ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
    own += [] if os.geteuid() == 0 else ["--map-root-user"]
    network = 'ip link set lo up && exec "$@"'
    command = [*own, "bash", "-c", network, "bash", *sys.orig_argv]
    os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})


def configuration(idle_minutes: float, most: dict[str, int]) -> dict[str, Any]:
    """Return `cluster.yaml` with fake nodes instead of the cloud's.

    Args:
        idle_minutes: time until an idle node is stopped.
        most: node type -> maximum number of nodes.
    """
    cluster = yaml.safe_load((REPO / "cluster.yaml").read_text())
    types = cluster["available_node_types"]
    types["ray.head.default"] = types.pop(cluster["head_node_type"])  # the name that the fake provider knows
    for name, kind in types.items():
        resources = {**kind["resources"], "object_store_memory": 150_000_000}
        kind.clear()
        kind.update(resources=resources, node_config={}, min_workers=0, max_workers=most.get(name, 0))
    return {
        "cluster_name": cluster["cluster_name"],
        "max_workers": cluster["max_workers"],
        "upscaling_speed": cluster["upscaling_speed"],
        "idle_timeout_minutes": idle_minutes,
        "provider": {
            "type": "fake_multinode", "launch_multiple": True, "disable_node_updaters": True,
            "disable_launch_config_check": True, "head_node_id": HEAD,
        },
        "auth": {"ssh_user": "root"},
        "docker": {},
        "head_node_type": "ray.head.default",
        "available_node_types": types,
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in LISTS},
    }  # fmt: skip


@contextmanager
def head(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """Start a head with Ray's autoscaler; yield its address. Args: folder: for its files, with a short path."""
    (folder / "cluster.yaml").write_text(yaml.safe_dump(config))
    provide_example(folder, config)
    environment = {
        **os.environ, "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "5",
        "RAY_CLOUD_INSTANCE_ID": HEAD, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "RAY_raylet_start_wait_time_s": "300", "PYTHONPATH": str(REPO),
    }  # fmt: skip
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--head", "--port=6379", "--num-cpus=0"]
    command += ["--include-dashboard=false", f"--temp-dir={folder}/r", "--object-store-memory=150000000"]
    command += [f"--autoscaling-config={folder}/cluster.yaml", "--disable-usage-stats"]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=REPO, stdout=log, stderr=log)
    try:
        yield "127.0.0.1:6379"
    finally:
        process.terminate()
        process.wait()


def provide_example(folder: Path, config: dict[str, Any]) -> None:
    """Mount, over Ray's folder of fake nodes, a copy with the example that its wheel lacks and its autoscaler reads."""
    import ray.autoscaler._private.fake_multi_node as fake

    theirs, copy = Path(fake.__path__[0]), folder / "fake_multi_node"
    shutil.copytree(theirs, copy)
    (copy / "example.yaml").write_text(json.dumps(config))
    subprocess.run(["mount", "--bind", str(copy), str(theirs)], check=True)
