"""What the service is: its models, its limits, who may use it. Frozen dataclasses, filled by a profile.

The same profile serves every job; here its sections `rewriter`, `scoring`, `thresholds` and `serving` are read. Nothing
here imports torch, FastAPI or Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polite_flamingo.config import load
from polite_flamingo.filters.judge import Thresholds
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.pools import Needs, PoolsConfig


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """What one request may ask for. What is too much is refused in one line that names the limit.

    Attributes:
        body_bytes: of a request; an uploaded file has a limit of its own (`batches.file_bytes`).
        body_seconds: for a request's body to arrive, and a second more for every 64 KiB that came.
        images: of one conversation.
        image_bytes: encoded, of one image.
        image_pixels: of one image, from its header; more is refused before anything is decoded.
        text_characters: of all messages of one conversation; of one annotation to rewrite.
        messages: of one conversation.
        choices: `n` of one request.
        rewrites: of one call of /v1/rewrite.
        seconds: for a whole answer; 0 for no limit.
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
    """Who may use it, and how much. Each ingress replica counts for itself.

    Attributes:
        keys: a file of hashed API keys (`polite-flamingo keys`); "" lets everybody in.
        requests_per_minute: a key's, where the file says nothing else of it; 0 for no limit. Without keys, all clients
            share one limit.
        concurrent_requests: a key's at once, in the same way.
        open_requests: of everybody at once; more are turned away with 503 before their bodies are read; 0 for no limit.
        open_metrics: /metrics asks for no key.
        origins: web pages of these origins, such as "https://example.org", may call; "*" for all. The chat page of this
            server may always.
        log: one line of JSON for each request, without content.
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
    """Images that a request names by an http(s) URL.

    Attributes:
        hosts: that may be asked, exact names or `*.example.org`; none by default.
        seconds: for one image, everything included.
        at_once: images fetched together, a thread each; some more wait, others are turned away.
    """

    hosts: tuple[str, ...] = ()
    seconds: float = 10.0
    at_once: int = 8


@dataclass(frozen=True, kw_only=True)
class BatchesConfig:
    """Asynchronous bulk jobs.

    Attributes:
        folder: where uploaded files, jobs and results lie; "" turns bulk jobs off.
        file_bytes: of one uploaded file.
        key_bytes: of all files that a key has uploaded and not deleted.
        lines: of one job.
        at_once: jobs that run together; others wait.
        waiting: jobs of a key that have not ended; more are turned away with 429.
        keep_days: files and jobs older than that are deleted.
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
    """How many processes do one thing, and when there are more.

    Attributes:
        min: replicas at least.
        max: replicas at most; more than `min` makes the number follow the requests under way.
        cpus: logical CPUs a replica takes of the cluster.
        gpus: GPUs a replica takes.
        ongoing: requests that one replica has at once; others wait in the router. 0 is, for engines, as many as they
            take (their slots and `serving.waiting`), else 128.
        queued: requests that wait in a router at most, those included that just pass; more are turned away with 503.
        target: requests under way a replica that the number of replicas aims at; 0 is 0.7 of `ongoing`.
        upscale_seconds: that the need for more must last; it is a mean over as long.
        downscale_seconds: that the need for fewer must last.
    """

    min: int = 1
    max: int = 1
    cpus: float = 0.5
    gpus: float = 0.0
    ongoing: int = 0
    queued: int = 256
    target: float = 0.0
    upscale_seconds: float = 10.0
    downscale_seconds: float = 300.0

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that mean nothing."""
        if not 1 <= self.min <= self.max or self.ongoing < 0 or self.queued < 1:
            raise ValueError("scale: needs 1 <= min <= max, ongoing not negative and queued of at least 1")


@dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    """The deployments on Ray Serve.

    Attributes:
        ingress: the HTTP side.
        chat: engines of the model that answers.
        rewriting: engines of the model that rewrites.
        scoring: the filters' models.
        drain_seconds: that a replica which is to go has for the answers it is writing.
    """

    ingress: ReplicasConfig = ReplicasConfig(ongoing=1000)
    chat: ReplicasConfig = ReplicasConfig()
    rewriting: ReplicasConfig = ReplicasConfig()
    scoring: ReplicasConfig = ReplicasConfig()
    drain_seconds: float = 60.0

    def needs(self) -> Needs:
        """Return what the smallest number of replicas takes."""
        pools = (self.ingress, self.chat, self.rewriting, self.scoring)
        return Needs(cpus=sum(pool.min * pool.cpus for pool in pools), gpus=sum(pool.min * pool.gpus for pool in pools))


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """The section `serving` of a profile.

    Attributes:
        chat: the model that answers: Clever Flamingo.
        chat_name: as clients call it.
        rewriter_name: as clients call Polite Flamingo.
        waiting: requests of one engine beyond those that have a slot, so that a freed one is filled at once; more wait
            in the router (`scale`).
        flush_seconds: pieces of a stream come no closer together than that, but for its first and its last: each costs
            a message between processes. Where an engine writes many answers, up to ten times as far apart
            (`host.pause_between`).
        limits: of one request.
        access: keys and rates.
        remote_images: by URL.
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

    rewriter: RewriterConfig
    serving: ServingConfig
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    thresholds: Thresholds = field(default_factory=Thresholds)
    pools: PoolsConfig = field(default_factory=PoolsConfig)


def from_profile(profile: str | Path, overrides: Mapping[str, Any] | None = None) -> ServiceConfig:
    """The service that a profile describes: `polite_flamingo.config.load` of a `ServiceConfig`."""
    return load(ServiceConfig, profile, overrides)
