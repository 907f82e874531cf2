"""The routes of the votes' page: what is refused, what never leaves the server, and that saved means on the disk."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from starlette.testclient import TestClient

from polite_flamingo.preference.votes.battles import Battle
from polite_flamingo.preference.votes.log import VoteLog
from polite_flamingo.preference.votes.poll import Poll
from polite_flamingo.sample import Image
from serving.http.keys import new_key, write_keys
from serving.votes.app import SHARED, create_app, files
from tests.support.voting import answered, battles, conversation, rewritten

BATTLES = battles([rewritten(number) for number in range(4)])


class Site:
    """The application over a file of votes."""

    def __init__(self, folder: Path, shown: list[Battle], keys: Path | None = None):
        self.file, self.log = folder / "votes.jsonl", VoteLog(folder / "votes.jsonl")
        self.client = TestClient(create_app(Poll(shown, self.log), instruction="Choose.", keys=keys))

    def post(self, route: str, status: int = 200, **body: Any) -> Any:
        answer = self.client.post(f"/v1/votes{route}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield Site(tmp_path, BATTLES)


def test_a_voter_goes_through_all_pairs_and_back(site: Site) -> None:
    state = site.post("/next", voter=" ann ")
    assert (state["voter"], state["voted"], state["total"], state["can_undo"]) == ("ann", 0, 4, False)
    first = state["pair"]
    for said in ("left", "tie", "both_bad", "skip"):
        assert state["pair"]["pictures"][0]["uri"].startswith("data:image/webp;base64,")
        state = site.post("", voter="ann", battle=state["pair"]["id"], choice=said, seconds=2.5)
    assert (state["pair"], state["voted"], state["skipped"]) == (None, 4, 1)
    assert site.post("/reopen", voter="ann")["voted"] == 3
    for undone in ("both_bad", "tie", "left", ""):
        state = site.post("/undo", voter="ann")
        assert state["undone"] == undone
    assert state["pair"] == first and not state["can_undo"]


def test_who_wrote_what_and_what_machines_think_never_leaves_the_server(tmp_path: Path) -> None:
    samples = [answered(1, {"clever-name": 12.0, "base-name": 3.0}), rewritten(2, reward=7.25), conversation(3)]
    site = Site(tmp_path, battles(samples))
    seen, state = "", site.post("/next", voter="Ann")
    while state["pair"]:
        seen += json.dumps(state)
        state = site.post("", voter="Ann", battle=state["pair"]["id"], choice="tie")
    assert "Question 1?" in seen and '"asked": "Question 0?"' in seen
    for secret in ("clever-name", "base-name", "7.25", "rewrit", "raw annotation", "candidate", "made/train", "rule"):
        assert secret not in seen, secret


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"voter": ""}, 400, "voter"),
        ({"voter": "x" * 41}, 400, "voter"),
        ({"voter": 3}, 400, "voter"),
        ({}, 400, "voter"),
        ({"voter": "Ann", "battle": "none", "choice": "left"}, 409, "battle"),
        ({"voter": "Ann", "battle": BATTLES[0].id, "choice": "first"}, 400, "choice"),
        ({"voter": "Ann", "battle": BATTLES[0].id, "choice": "left", "seconds": -1}, 400, "seconds"),
        ({"voter": "Ann", "battle": BATTLES[0].id, "choice": "left", "seconds": 1e400}, 400, None),
        ({"voter": "Ann", "battle": BATTLES[0].id, "choice": "left", "who": "me"}, 400, "who"),
    ],
)
def test_what_is_wrong_is_refused_in_a_line_and_not_counted(
    site: Site, body: dict[str, Any], status: int, param: str | None
) -> None:
    route = "" if "battle" in body else "/next"
    text = json.dumps(body)
    answer = site.client.post(f"/v1/votes{route}", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"] and (param is None or error["param"] == param)
    assert site.file.read_text() == ""


def test_a_vote_that_the_disk_does_not_take_is_not_acknowledged(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    state = site.post("/next", voter="Ann")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        failed = site.post("", 503, voter="Ann", battle=state["pair"]["id"], choice="left")
    assert "not saved (No space left on device)" in failed["error"]["message"]
    assert site.post("/next", voter="Ann") == state
    assert site.post("", voter="Ann", battle=state["pair"]["id"], choice="left")["voted"] == 1


def test_a_vote_sent_twice_counts_once(site: Site) -> None:
    name = site.post("/next", voter="Ann")["pair"]["id"]
    once, twice = (site.post("", voter="Ann", battle=name, choice="left") for _ in range(2))
    assert once == twice and once["voted"] == 1


def test_pictures_of_any_format_are_sent_as_one_that_browsers_show_and_broken_ones_say_why(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Pillow.new("CMYK", (3000, 1000)).save(buffer, "TIFF")
    tiff, broken = Image(extension="tif", data=buffer.getvalue()), Image(extension="png", data=b"\x89PNG no more")
    sample = replace(rewritten(1), images=(tiff, broken))
    site = Site(
        tmp_path, battles([replace(sample, turns=(replace(sample.turns[0], instruction="<image><image>Which?"),))])
    )
    large, none = site.post("/next", voter="Ann")["pair"]["pictures"]
    assert large["uri"].startswith("data:image/webp") and (large["width"], large["height"]) == (1280, 427)
    assert none["uri"] == "" and none["problem"] == "corrupt_image"


def test_without_the_token_there_is_the_empty_page_and_nothing_else(tmp_path: Path) -> None:
    secret, key = new_key("votes")
    write_keys(tmp_path / "keys.json", [key])
    site = Site(tmp_path, BATTLES, tmp_path / "keys.json")
    assert site.client.get("/").status_code == 200
    assert site.client.get("/page/settings.json").json() == {"instruction": "Choose.", "keys": True}
    for headers in ({}, {"Authorization": "Bearer pf-wrong"}):
        assert site.client.post("/v1/votes/next", json={"voter": "Ann"}, headers=headers).status_code == 401
    allowed = {"Authorization": f"Bearer {secret}"}
    assert site.client.post("/v1/votes/next", json={"voter": "Ann"}, headers=allowed).status_code == 200


def test_another_web_page_may_not_vote_where_no_token_is_asked_for(site: Site) -> None:
    headers = {"Origin": "https://evil.example"}
    assert site.client.post("/v1/votes/next", json={"voter": "Ann"}, headers=headers).status_code == 403


def test_the_page_runs_no_script_but_its_own_and_asks_for_nothing_that_is_not_there(site: Site) -> None:
    answer = site.client.get("/")
    assert "script-src 'self';" in answer.headers["content-security-policy"]
    text = answer.text + "".join(one.content.decode() for name, one in files().items() if name.endswith(".js"))
    named = {part.split('"')[0] for part in text.split('"page/')[1:]} | {
        part.split('"')[0] for part in text.split('"./')[1:]
    }
    assert {"vote.js", "dom.js", *SHARED} <= named
    for name in named:
        assert site.client.get(f"/page/{name}").status_code == 200, name
    assert "style=" not in answer.text and "innerHTML" not in text
    assert site.client.get("/page/chat.js").status_code == 404
