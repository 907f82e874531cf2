"""Files of a page, read once and served from memory by exact name, so no path is ever built from a request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from fastapi.responses import Response

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
"""Files that a page may have; others in its folder are not served."""


@dataclass(frozen=True)
class File:
    """A file of the page."""

    content: bytes
    type: str
    etag: str


def read_files(folder: Path) -> Mapping[str, File]:
    """Return all files of a page, by name."""
    return {path.name: _read(path) for path in sorted(folder.iterdir()) if path.suffix in TYPES}


def answer(request: Request, found: File) -> Response:
    """Return a file, or that the client has it already."""
    headers = {"ETag": found.etag, "Cache-Control": "no-cache"}  # revalidated each time: a new version shows at once
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if found.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.type)


def _read(path: Path) -> File:
    content = path.read_bytes()
    return File(content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:20]}"')
