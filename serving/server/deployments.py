"""The service on Ray Serve: the one place here that knows Ray.

    ingress    the HTTP side (`app.py`), no GPU; grows with the connections
    chat       an engine replica of Clever Flamingo a process; grows with the requests under way
    rewriting  the same of Polite Flamingo
    scoring    the filters' models
    board      what the replicas' engines are doing, for /metrics; one small process
    bulk       runs bulk jobs, where a folder for them is named; one small process

Serve's router sends a request to the less loaded of two replicas, starts and stops replicas as `ReplicasConfig` says,
and lets a replica that goes finish what it streams. What is ours is in `RayBackend`: a request whose replica dies is
asked again elsewhere, and goes on where it was.

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
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.flamingo.model.saved import opened
from polite_flamingo.sample import BadSample, Sample
from serving.backends.base import Ask, Delta
from serving.backends.scoring import Scoring
from serving.config import ReplicasConfig, ServiceConfig, from_profile
from serving.errors import ApiError, overloaded, server_error

ATTEMPTS = 4
"""At a request, its first included: as many replicas may die under it, less one."""

REPORT_SECONDS = 1.0
"""Between two reports of a replica to the board."""

FORGET_AFTER = 10.0
"""Seconds after which a replica that does not report is gone."""

Figures = dict[str, dict[str, float]]


class Board:
    """What every replica said of itself last: an engine its figures, an ingress what it counted."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[float, str, Any]] = {}

    async def report(self, replica: str, kind: str, said: Any) -> None:
        """Of one replica. Args: kind: "engines" or "ingress"."""
        self._reports[replica] = (asyncio.get_running_loop().time(), kind, said)

    async def read(self, kind: str) -> dict[str, Any]:
        """What replicas of this kind reported lately, by the replica."""
        now = asyncio.get_running_loop().time()
        self._reports = {name: one for name, one in self._reports.items() if now - one[0] < FORGET_AFTER}
        return {name: said for name, (_, of, said) in sorted(self._reports.items()) if of == kind}


async def _report(board: DeploymentHandle, kind: str, say: Callable[[], Any]) -> None:
    """Tell the board, again and again."""
    name = serve.get_replica_context().replica_id.unique_id
    while True:
        with suppress(RayActorError, DeploymentUnavailableError):  # a new board hears of it a second later
            await board.report.remote(name, kind, say())
        await asyncio.sleep(REPORT_SECONDS)


class EngineReplica:
    """One model, its weights and its engines."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it; a loop must run for the report
        self, name: str, config: RewriterConfig, chat: bool, waiting: int, flush_seconds: float, board: DeploymentHandle
    ):
        from serving.backends.engine_host import EngineHost

        self._host = EngineHost(name, config, chat=chat, waiting=waiting, flush_seconds=flush_seconds)
        await self._host.warm_up()
        self._reporting = asyncio.create_task(_report(board, "engines", self._host.figures))

    async def stream(self, ask: Ask) -> AsyncGenerator[Delta | ApiError, None]:
        """The answer; what goes wrong comes as the last item, for Ray would wrap what is raised."""
        try:
            async with aclosing(self._host.stream(ask)) as deltas:
                async for delta in deltas:
                    yield delta
        except ApiError as error:
            yield error

    async def check_health(self) -> None:
        """Called by Serve; a replica whose engine is lost for good is replaced."""
        if self._reporting.done():
            await self._reporting  # raises what ended it
        if not self._host.healthy:
            raise RuntimeError("the engine failed again and again")


class ScoringReplica:
    """One copy of each filter's model."""

    def __init__(self, config: ScoringConfig, together: int):
        from polite_flamingo.filters.scorer import Scorer

        self._scoring = Scoring(Scorer(config), together=together)

    async def score(self, samples: Sequence[Sample]) -> list[Mapping[str, Any] | BadSample]:
        """See `Backend.score`."""
        return await self._scoring.score(samples)

    async def check_health(self) -> None:
        """Called by Serve; a replica whose models fail on everything is replaced."""
        if not self._scoring.healthy:
            raise RuntimeError("the filters failed again and again")


