"""The page's files as they are served: right types, cached by browsers, complete, and nothing else."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from html.parser import HTMLParser

import pytest

from polite_flamingo.filters.thresholds import CHECKS, REJECTIONS
from serving.config import AccessConfig
from serving.http.static_files import TYPES
from serving.server import page
from tests.support.patience import PATIENCE
from tests.support.stub_service import application, configured, serving_on_a_port


@dataclass
class Answer:
    status: int
    headers: Message
    content: bytes


Get = Callable[..., Answer]


@pytest.fixture(scope="module")
def get(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Get]:
    """Send a request without a key to a service that requires one, with the path unchanged."""
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    keys.write_text('{"keys": []}')
    app, _ = application(configured(access=AccessConfig(keys=str(keys))))
    with serving_on_a_port(app) as (host, port):

        def ask(path: str, method: str = "GET", **headers: str) -> Answer:
            connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            found = Answer(answer.status, answer.headers, answer.read())
            connection.close()
            return found

        yield ask


def test_the_page_comes_without_a_key_and_may_run_no_script_but_its_own(get: Get) -> None:
    answer = get("/")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers.get_all("content-security-policy")[0]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy


@pytest.mark.parametrize("name", sorted(page.files()))
def test_every_file_says_what_it_is(get: Get, name: str) -> None:
    answer = get(f"/page/{name}")
    assert answer.content == (page.FOLDER / name).read_bytes()
    assert answer.headers["content-type"] == TYPES["." + name.rsplit(".", 1)[1]]
    assert get(f"/page/{name}", "HEAD").headers["etag"] == answer.headers["etag"]


def test_what_a_browser_has_already_is_not_sent_again(get: Get) -> None:
    known = get("/").headers["etag"]
    again = get("/", **{"If-None-Match": f'"other", W/{known}'})
    assert (again.status, again.content) == (304, b"")
    assert get("/", **{"If-None-Match": '"other"'}).status == 200


@pytest.mark.parametrize(
    "path", ["", "none.js", "../app.py", "%2e%2e/app.py", "..%2fapp.py", "%2e%2e%2fapp.py", "%2fetc%2fpasswd", "%00"]
)
def test_nothing_beside_the_page_can_be_had(get: Get, path: str) -> None:
    answer = get(f"/page/{path}")
    assert answer.status == 404
    assert json.loads(answer.content)["error"]["message"]


def test_the_page_is_told_limits_and_names_but_no_secret(get: Get) -> None:
    told = get("/page/settings.json").content.decode()
    assert json.loads(told)["chat"] == "clever-flamingo" and json.loads(told)["rewriter"] == "polite-flamingo"
    assert json.loads(told)["keys"] is True and json.loads(told)["images"] > 1
    assert "keys.json" not in told


def test_it_is_small_and_asks_for_nothing_that_is_not_there() -> None:
    files = page.files()
    assert sum(len(file.content) for name, file in files.items() if not name.endswith(".png")) < 100_000
    named = _Named()
    named.feed(files["index.html"].content.decode())
    assert named.inline == []
    assert named.addresses and all(name.removeprefix("page/") in files for name in named.addresses)
    scripts = {name: file.content.decode() for name, file in files.items() if name.endswith(".js")}
    imported = {name for text in scripts.values() for name in re.findall(r'from "\./([\w.]+)"', text)}
    assert imported and imported <= scripts.keys()
    assert {f"page/{name}" for name in imported | {"page.js", "theme.js"}} <= set(named.addresses), "not loaded at once"
    for name, text in scripts.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
        assert set(re.findall(r"https?://[^\"'`\s]+", text)) <= {"http://www.w3.org/2000/svg"}, name
    for name in re.findall(r"#i-([a-z]+)", "".join(scripts.values()) + files["index.html"].content.decode()):
        assert f'id="i-{name}"'.encode() in files["index.html"].content
    shown = re.findall(r'(?:icon|tool)\("([a-z]+)"', "".join(scripts.values()))
    assert shown and all(f'id="i-{name}"'.encode() in files["index.html"].content for name in shown)
    assert all(f'"{name}"' in "".join(scripts.values()) for name in files if name.endswith(".png"))


def test_the_page_has_words_for_every_check_and_every_reason() -> None:
    text = page.files()["verdicts.js"].content.decode()
    for check in CHECKS:
        assert f"  {check.name}: " in text
    for reason in set(REJECTIONS) - {"duplicate_key"}:  # one rewriting has no duplicates
        assert f"  {reason}: " in text


class _Named(HTMLParser):
    """Addresses that a page names, and what of it is inline."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.inline += [f"{tag} {name}" for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        address = given.get("src") or given.get("href") or ""
        if address and not address.startswith("#"):
            self.addresses.append(address)
