"""The service on Ray Serve.

    ingress    the HTTP side (`app.py`), no GPU; scales with the connections
    chat       engine replicas of Clever Flamingo, one process each; scales with the requests under way
    rewriting  the same for Polite Flamingo
    scoring    the filters' models
    board      collects the metrics of all replicas, for /metrics; one small process
    bulk       runs bulk jobs, if a place for them is configured; one small process

Serve's router sends a request to the less loaded of two replicas, starts and stops replicas as `ReplicasConfig` says,
spreads them over the machines, and lets a stopping replica finish its streams. `RayBackend` adds retries: a request
whose replica dies is sent to another one and resumes where it was.

    serve deploy serving/tiny.yaml      on a cluster: `app` below builds the application from `args`
    python -m ray_jobs.serve            on this machine alone
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.flamingo.model.saved import opened
from polite_flamingo.sample import BadSample, Sample
from serving.backends.base import Chunk, GenerationRequest
from serving.backends.ray_serve import RayBackend
from serving.backends.scoring import BatchingScorer
from serving.batches.store import BatchStore
from serving.config import ReplicasConfig, ServiceConfig, from_profile
from serving.errors import ApiError

REPORT_SECONDS = 1.0
"""Seconds between two reports of a replica to the board."""

FORGET_AFTER = 10.0
"""Seconds after its last report when a replica counts as gone."""


class MetricsBoard:
    """The latest metrics of every engine and ingress replica."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[float, str, Any]] = {}

    async def report(self, replica: str, kind: str, metrics: Any) -> None:
        """Store a replica's metrics. Args: kind: "engines" or "ingress"."""
        self._reports[replica] = (asyncio.get_running_loop().time(), kind, metrics)

    async def read(self, kind: str) -> dict[str, Any]:
        """Recent metrics of the replicas of this kind, by replica."""
        now = asyncio.get_running_loop().time()
        self._reports = {name: one for name, one in self._reports.items() if now - one[0] < FORGET_AFTER}
        return {name: metrics for name, (_, of, metrics) in sorted(self._reports.items()) if of == kind}


async def _report(board: DeploymentHandle, kind: str, metrics: Callable[[], Any]) -> None:
    """Report to the board forever."""
    name = serve.get_replica_context().replica_id.unique_id
    while True:
        with suppress(RayActorError, DeploymentUnavailableError):  # a restarted board gets the next report
            await board.report.remote(name, kind, metrics())
        await asyncio.sleep(REPORT_SECONDS)


class EngineReplica:
    """One model and its engines."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it; the report needs a running loop
        self, name: str, config: RewriterConfig, chat: bool, waiting: int, flush_seconds: float, board: DeploymentHandle
    ):
        from serving.backends.engine_host import EngineHost

        self._host = EngineHost(name, config, chat=chat, waiting=waiting, flush_seconds=flush_seconds)
        await self._host.warm_up()
        self._reporting = asyncio.create_task(_report(board, "engines", self._host.metrics))

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk | ApiError, None]:
        """The answer. An error comes as the last item, because Ray would wrap an exception."""
        try:
            async with aclosing(self._host.stream(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except ApiError as error:
            yield error

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica whose engine has failed for good."""
        if self._reporting.done():
            await self._reporting  # raises what ended it
        if not self._host.healthy:
            raise RuntimeError("the engine failed repeatedly")


class ScoringReplica:
    """One copy of each filter's model."""

    def __init__(self, config: ScoringConfig):
        from polite_flamingo.filters.scorer import Scorer

        self._scorer = BatchingScorer(Scorer(config))

    async def score(self, samples: Sequence[Sample]) -> list[Mapping[str, Any] | BadSample]:
        """See `Backend.score`."""
        return await self._scorer.score(samples)

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica whose models fail on everything."""
        if not self._scorer.healthy:
            raise RuntimeError("the filters failed repeatedly")


class BatchReplica:
    """Runs bulk jobs. Its place on a lost node is taken by another replica, which goes on with its jobs."""

    async def __init__(self, config: ServiceConfig):  # type: ignore[misc]  # Serve awaits it; the runner needs its loop
        from serving.batches.runner import BatchRunner

        self._runner = BatchRunner(config, {"RAY_ADDRESS": ray.get_runtime_context().gcs_address})
        self._runner.start()

    async def check_health(self) -> None:
        """Called by Serve, which restarts a runner that has ended."""
        if self._runner.failure is not None:
            raise self._runner.failure

    async def __del__(self) -> None:
        await self._runner.stop()


class Ingress:
    """The HTTP side. It never calls `bulk`, which is bound only to be deployed: they share the store of jobs."""

    def __init__(
        self,
        config: ServiceConfig,
        engines: Mapping[str, DeploymentHandle],
        scoring: DeploymentHandle,
        board: DeploymentHandle,
        bulk: DeploymentHandle | None,
    ):
        self._config, self._backend, self._board = config, RayBackend(engines, scoring, board), board

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Create the application; called by Serve in the replica."""
        from serving.server.app import create_app

        app = create_app(self._config, self._backend, send_request_id=False)
        self._reporting = asyncio.create_task(_report(self._board, "ingress", app.state.metrics.families))
        return app

    async def check_health(self) -> None:
        """Called by Serve."""
        if self._reporting.done():
            await self._reporting  # raises what ended it


