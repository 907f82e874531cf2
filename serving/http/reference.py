"""/docs: every route and schema of /openapi.json, as a page that needs neither network nor script.

FastAPI's own page loads scripts from a CDN, which neither an offline machine nor our content security policy allows.
This one cannot send requests; use the chat page or curl.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from serving.http.authentication import OPEN_PATHS

_FOLDER = Path(__file__).parents[1] / "reference_page"
router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The API reference."""
    return HTMLResponse(page(request.app.openapi()))


@router.get("/docs.css")
async def docs_css() -> Response:
    """Its style sheet."""
    return Response((_FOLDER / "docs.css").read_text(encoding="utf-8"), media_type="text/css")


def page(document: Mapping[str, Any]) -> str:
    """Render an OpenAPI document as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
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


def document_keys(app: FastAPI) -> None:
    """Make the application's OpenAPI document say which routes need an API key."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()  # cached by FastAPI; repeating the changes below does no harm
        document.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if path not in OPEN_PATHS or method != "get":
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
