"""The FastAPI application of the votes' page, behind the same middleware, policy and errors as the chat service.

The page is `serving/vote_page/`; colours, helpers and the button for dark colours are those of the chat page.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response

from polite_flamingo.preference.votes.poll import Poll
from serving.config import AccessConfig, LimitsConfig
from serving.errors import ApiError
from serving.http import reference
from serving.http.error_handlers import add_error_handlers
from serving.http.keys import KeyRing
from serving.http.metrics import Metrics
from serving.http.middleware import AccessMiddleware
from serving.http.static_files import File, answer, read_files
from serving.votes import routes

FOLDERS = Path(__file__).parents[1] / "page", Path(__file__).parents[1] / "vote_page"
SHARED = ("style.css", "theme.js", "theme_button.js", "dom.js", "text.js", "flamingo.svg")
"""Files of the chat page that this one uses too."""

BODY_BYTES = 64 << 10


@cache
def files() -> Mapping[str, File]:
    """All files of the page, by name."""
    chat, own = map(read_files, FOLDERS)
    return {**{name: chat[name] for name in SHARED}, **own}


def create_app(poll: Poll, *, instruction: str, keys: Path | None, open_requests: int = 64) -> FastAPI:
    """Create the application.

    Args:
        poll: what is voted on.
        instruction: shown to every voter.
        keys: file of keys that let in (`serving/http/keys.py`); None lets everybody in.
        open_requests: most requests at once.

    Raises:
        ValueError: the file of keys cannot be read; one line.
    """
    app = FastAPI(title="Blind votes", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.poll, app.state.pictures = poll, routes.Pictures()
    app.include_router(routes.router)
    app.include_router(reference.router)
    add_error_handlers(app)
    if keys is not None:
        reference.document_keys(app)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        return answer(request, files()["index.html"])

    @app.get("/page/settings.json", include_in_schema=False)
    async def settings() -> dict[str, str | bool]:
        return {"instruction": instruction, "keys": keys is not None}

    @app.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        found = files().get(name)
        if found is None:
            raise ApiError(404, "no such file", code="not_found")
        return answer(request, found)

    app.add_middleware(
        AccessMiddleware,
        access=AccessConfig(open_requests=open_requests, log=False),
        limits=LimitsConfig(body_bytes=BODY_BYTES),
        metrics=Metrics(),
        keys=KeyRing(keys) if keys is not None else None,
        body_limits={},
    )
    return app
