"""/docs: every route and every schema of /openapi.json as a page that needs no network and no script.

FastAPI's own page loads its program from elsewhere, which neither an offline machine nor our content policy allows.
What it cannot do is send requests: the chat page and curl do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from serving.http.middleware import OPEN

_FOLDER = Path(__file__).parents[1] / "reference_page"
router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The page."""
    return HTMLResponse(page(request.app.openapi()))


@router.get("/docs.css")
async def docs_css() -> Response:
    """Its style."""
    return Response((_FOLDER / "docs.css").read_text(encoding="utf-8"), media_type="text/css")


def page(document: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI document."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = kind
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = document.get("components", {}).get("schemas", {})
    return environment.get_template("docs.html").render(info=document["info"], operations=operations, schemas=schemas)


def tell_of_keys(app: FastAPI) -> None:
    """Let the application's OpenAPI document say which routes ask for an API key."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()  # kept by FastAPI: the changes below are made once, and change nothing when made again
        document.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if path not in OPEN or method != "get":
                    operation["security"] = [{"key": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def kind(schema: Mapping[str, Any]) -> str:
    """A schema in a few words: "ChatRequest", "array of integer", "string or null", "one of: low, high"."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    several = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if several:
        return " or ".join(dict.fromkeys(kind(one) for one in several))
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return "one of: " + ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"array of {kind(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))
