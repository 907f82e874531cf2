"""`python -m tests.support.service_on_nodes BUCKET`: the service on a head and three workers, one of which is killed.

The models are replaced by a slow speaker, the build of bulk jobs by `tiny_build.py`; all else is as it is deployed: the
deployments and their spreading, the ingress, retries, files and jobs in a bucket. Prints the outcome as JSON on the
last line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import openai
import prometheus_client.parser
import ray
from ray import serve
from ray.cluster_utils import Cluster

from polite_flamingo.flamingo.config import GenerationConfig
from polite_flamingo.testbed.s3_server import free_port
from serving.backends.base import Chunk, GenerationRequest
from serving.batches.store import BatchStore
from serving.config import AccessConfig, ReplicasConfig, ScaleConfig
from serving.server import deployments
from tests.support.bulk_site import ended, line, read, start, upload
from tests.support.patience import wait_until
from tests.support.processes import family, kill
from tests.support.run_batches import bulk_config, runner
from tests.support.sections import section

NAME = "polite-flamingo"
WORDS, SECONDS_PER_WORD = 100, 0.1
STREAMS = 12
NODES = {"object_store_memory": 100 << 20, "dashboard_agent_listen_port": 0}


class Speaker:
    """An engine replica without a model: each answer counts."""

    async def __init__(self, name: str, *settings: Any):  # type: ignore[misc]  # Serve awaits it
        self._name, board = name, settings[-1]
        self._reporting = asyncio.create_task(deployments._report(board, "engines", self._figures))

    def _figures(self) -> dict[str, dict[str, float]]:
        return {f"{self._name}/0": {"streams": 0.0, "slots": 8.0}}

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """Say the numbers, slowly."""
        for number in range(WORDS):
            await asyncio.sleep(SECONDS_PER_WORD)
            yield Chunk(f"{number} ", (number,), "stop" if number == WORDS - 1 else "", 1)


class Unused:
    """A replica that nobody asks."""

    def __init__(self, *settings: Any):
        pass


class TinyBatches:
    """A bulk replica whose builds are tiny."""

    async def __init__(self, config: Any):  # type: ignore[misc]  # Serve awaits it
        self._runner = runner(config)
        self._runner.start()

    async def check_health(self) -> None:
        """Called by Serve."""
        if self._runner.failure is not None:
            raise self._runner.failure


def where() -> dict[str, list[tuple[str, int, str]]]:
    """Node, pid and id of each replica that runs, by deployment."""
    controller = serve.context._get_global_client()._controller
    details = ray.get(controller.get_serve_instance_details.remote())
    found = {}
    for name, deployment in details["applications"][NAME]["deployments"].items():
        running = [one for one in deployment["replicas"] if one["state"] == "RUNNING"]
        found[name] = [(one["node_id"], one["pid"], one["replica_id"]) for one in running]
    return found


class Listener(threading.Thread):
    """A client that listens to one answer."""

    def __init__(self, client: openai.OpenAI):
        super().__init__()
        self._client, self.text, self.error = client, "", ""
        self.start()

    def run(self) -> None:
        """Collect the text, or the error that ends it."""
        ask: Any = [{"role": "user", "content": "Count."}]
        try:
            for piece in self._client.chat.completions.create(model="clever-flamingo", messages=ask, stream=True):
                self.text += (piece.choices[0].delta.content or "") if piece.choices else ""
        except Exception as error:
            self.error = type(error).__name__


def open_requests(client: openai.OpenAI) -> dict[str, float]:
    """Requests under way, by ingress replica."""
    text = client._client.get(str(client.base_url).removesuffix("/v1/") + "/metrics").text
    families = prometheus_client.parser.text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    return {one.labels["ingress"]: one.value for one in samples if one.name == "polite_flamingo_open_requests"}


def main(place: str) -> None:
    """Deploy, ask, kill, count."""
    deployments.EngineReplica, deployments.ScoringReplica = Speaker, Unused  # type: ignore[assignment,misc]
    deployments.BatchReplica = TinyBatches  # type: ignore[assignment,misc]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **NODES})
    nodes = [cluster.add_node(num_cpus=2, **NODES) for _ in range(3)]
    ray.init(address=cluster.address, log_to_driver=False)
    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    each, one = ReplicasConfig(min=3, max=3, per_node=1, cpus=0.3), ReplicasConfig(cpus=0.2)
    config = bulk_config(place)
    model = replace(config.rewriter, generation=GenerationConfig(num_beams=1))
    scale = ScaleConfig(ingress=each, chat=each, rewriting=one, scoring=one, drain_seconds=1.0)
    serving = replace(config.serving, chat=model, scale=scale, access=AccessConfig(open_metrics=True, log=False))
    serve.run(deployments.build(replace(config, rewriter=section(model), serving=serving)), name=NAME, route_prefix="/")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120)
    wait_until(lambda: client._client.get(f"http://127.0.0.1:{port}/health").status_code == 200)

    store = BatchStore(config.serving.batches)
    names = [f"row {number:02}" for number in range(15)]
    rows = [line(name, "a row" if number < 5 else "wait") for number, name in enumerate(names)]
    job = start(client, upload(client, *rows))
    wait_until(lambda: client.batches.retrieve(job.id).request_counts.completed == 5)  # type: ignore[union-attr]

    listeners = [Listener(client) for _ in range(STREAMS)]
    wait_until(lambda: all(one.text or one.error for one in listeners))
    before = where()
    [(bulk_node, bulk_pid, _)] = before["bulk"]
    doomed = next((node for node in nodes if node.node_id == bulk_node), nodes[0])
    time.sleep(deployments.REPORT_SECONDS + 0.5)  # the figures are those of now
    open_at = open_requests(client)
    in_its_hands = sum(
        count for name, count in open_at.items() for node, _, replica in before["ingress"]
        if node == doomed.node_id and name == replica
    )  # fmt: skip
    victims = [one for part in doomed.all_processes.values() for process in part for one in family(process.process.pid)]
    if bulk_node != doomed.node_id:  # it was placed on the head
        victims += family(bulk_pid)
    kill(victims)

    job_folder = store.job_folder(job.id)
    (job_folder / store.jobs()[0].work / "out" / "released").put("")
    for one_of_them in listeners:
        one_of_them.join()
    attempt(lambda: wait_until(ended(client, job)))
    done = client.batches.retrieve(job.id)
    good, bad = read(client, done.output_file_id), read(client, done.error_file_id)
    wait_until(lambda: len(where()["ingress"]) == 2)
    again = [Listener(client) for _ in range(4)]
    for one_of_them in again:
        one_of_them.join()
    whole = "".join(f"{number} " for number in range(WORDS))
    outcome = {
        "nodes of": {name: len({node for node, *_ in found}) for name, found in before.items()},
        "streams": {
            "whole": sum(one.text.strip() == whole.strip() for one in listeners),
            "lost": sum(bool(one.error) for one in listeners),
            "in its hands": in_its_hands,
        },
        "again": [one.text.strip() == whole.strip() for one in again],
        "killed": len(victims),
        "bulk": {"status": done.status, "good": sorted(str(one["custom_id"]) for one in good), "bad": len(bad)},
        "runner was on a worker": bulk_node == doomed.node_id,
    }
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(outcome))


def attempt(action: Callable[[], None]) -> None:
    """Do something in spite of connections that break: who asks an ingress that is dying asks again."""
    for _ in range(20):
        try:
            return action()
        except openai.APIError:
            time.sleep(1)
    return action()


if __name__ == "__main__":
    from tests.support import service_on_nodes  # replicas import it by this name

    service_on_nodes.main(sys.argv[1])
