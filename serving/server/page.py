"""The page at `/`: a chat with Clever Flamingo and a rewriting playground, as static files without a build step.

The files are in `serving/page/`: HTML, CSS, ES modules, images. They are read once and served from memory by exact
name, so no path is ever built from a request. The page loads nothing from other hosts, and the service's content
security policy (`http/accounting.py`) enforces it: no inline script or style, no other host, no text that becomes
markup (Trusted Types). It uses the same routes as every client; what it needs to know beforehand is in
`page/settings.json`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from serving.config import ServiceConfig
from serving.errors import ApiError

FOLDER = Path(__file__).parents[1] / "page"

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class File:
    """A file of the page."""

    content: bytes
    type: str
    etag: str


@cache
def files() -> Mapping[str, File]:
    """All files of the page, by name."""
    return {path.name: _read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}


def _read(path: Path) -> File:
    content = path.read_bytes()
    return File(content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:20]}"')


@router.api_route("/", methods=["GET", "HEAD"])
async def index(request: Request) -> Response:
    """The page."""
    return _answer(request, files()["index.html"])


@router.get("/page/settings.json")
async def page_settings(request: Request) -> dict[str, Any]:
    """What the page needs to know about the service. Public: sent without a key."""
    config: ServiceConfig = request.app.state.config
    serving, limits = config.serving, config.serving.limits
    return {
        "chat": serving.chat_name,
        "rewriter": serving.rewriter_name,
        "keys": bool(serving.access.keys),
        "images": limits.images,
        "image_bytes": limits.image_bytes,
        "text_characters": limits.text_characters,
        "thresholds": asdict(config.thresholds),
    }


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def file(request: Request, name: str) -> Response:
    """A file of the page."""
    found = files().get(name)
    if found is None:
        raise ApiError(404, "no such file", code="not_found")
    return _answer(request, found)


def _answer(request: Request, found: File) -> Response:
    headers = {"ETag": found.etag, "Cache-Control": "no-cache"}  # revalidated each time: a new version shows at once
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if found.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.type)
