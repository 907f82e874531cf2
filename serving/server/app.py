"""The HTTP side, whole: a FastAPI application over a `Backend`, the same in one process and on Ray Serve.

Families of routes: `chat/routes.py` (/v1/chat/completions, /v1/models), `rewrite/routes.py` (/v1/rewrite),
`batches/routes.py` (/v1/files, /v1/batches), `page.py` (/), `http/metrics.py` (/metrics), `http/reference.py` (/docs).
`http/middleware.py` stands before all of them: keys, rates, sizes, request ids, the log.
"""

from __future__ import annotations

import time

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from serving.backends.base import Backend
from serving.batches import routes as bulk
from serving.chat import routes as chat
from serving.chat.images import Pictures
from serving.chat.protocol import ERRORS
from serving.config import ServiceConfig
from serving.errors import ApiError
from serving.http import logs, metrics, reference
from serving.http.keys import KeyRing
from serving.http.middleware import RATE_HEADERS, Gate
from serving.http.unframed import leave_old_bodies_unframed
from serving.http.validation import as_api_error
from serving.rewrite import routes as rewrite
from serving.server import page

MULTIPART_BYTES = 64 << 10
"""What an upload has besides its file."""


def create_app(config: ServiceConfig, backend: Backend, *, answer_id: bool = True) -> FastAPI:
    """The application; `app.state.config`, `app.state.backend` and `app.state.metrics` are what its routes use.

    Args:
        config: of the service.
        backend: runs the models.
        answer_id: answers carry x-request-id; False behind Ray Serve's proxy, which adds it.

    Raises:
        ValueError: the file of API keys cannot be read; one line.
    """
    leave_old_bodies_unframed()
    app = FastAPI(
        title="Polite Flamingo on Ray",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=ERRORS,
    )
    app.state.config, app.state.backend, app.state.metrics = config, backend, metrics.Metrics()
    app.state.pictures = Pictures(config.serving.limits, config.serving.remote_images)
    app.state.started, app.state.fingerprint = int(time.time()), chat.fingerprint(config.serving)

    @app.get(
        "/health",
        tags=["service"],
        response_class=Response,
        responses={200: {"description": "Every model answers."}, 503: {"description": "Not every model answers."}},
    )
    async def health() -> Response:
        """200 when every model answers, else 503."""
        return Response(status_code=200 if await backend.ready() else 503)

    app.include_router(chat.router)
    app.include_router(rewrite.router)
    app.include_router(bulk.router)
    app.include_router(metrics.router)
    app.include_router(reference.router)
    app.include_router(page.router)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    if config.serving.access.keys:
        reference.tell_of_keys(app)
    _guard(app, config, answer_id)
    return app


def _guard(app: FastAPI, config: ServiceConfig, answer_id: bool) -> None:
    """Put the gate before all routes, and what lets other web pages read answers before the gate."""
    serving, access = config.serving, config.serving.access
    if access.log:
        logs.write_to_stderr()
    app.add_middleware(
        Gate,
        config=serving,
        metrics=app.state.metrics,
        ring=KeyRing(access.keys) if access.keys else None,
        bodies={"/v1/files": serving.batches.file_bytes + MULTIPART_BYTES} if serving.batches.folder else {},
        answer_id=answer_id,
    )
    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id", "retry-after", "x-should-retry", *RATE_HEADERS],
        )


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    if error.status == 500:  # what a route says of a failure is for the client; what it came of is for the log
        logs.failure(request.state.request_id, getattr(request.scope.get("route"), "path", "none"), error)
    return JSONResponse(error.body(), error.status, error.headers())


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _api_error(request, as_api_error(error.errors(), error.body))


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router and FastAPI find themselves: no such path (404), no such method (405), a body that is no JSON."""
    assert isinstance(error, HTTPException)
    message = {
        404: "there is nothing at this URL; /docs lists what there is",
        405: f"this URL does not take {request.method}",
    }.get(error.status_code, str(error.detail))
    answer = ApiError(
        error.status_code, message, "server_error" if error.status_code >= 500 else "invalid_request_error"
    )
    return JSONResponse(answer.body(), error.status_code, error.headers)
