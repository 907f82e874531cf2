"""The page at `/`: a chat with Clever Flamingo and a rewriting playground, as static files without a build step.

The files are in `serving/page/`: HTML, CSS, ES modules, images. They are read once and served from memory by exact
name, so no path is ever built from a request. The page loads nothing from other hosts, and the service's content
security policy (`http/accounting.py`) enforces it: no inline script or style, no other host, no text that becomes
markup (Trusted Types). It uses the same routes as every client; what it needs to know beforehand is in
`page/settings.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from serving.config import ServiceConfig
from serving.errors import ApiError
from serving.http.static_files import File, answer, read_files

FOLDER = Path(__file__).parents[1] / "page"

router = APIRouter(include_in_schema=False)


@cache
def files() -> Mapping[str, File]:
    """All files of the page, by name."""
    return read_files(FOLDER)


@router.api_route("/", methods=["GET", "HEAD"])
async def index(request: Request) -> Response:
    """The page."""
    return answer(request, files()["index.html"])


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
    return answer(request, found)
