"""The FastAPI application over a `Backend`, the same in one process and on Ray Serve.

Routes: `chat/routes.py` (/v1/chat/completions, /v1/models), `rewrite/routes.py` (/v1/rewrite), `batches/routes.py`
(/v1/files, /v1/batches), `page.py` (/), `http/metrics.py` (/metrics), `http/reference.py` (/docs). In front of all of
them is `http/middleware.py`: keys, rates, sizes, request ids, the access log.
"""

from __future__ import annotations

import time

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.middleware.cors import CORSMiddleware

from polite_flamingo.storage.visibility import PathUnavailable
from serving.backends.base import Backend
from serving.batches import routes as batches
from serving.batches.store import BatchStore
from serving.chat import routes as chat
from serving.chat.images import ImageLoader
from serving.chat.responses import ERRORS
from serving.config import ServiceConfig
from serving.errors import ApiError
from serving.http import logs, metrics, reference
from serving.http.error_handlers import add_error_handlers, api_error
from serving.http.http10 import support_http10
from serving.http.keys import KeyRing
from serving.http.limits import RATE_HEADERS
from serving.http.middleware import AccessMiddleware
from serving.rewrite import routes as rewrite
from serving.server import page

MULTIPART_BYTES = 64 << 10
"""Allowance for the parts of an upload besides its file."""


def create_app(config: ServiceConfig, backend: Backend, *, send_request_id: bool = True) -> FastAPI:
    """Create the application; its routes use `app.state.config`, `.backend`, `.images` and `.metrics`.

    Args:
        config: the service's config.
        backend: runs the models.
        send_request_id: responses carry x-request-id; False behind Ray Serve's proxy, which adds it.

    Raises:
        ValueError: the file of API keys cannot be read; one line.
    """
    support_http10()
    app = FastAPI(
        title="Polite Flamingo on Ray",
        version="1",
        responses=ERRORS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.config, app.state.backend, app.state.metrics = config, backend, metrics.Metrics()
    batches_config = config.serving.batches
    app.state.batches = BatchStore(batches_config) if batches_config.folder else None
    app.state.images = ImageLoader(config.serving.limits, config.serving.remote_images)
    app.state.started, app.state.fingerprint = int(time.time()), chat.fingerprint(config.serving)

    @app.get(
        "/health",
        tags=["service"],
        response_class=Response,
        responses={200: {"description": "Every model can answer."}, 503: {"description": "Some model cannot answer."}},
    )
    async def health() -> Response:
        """200 if every model can answer, else 503."""
        return Response(status_code=200 if await backend.ready() else 503)

    for routes in (chat, rewrite, batches, metrics, reference, page):
        app.include_router(routes.router)
    add_error_handlers(app)
    app.add_exception_handler(PathUnavailable, _store_error)
    if config.serving.access.keys:
        reference.document_keys(app)
    _add_middleware(app, config, send_request_id)
    return app


def _add_middleware(app: FastAPI, config: ServiceConfig, send_request_id: bool) -> None:
    """Put our middleware in front of all routes, and CORS headers for other origins in front of that."""
    serving, access = config.serving, config.serving.access
    if access.log:
        logs.write_to_stderr()
    app.add_middleware(
        AccessMiddleware,
        access=access,
        limits=serving.limits,
        metrics=app.state.metrics,
        keys=KeyRing(access.keys) if access.keys else None,
        body_limits={"/v1/files": serving.batches.file_bytes + MULTIPART_BYTES} if serving.batches.folder else {},
        send_request_id=send_request_id,
    )
    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id", "retry-after", "x-should-retry", *RATE_HEADERS],
        )


async def _store_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PathUnavailable)
    logs.store_failure(error)
    message = "the store of files and batches is out of reach; try again later"
    return await api_error(request, ApiError(503, message, "server_error", "store_unavailable", retry_after=30))
