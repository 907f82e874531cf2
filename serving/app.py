"""The HTTP side, whole: a FastAPI application over a `Backend`, the same in one process and on Ray Serve.

Each family of routes has a file: `chat.py` (/v1/chat/completions, /v1/models), `rewrite.py` (/v1/rewrite), `bulk.py`
(/v1/files, /v1/batches), `page/` (/). `gate.py` stands before all of them: keys, rates, sizes, request ids, the log.
"""

from __future__ import annotations

import time

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from serving import chat
from serving.backend import Backend
from serving.config import ServiceConfig
from serving.errors import ApiError
from serving.pictures import Pictures
from serving.validation import as_api_error


def create_app(config: ServiceConfig, backend: Backend) -> FastAPI:
    """The application; `app.state.config` and `app.state.backend` are what its routes use."""
    app = FastAPI(title="Polite Flamingo on Ray", version="1", docs_url="/docs", redoc_url=None)
    app.state.config, app.state.backend = config, backend
    app.state.pictures = Pictures(config.serving.limits, config.serving.remote_images)
    app.state.started, app.state.fingerprint = int(time.time()), chat.fingerprint(config.serving)

    @app.get("/health", tags=["service"])
    async def health() -> Response:
        """200 when every model answers, else 503."""
        return Response(status_code=200 if await backend.ready() else 503)

    app.include_router(chat.router)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    return app


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers())


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _api_error(request, as_api_error(error.errors(), error.body))
