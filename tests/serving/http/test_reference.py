"""/docs: everything in /openapi.json, on a page that loads nothing from other hosts."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx2

from serving.config import AccessConfig
from serving.http.keys import new_key, write_keys
from serving.http.reference import kind, page
from serving.server.app import create_app
from tests.support.stub_service import StubBackend, configured


def test_the_page_tells_every_route_and_every_schema_and_loads_nothing_from_elsewhere() -> None:
    async def run() -> tuple[str, str, dict[str, dict[str, object]]]:
        app = create_app(configured(), StubBackend())
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as client:
            answers = [await client.get(path) for path in ("/docs", "/docs.css", "/openapi.json")]
            assert [answer.status_code for answer in answers] == [200, 200, 200]
            assert [answer.headers["content-type"].split(";")[0] for answer in answers[:2]] == ["text/html", "text/css"]
            return answers[0].text, answers[1].text, answers[2].json()

    html, css, document = asyncio.run(run())
    for path, methods in document["paths"].items():
        assert f"<code>{path}</code>" in html
        assert all(f">{method.upper()}</span>" in html for method in methods)
    assert "/health" in html and "/metrics" in html
    loaded = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert loaded and not any("//" in one for one in loaded) and "url(" not in css and "@import" not in css
    assert "<script" not in html and "style=" not in html, "the content policy would stop either"


def test_the_document_says_which_routes_ask_for_a_key(tmp_path: Path) -> None:
    _, key = new_key("x")
    write_keys(tmp_path / "keys.json", [key])
    for keys in ("", str(tmp_path / "keys.json")):
        app = create_app(configured(access=AccessConfig(keys=keys)), StubBackend())
        document = app.openapi()
        assert document == app.openapi(), "told twice, it says the same"
        rewrite, health = document["paths"]["/v1/rewrite"]["post"], document["paths"]["/health"]["get"]
        assert ("security" in rewrite) == ("securitySchemes" in document["components"]) == bool(keys)
        assert "security" not in health


def test_what_a_document_says_is_text_not_markup() -> None:
    operation = {
        "summary": "<script>alert(1)</script>",
        "parameters": [{"name": "n", "in": "query", "required": True, "schema": {"type": "integer"}}],
        "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
        "responses": {"200": {"description": "fine"}},
    }
    thing = {"properties": {"a": {"type": "string", "default": "<b>"}, "b": {}}, "required": ["b"]}
    inline = {
        "content": {"multipart/form-data": {"schema": {"anyOf": [{"type": "object", "properties": {"file": {}}}]}}}
    }
    html = page(
        {
            "info": {"title": "t", "version": "1"},
            "paths": {"/x": {"get": operation, "post": operation | {"requestBody": inline}}},
            "components": {"schemas": {"Thing": thing}},
        }
    )
    assert "<script>" not in html and "&lt;script&gt;" in html and "<b>" not in html.replace("<b>200</b>", "")
    assert "<code>n</code> (required)" in html and "<code>b</code> (required)" in html and 'id="Thing"' in html
    assert "multipart/form-data</code> object" in html and "<td><code>file</code></td>" in html


def test_schemas_are_told_in_a_few_words() -> None:
    assert kind({"$ref": "#/components/schemas/Thing"}) == "Thing"
    assert kind({"type": "array", "items": {"type": "integer"}}) == "array of integer"
    assert kind({"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "string"}]}) == "string or null"
    assert kind({"enum": ["low", "high"]}) == "one of: low, high"
    assert kind({"const": "user"}) == '"user"' and kind({}) == "anything"
