"""Settings of the service: models, limits, access, replicas. Frozen dataclasses, filled from a profile.

One profile serves every job; the service reads its sections `rewriter`, `scoring`, `thresholds`, `serving` and `pools`.
Nothing here imports torch, FastAPI or Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polite_flamingo.config import load
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.pools import Needs, PoolsConfig
from polite_flamingo.rewriters.config import RewriterSection


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """Limits of one request. An error names the limit that was exceeded.

    Attributes:
        body_bytes: maximum size of a body; uploaded files have their own limit (`batches.file_bytes`).
        body_seconds: time for a body to arrive, plus one second for every 64 KiB received.
        images: maximum per conversation.
        image_bytes: maximum size of an encoded image.
        image_pixels: maximum pixels of an image, checked in its header before anything is decoded.
        text_characters: maximum for all messages of a conversation together, and for one annotation to rewrite.
        messages: maximum per conversation.
        choices: maximum of `n`.
        rewrites: maximum items in one call of /v1/rewrite.
        seconds: time limit for a whole answer; 0 for none.
    """

    body_bytes: int = 32 << 20
    body_seconds: float = 30.0
    images: int = 16
    image_bytes: int = 8 << 20
    image_pixels: int = 64_000_000
    text_characters: int = 100_000
    messages: int = 200
    choices: int = 8
    rewrites: int = 64
    seconds: float = 300.0


@dataclass(frozen=True, kw_only=True)
class AccessConfig:
    """Who may use the service, and how much. Each ingress replica counts separately.

    Attributes:
        keys: file of hashed API keys, made by `polite-flamingo keys`; "" lets everybody in.
        requests_per_minute: default per key; 0 for no limit. Without keys, all clients share one limit.
        concurrent_requests: default per key; 0 for no limit. Without keys, all clients share one limit.
        open_requests: maximum for all clients together; more get 503 before their bodies are read; 0 for no limit.
        open_metrics: serve /metrics without a key.
        origins: origins whose web pages may call the API, such as "https://example.org"; "*" for all. The server's own
            chat page always may.
        log: write an access log, one line of JSON per request, without content.
    """

    keys: str = ""
    requests_per_minute: int = 0
    concurrent_requests: int = 0
    open_requests: int = 512
    open_metrics: bool = False
    origins: tuple[str, ...] = ()
    log: bool = True


@dataclass(frozen=True, kw_only=True)
class RemoteImagesConfig:
    """Images that requests give by http(s) URL.

    Attributes:
        hosts: hosts that may be fetched from, exact names or `*.example.org`; none by default.
        seconds: time limit for one image, from connecting to the last byte.
        at_once: downloads at the same time, a thread each; a few more wait, others get 503.
    """

    hosts: tuple[str, ...] = ()
    seconds: float = 10.0
    at_once: int = 8


@dataclass(frozen=True, kw_only=True)
class BatchesConfig:
    """Bulk jobs (OpenAI's Batch API).

    Attributes:
        folder: folder of uploaded files, jobs and results, or an address such as s3://bucket/jobs, which replicas on
            several machines need unless they share a disk; "" turns bulk jobs off.
        file_bytes: maximum size of an uploaded file.
        key_bytes: maximum size of all files that a key has uploaded and not deleted.
        lines: maximum per job.
        at_once: jobs that a service runs at the same time; others wait.
        waiting: maximum unfinished jobs per key; more get 429.
        keep_days: age at which files and jobs are deleted.
    """

    folder: str = ""
    file_bytes: int = 512 << 20
    key_bytes: int = 8 << 30
    lines: int = 50_000
    at_once: int = 1
    waiting: int = 100
    keep_days: float = 30.0


@dataclass(frozen=True, kw_only=True)
class ReplicasConfig:
    """Number and size of a deployment's replicas.

    Attributes:
        min: minimum number of replicas.
        max: maximum number of replicas; if it exceeds `min`, the number follows the requests under way.
        per_node: maximum number of replicas on one machine, where the next one then waits for another machine; 0 for no
            limit. Serve spreads replicas over machines in any case, as far as there is room.
        cpus: logical CPUs per replica.
        gpus: GPUs per replica.
        ongoing: maximum requests under way per replica; others wait in the router. 0 means 128, or for engines as many
            as they take (their slots plus `serving.waiting`).
        queued: maximum requests in a router, including those passed straight through; more get 503.
        target: requests under way per replica that autoscaling aims at; 0 means 0.7 of `ongoing`.
        upscale_seconds: seconds of sustained load before scaling up; the load is averaged over as long.
        downscale_seconds: seconds of lower load before scaling down.
    """

    min: int = 1
    max: int = 1
    per_node: int = 0
    cpus: float = 0.5
    gpus: float = 0.0
    ongoing: int = 0
    queued: int = 256
    target: float = 0.0
    upscale_seconds: float = 10.0
    downscale_seconds: float = 300.0

    def __post_init__(self) -> None:
        """Raise ValueError for invalid numbers."""
        if not 1 <= self.min <= self.max or self.ongoing < 0 or self.queued < 1 or not 0 <= self.per_node <= 100:
            raise ValueError("scale: needs 1 <= min <= max, 0 <= per_node <= 100, ongoing >= 0 and queued >= 1")


@dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    """The deployments on Ray Serve.

    Attributes:
        ingress: the HTTP side.
        chat: engines of the model that answers.
        rewriting: engines of the model that rewrites.
        scoring: the filters' models.
        drain_seconds: grace period in which a stopping replica finishes its answers.
    """

    ingress: ReplicasConfig = ReplicasConfig(ongoing=1000)
    chat: ReplicasConfig = ReplicasConfig()
    rewriting: ReplicasConfig = ReplicasConfig()
    scoring: ReplicasConfig = ReplicasConfig()
    drain_seconds: float = 60.0

    def needs(self) -> Needs:
        """Return what the smallest number of replicas takes."""
        pools = (self.ingress, self.chat, self.rewriting, self.scoring)
        return Needs(
            cpus=sum(pool.min * pool.cpus for pool in pools),
            gpus=sum(pool.min * pool.gpus for pool in pools),
            section="serving.scale",
        )


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """The section `serving` of a profile.

    Attributes:
        chat: the model that chats: Clever Flamingo.
        chat_name: its name for clients.
        rewriter_name: the name of Polite Flamingo for clients.
        waiting: requests per engine beyond those that have a slot, so that a freed slot is filled at once; more wait in
            the router (`scale`).
        flush_seconds: minimum time between two chunks of a stream, except the first and the last, because each costs a
            message between processes. Up to ten times as long while an engine generates many answers.
        limits: limits of one request.
        access: keys and rates.
        remote_images: images given by URL.
        batches: bulk jobs.
        scale: replicas.
    """

    chat: RewriterConfig
    chat_name: str = "clever-flamingo"
    rewriter_name: str = "polite-flamingo"
    waiting: int = 16
    flush_seconds: float = 0.05
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    remote_images: RemoteImagesConfig = field(default_factory=RemoteImagesConfig)
    batches: BatchesConfig = field(default_factory=BatchesConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """Everything that the service depends on.

    Attributes:
        rewriter: Polite Flamingo, which rewrites.
        serving: Clever Flamingo, limits, keys, replicas.
        scoring: the filters' models.
        thresholds: for the verdicts on rewritten responses.
        pools: actors of bulk jobs.
    """

    rewriter: RewriterSection
    serving: ServingConfig
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    thresholds: Thresholds = field(default_factory=Thresholds)
    pools: PoolsConfig = field(default_factory=PoolsConfig)

    def __post_init__(self) -> None:
        """Raise ValueError for a rewriter that cannot be served."""
        self.rewriter.of_flamingo("serve")


def from_profile(profile: str | Path, overrides: Mapping[str, Any] | None = None) -> ServiceConfig:
    """The service that a profile describes: `polite_flamingo.config.load` of a `ServiceConfig`."""
    return load(ServiceConfig, profile, overrides)