class RayBackend:
    """`Backend` over the handles of the deployments."""

    def __init__(self, engines: Mapping[str, DeploymentHandle], scoring: DeploymentHandle, board: DeploymentHandle):
        self._engines = {name: handle.options(stream=True, method_name="stream") for name, handle in engines.items()}
        self._scoring, self._board = scoring, board

    async def stream(self, ask: Ask) -> AsyncGenerator[Delta, None]:
        """See `Backend`. A replica that dies is replaced by another one, which writes the same text again.

        Texts are the same on every replica, but for rounding. What the client has already is skipped, and where the
        new text disagrees with it the answer ends with an error instead.
        """
        given, tokens = "", 0
        for attempt in range(ATTEMPTS):
            text, count = "", 0
            try:
                async with aclosing(_read(self._engines[ask.model].remote(ask))) as items:
                    async for item in items:
                        if isinstance(item, ApiError):
                            raise item
                        text, count = text + item.text, count + item.tokens
                        if len(text) < len(given) and not item.finish:
                            continue
                        if not text.startswith(given):
                            raise server_error("the replica that wrote this answer died; ask again", "replica_died")
                        yield Delta(text[len(given) :], max(0, count - tokens), item.finish, item.prompt_tokens)
                        given, tokens = text, max(tokens, count)
                        if item.finish:
                            return
            except BackPressureError:
                raise overloaded(f"{ask.model} has no room for another request; try again later") from None
            except (RayActorError, DeploymentUnavailableError) as error:
                if attempt == ATTEMPTS - 1:
                    raise server_error(f"{ask.model}: replicas died one after the other; try again later") from error
                await asyncio.sleep(0.1 * 2**attempt)

    async def score(self, samples: Sequence[Sample]) -> list[Mapping[str, Any] | BadSample]:
        """See `Backend`."""
        for attempt in range(ATTEMPTS):
            try:
                return await self._scoring.score.remote(list(samples))
            except BackPressureError:
                raise overloaded("the filters have no room for another request; try again later") from None
            except (RayActorError, DeploymentUnavailableError) as error:
                if attempt == ATTEMPTS - 1:
                    raise server_error("the filters died one after the other; try again later") from error
                await asyncio.sleep(0.1 * 2**attempt)
        raise AssertionError

    async def figures(self) -> Figures:
        """See `Backend`."""
        reports: dict[str, Figures] = await self._board.read.remote("engines")
        return {f"{engine}@{name}": values for name, figures in reports.items() for engine, values in figures.items()}

    async def ingresses(self, own: list[Any]) -> Mapping[str, list[Any]]:
        """See `Backend`."""
        name = serve.get_replica_context().replica_id.unique_id
        return {**await self._board.read.remote("ingress"), name: own}

    async def ready(self) -> bool:
        """See `Backend`: each model has a replica that reports."""
        reporting = {name.partition("/")[0] for name in await self.figures()}
        return set(self._engines) <= reporting


async def _read(response: Any) -> AsyncGenerator[Any, None]:
    """The items of a streaming response, which is cancelled when nobody reads on."""
    ended = False
    try:
        async for item in response:
            yield item
        ended = True
    finally:
        if not ended:
            response.cancel()


class Bulk:
    """Runs the jobs of a folder; exactly one process may."""

    async def __init__(self, config: ServiceConfig):  # type: ignore[misc]  # Serve awaits it; the runner needs its loop
        from serving.batches.runner import BatchRunner

        self._runner = BatchRunner(config, {"RAY_ADDRESS": ray.get_runtime_context().gcs_address})
        self._runner.start()

    async def check_health(self) -> None:
        """Called by Serve; a runner that ended is started anew."""
        if self._runner.failure is not None:
            raise self._runner.failure

    async def __del__(self) -> None:
        await self._runner.stop()


