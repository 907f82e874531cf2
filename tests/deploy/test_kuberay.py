"""The Kubernetes manifests: the operator's schemas admit them, and what no schema sees fits together."""

from __future__ import annotations

import copy
import functools
import gzip
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ray_jobs import build_pf1m, console
from ray_jobs.cluster import check_size
from ray_jobs.serve import SERVE_ENVIRONMENT
from serving.config import ServiceConfig, from_profile
from tests.support.dockerfile import instructions
from tests.support.reference import SHARED

ROOT = Path(__file__).parents[2]
KINDS = {"RayJob": ("rayjob", "rayClusterSpec"), "RayService": ("rayservice", "rayClusterConfig")}
LOCKED = re.search(r"^ray==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


def manifest(kind: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy" / "kuberay" / f"{KINDS[kind][0]}.yaml").read_text())


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def cluster(kind: str) -> dict[str, Any]:
    """What describes the Ray cluster in a manifest."""
    return manifest(kind)["spec"][KINDS[kind][1]]


def pods(kind: str) -> dict[str, dict[str, Any]]:
    """The pod of each group, by the group's name."""
    found = {"head": cluster(kind)["headGroupSpec"]}
    found |= {group["groupName"]: group for group in cluster(kind)["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in found.items()}


def build_options() -> build_pf1m.BuildConfig:
    """The job's command, as our own command line reads it."""
    program, command, *arguments = shlex.split(manifest("RayJob")["spec"]["entrypoint"])
    assert (program, command) == ("polite-flamingo", "build")
    return console.parse("build", "", build_pf1m.BuildConfig, arguments)


def service() -> ServiceConfig:
    (application,) = yaml.safe_load(manifest("RayService")["spec"]["serveConfigV2"])["applications"]
    return from_profile(application["args"]["profile"], application["args"]["set"])


# What the operator's schemas say. They are upstream's files, so they are not in this repository.


@functools.cache
def schema(kind: str) -> dict[str, Any]:
    """The operator's schema of a kind, made strict: it refuses unknown keys, as `kubectl apply` does."""
    path = SHARED / "kuberay" / f"{kind.lower()}s.crd.yaml.gz"
    if not path.exists():
        pytest.skip(f"KubeRay's schemas are not at {path.parent} (POLITE_FLAMINGO_SHARED)")
    read = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 1.5 MB; Python's takes ten times as long
    versions = yaml.load(gzip.decompress(path.read_bytes()), read)["spec"]["versions"]
    (found,) = [one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1"]
    found["properties"]["metadata"] = {"type": "object"}
    return strict(found)


def strict(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if key not in ("properties", "anyOf")}
    if "properties" in schema:
        made["properties"] = {name: strict(one) for name, one in schema["properties"].items()}
        made.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    return made


def complaints(kind: str, document: dict[str, Any]) -> list[str]:
    errors = jsonschema.Draft7Validator(schema(kind)).iter_errors(document)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def test_the_operator_admits_it(kind: str) -> None:
    assert not complaints(kind, manifest(kind))


SLIPS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "a misspelt key": lambda spec, cluster: spec.update(shutdownAfterJobFinish=True),
    "a misspelt key of a group": lambda spec, cluster: cluster["workerGroupSpecs"][0].update(maxReplica=3),
    "a misspelt key of a pod": lambda spec, cluster: cluster["headGroupSpec"]["template"]["spec"].update(node={}),
    "a number where a string must be": lambda spec, cluster: cluster["headGroupSpec"]["rayStartParams"].update(x=0),
    "an autoscaler that does not exist": lambda spec, cluster: cluster["autoscalerOptions"].update(version="v3"),
    "a group without its largest size": lambda spec, cluster: cluster["workerGroupSpecs"][0].pop("maxReplicas"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_caught(kind: str, slip: str) -> None:
    document = copy.deepcopy(manifest(kind))
    SLIPS[slip](document["spec"], document["spec"][KINDS[kind][1]])
    assert complaints(kind, document)


# What the autoscaler does with them, by Ray's own code.


def node_types(kind: str) -> dict[str, dict[str, Any]]:
    """Group -> `resources`, `min_workers`, `max_workers`, as Ray's autoscaler reads them from the cluster."""
    from ray.autoscaler._private.kuberay import autoscaling_config

    resource = {"metadata": {"name": "c", "namespace": "n"}, "spec": cluster(kind)}
    return autoscaling_config._derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]


def resources(kind: str, size: str) -> dict[str, float]:
    """CPUs and GPUs of the cluster at its smallest or largest."""
    types = node_types(kind).values()
    return {
        name: sum(one["resources"].get(name, 0) * one[f"{size}_workers"] for one in types) for name in ("CPU", "GPU")
    }


def fits(kind: str, cpus: float, gpus: float) -> bool:
    """Whether a group has machines for an actor of this size."""
    types = node_types(kind).values()
    return any(one["resources"]["CPU"] >= cpus and one["resources"].get("GPU", 0) >= gpus for one in types)


def test_the_job_fits_at_its_largest_and_nothing_runs_before_it_or_on_the_head() -> None:
    pools = build_options().pools
    assert pools.autoscaling, "the job would refuse a cluster without machines"
    used = [pools.rewriting, pools.scoring]
    assert resources("RayJob", "min") == {"CPU": 0, "GPU": 0}
    check_size(resources("RayJob", "max"), pools.needs())
    assert resources("RayJob", "max")["GPU"] == sum(pool.max_actors * pool.gpus for pool in used)
    cpus = sum(pool.max_actors * pool.cpus for pool in used)
    assert resources("RayJob", "max")["CPU"] >= cpus + 2 * pools.task_cpus, "readers and writers would wait for ever"
    assert all(fits("RayJob", pool.cpus, pool.gpus) for pool in used)
    assert node_types("RayJob")["headgroup"]["resources"]["CPU"] == 0


def test_the_service_starts_on_what_is_always_there_and_fits_at_its_largest() -> None:
    scale, pools = service().serving.scale, service().pools
    check_size(resources("RayService", "min"), scale.needs())
    deployments = (scale.ingress, scale.chat, scale.rewriting, scale.scoring)
    most = sum(one.max * one.gpus for one in deployments) + pools.needs().gpus
    assert most <= resources("RayService", "max")["GPU"] < most + 1
    assert all(fits("RayService", one.cpus, one.gpus) for one in deployments)
    assert pools.autoscaling, "a bulk job would refuse a cluster that is just large enough for the service"
    assert node_types("RayService")["headgroup"]["resources"]["CPU"] == 0


# What fits together.


def test_the_commands_are_ours() -> None:
    job = build_options()
    assert (job.input, job.out) == ("s3://BUCKET/shards", "s3://BUCKET/pf1m")
    assert service().serving.batches.folder.startswith("s3://BUCKET/")
    ours = yaml.safe_load((ROOT / "serving" / "clever-9b.yaml").read_text())
    deployed = yaml.safe_load(manifest("RayService")["spec"]["serveConfigV2"])
    changed = deployed["applications"][0]["args"].pop("set")
    kept = ours["applications"][0]["args"].pop("set")
    assert deployed == ours, "serving/clever-9b.yaml is the same service"
    assert {**kept, "serving.access.keys": "/secrets/keys.json"}.items() <= changed.items()


def test_every_pod_has_one_image_its_user_its_weights_and_ray_of_the_lock(kind: str) -> None:
    docker = dict(reversed(instructions()))
    assert LOCKED and cluster(kind)["rayVersion"] == LOCKED[1]
    for name, pod in pods(kind).items():
        (container,) = pod["containers"]
        assert container["image"] == "REGISTRY/polite-flamingo:TAG", name
        assert str(pod["securityContext"]["runAsUser"]) == docker["USER"] and pod["securityContext"]["runAsNonRoot"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["weights"] == f"{docker['WORKDIR']}/weights", (
            "profiles name weights/… below the working directory"
        )
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
        assert {"name": "HF_HOME", "value": f"{docker['WORKDIR']}/weights/hub"} in container["env"]
        assert pod["restartPolicy"] == "Never", "the autoscaler (v2) replaces pods, Kubernetes must not"


def test_the_weights_come_from_the_claim_that_a_pod_of_the_same_image_fills(kind: str) -> None:
    claim, filling = yaml.safe_load_all((ROOT / "deploy" / "kuberay" / "weights.yaml").read_text())
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in (*pods(kind).values(), filling["spec"]):
        (container,) = pod["containers"]
        assert container["image"] == "REGISTRY/polite-flamingo:TAG"
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["weights"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["weights"] == f"{dict(instructions())['WORKDIR']}/weights"


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a manifest with its path."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from texts(one, f"{path}/{key}")
    else:
        yield path, str(value)


def test_credentials_come_from_one_secret_and_nowhere_else(kind: str) -> None:
    for name, pod in pods(kind).items():
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "polite-flamingo-store"}}], name
    written = (ROOT / "deploy" / "kuberay" / f"{KINDS[kind][0]}.yaml").read_text()
    used = {text for path, text in texts(manifest(kind)) if re.search(r"secretRef/name|secretName$", path)}
    assert used == set(re.findall(r"^#   kubectl create secret generic (\S+)", written, re.MULTILINE))
    given = {path: text for path, text in texts(manifest(kind)) if re.search(r"AWS_|ACCESS_KEY|PASSWORD|TOKEN", text)}
    assert not given


def test_only_who_has_the_token_reaches_it_and_the_operator_does(kind: str) -> None:
    assert cluster(kind)["authOptions"] == {"mode": "token"}
    start = cluster(kind)["headGroupSpec"]["rayStartParams"]
    assert "dashboard-host" not in start, "the operator asks the dashboard from outside the pod"
    assert all(not pod["automountServiceAccountToken"] for name, pod in pods(kind).items() if name != "head")


def test_a_machine_leaves_when_it_is_idle_for_long_and_the_cluster_when_the_job_ends(kind: str) -> None:
    options = cluster(kind)["autoscalerOptions"]
    assert cluster(kind)["enableInTreeAutoscaling"] and options["version"] == "v2"
    assert options["idleTimeoutSeconds"] >= 300, "a 9B model takes minutes to load"
    if kind == "RayJob":
        assert manifest(kind)["spec"]["shutdownAfterJobFinishes"]


def test_the_service_has_the_settings_of_its_processes() -> None:
    for pod in pods("RayService").values():
        given = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
        assert SERVE_ENVIRONMENT.items() <= given.items()
    drain = float(given["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert service().serving.scale.drain_seconds <= drain < pods("RayService")["gpu"]["terminationGracePeriodSeconds"]
    ports = {port["name"]: port["containerPort"] for port in pods("RayService")["head"]["containers"][0]["ports"]}
    http = yaml.safe_load(manifest("RayService")["spec"]["serveConfigV2"])["http_options"]
    assert ports["serve"] == http["port"]
