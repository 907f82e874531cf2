"""What becomes of an exception in a route: an error in OpenAI's format, whatever raised it."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from serving.errors import ApiError
from serving.http import logs
from serving.http.validation import as_api_error


def add_error_handlers(app: FastAPI) -> None:
    """Handle our own errors, those of pydantic, and those of the router."""
    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def api_error(request: Request, error: Exception) -> Response:
    """Return the response to an `ApiError`."""
    assert isinstance(error, ApiError)
    if error.status == 500:  # the client gets the message, the log the cause
        logs.failure(request.state.request_id, getattr(request.scope.get("route"), "path", "none"), error)
    return JSONResponse(error.body(), error.status, error.headers())


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await api_error(request, as_api_error(error.errors()[0], error.body))


async def _http_error(request: Request, error: Exception) -> Response:
    """Errors of the router and of FastAPI: no such path (404), no such method (405), a body that is not JSON."""
    assert isinstance(error, HTTPException)
    message = {
        404: "no such URL; /docs lists all routes",
        405: f"this URL does not accept {request.method}",
    }.get(error.status_code, str(error.detail))
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    return JSONResponse(ApiError(error.status_code, message, kind).body(), error.status_code, error.headers)