def build(config: ServiceConfig) -> serve.Application:
    """The application for `serve.run`.

    Raises:
        ValueError: a model cannot be served. Found here, before replicas fail to start one after another.
        PathUnavailable: the place of bulk jobs cannot be used.
    """
    if config.serving.batches.folder:
        BatchStore(config.serving.batches).queue()
    serving, scale = config.serving, config.serving.scale
    board = _deployment(MetricsBoard, "board", ReplicasConfig(cpus=0.0, ongoing=1000), scale.drain_seconds).bind()
    engines = {}
    for name, label, model, replicas in (
        (serving.chat_name, "chat", serving.chat, scale.chat),
        (serving.rewriter_name, "rewriting", config.rewriter.of_flamingo("serve"), scale.rewriting),
    ):
        opened(model.flamingo)
        if model.generation.num_beams > 1:
            raise ValueError(f"{name}: beam search cannot be streamed; set generation.num_beams to 1")
        copies = max(1, model.engine.copies if model.device == "cpu" else 1)
        ongoing = replicas.ongoing or copies * (model.engine.slots + serving.waiting)
        deployment = _deployment(EngineReplica, label, replace(replicas, ongoing=ongoing), scale.drain_seconds)
        engines[name] = deployment.bind(name, model, label == "chat", serving.waiting, serving.flush_seconds, board)
    scoring = _deployment(ScoringReplica, "scoring", scale.scoring, scale.drain_seconds).bind(config.scoring)
    one = ReplicasConfig(cpus=0.0)
    bulk = _deployment(BatchReplica, "bulk", one, scale.drain_seconds).bind(config) if serving.batches.folder else None
    ingress = _deployment(serve.ingress()(Ingress), "ingress", scale.ingress, scale.drain_seconds)
    return ingress.bind(config, engines, scoring, board, bulk)


def _deployment(replica: type, name: str, replicas: ReplicasConfig, drain_seconds: float) -> Any:
    """One deployment, scaled by `replicas`."""
    ongoing = replicas.ongoing or 128
    scaling: dict[str, Any] = {"num_replicas": replicas.min}
    if replicas.max > replicas.min:
        window = max(2.0, replicas.upscale_seconds)
        scaling = {
            "autoscaling_config": {
                "min_replicas": replicas.min,
                "max_replicas": replicas.max,
                "target_ongoing_requests": replicas.target or max(1.0, 0.7 * ongoing),
                "upscale_delay_s": replicas.upscale_seconds,
                "downscale_delay_s": replicas.downscale_seconds,
                "look_back_period_s": window,  # Ray's 30 s would hide a recent rise
                "metrics_interval_s": window / 4,
            }
        }
    return serve.deployment(
        name=name,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        max_replicas_per_node=replicas.per_node or None,
        max_ongoing_requests=ongoing,
        max_queued_requests=replicas.queued,
        graceful_shutdown_timeout_s=drain_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5.0,
        **scaling,
    )(replica)


def app(args: dict[str, Any]) -> serve.Application:
    """Entry point of `serve deploy`. Args: args: `profile`, and `set` with values by dotted names.

    Raises:
        ValueError: unknown arguments, or an invalid profile or value.
    """
    unknown = set(args) - {"profile", "set"}
    if unknown:
        raise ValueError(f"args: unknown {', '.join(sorted(unknown))}; give `profile`, and `set` with dotted names")
    return build(from_profile(args.get("profile", "profiles/tiny.yaml"), args.get("set")))