class Ingress:
    """The HTTP side. It does not call `bulk`: routes and runner meet in the folder; it is here to be deployed."""

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
        """Called by Serve in the replica."""
        from serving.server.app import create_app

        app = create_app(self._config, self._backend, answer_id=False)
        self._reporting = asyncio.create_task(_report(self._board, "ingress", app.state.metrics.families))
        return app

    async def check_health(self) -> None:
        """Called by Serve."""
        if self._reporting.done():
            await self._reporting  # raises what ended it


def build(config: ServiceConfig) -> serve.Application:
    """The application, to be run by `serve.run`.

    Raises:
        ValueError: a model cannot be served; better here, in one line, than in replicas that fail again and again.
    """
    serving, scale = config.serving, config.serving.scale
    for name, model in ((serving.chat_name, serving.chat), (serving.rewriter_name, config.rewriter)):
        opened(model.flamingo)
        if model.generation.num_beams > 1:
            raise ValueError(f"{name}: texts of a beam search do not come in pieces; set generation.num_beams to 1")
    board = _deployment(Board, "board", ReplicasConfig(cpus=0.0, ongoing=1000), scale.drain_seconds).bind()

    def engine(name: str, label: str, model: RewriterConfig, chat: bool, replicas: ReplicasConfig) -> Any:
        engines = max(1, model.engine.copies if model.device == "cpu" else 1)
        ongoing = replicas.ongoing or engines * (model.engine.slots + serving.waiting)
        replicas = replace(replicas, ongoing=ongoing)
        made = _deployment(EngineReplica, label, replicas, scale.drain_seconds)
        return made.bind(name, model, chat, serving.waiting, serving.flush_seconds, board)

    engines = {
        serving.chat_name: engine(serving.chat_name, "chat", serving.chat, True, scale.chat),
        serving.rewriter_name: engine(serving.rewriter_name, "rewriting", config.rewriter, False, scale.rewriting),
    }
    scoring = _deployment(ScoringReplica, "scoring", scale.scoring, scale.drain_seconds).bind(config.scoring, 64)
    one = ReplicasConfig(cpus=0.0)
    bulk = _deployment(Bulk, "bulk", one, scale.drain_seconds).bind(config) if serving.batches.folder else None
    ingress = _deployment(serve.ingress()(Ingress), "ingress", scale.ingress, scale.drain_seconds)
    return ingress.bind(config, engines, scoring, board, bulk)


def _deployment(made_of: type, name: str, replicas: ReplicasConfig, drain_seconds: float) -> Any:
    """One deployment with its numbers."""
    ongoing = replicas.ongoing or 128
    numbers: dict[str, Any] = {"num_replicas": replicas.min}
    if replicas.max > replicas.min:
        window = max(2.0, replicas.upscale_seconds)
        numbers = {
            "autoscaling_config": {
                "min_replicas": replicas.min,
                "max_replicas": replicas.max,
                "target_ongoing_requests": replicas.target or max(1.0, 0.7 * ongoing),
                "upscale_delay_s": replicas.upscale_seconds,
                "downscale_delay_s": replicas.downscale_seconds,
                "look_back_period_s": window,  # Ray's 30 s would hide a need that began a moment ago
                "metrics_interval_s": window / 4,
            }
        }
    return serve.deployment(
        name=name,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        max_ongoing_requests=ongoing,
        max_queued_requests=replicas.queued,
        graceful_shutdown_timeout_s=drain_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5.0,
        **numbers,
    )(made_of)


def app(args: dict[str, Any]) -> serve.Application:
    """For `serve deploy`: `args` has `profile` and, under `set`, values by dotted names.

    Raises:
        ValueError: a profile or a value that does not fit.
    """
    unknown = set(args) - {"profile", "set"}
    if unknown:
        raise ValueError(f"args: unknown {', '.join(sorted(unknown))}; give `profile`, and `set` with dotted names")
    return build(from_profile(args.get("profile", "profiles/tiny.yaml"), args.get("set")))
