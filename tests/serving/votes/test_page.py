"""The page of votes, used as people use it, in Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page

from polite_flamingo.preference.votes.log import VoteLog
from polite_flamingo.preference.votes.poll import Poll
from polite_flamingo.sample import Image
from polite_flamingo.storage.shards import write_shard
from serving.http.keys import new_key, write_keys
from serving.http.static_files import read_files
from serving.votes.app import FOLDERS, create_app
from tests.support.browsing import browser as browser
from tests.support.browsing import needs_chromium
from tests.support.page_looks import check_small, faint, nameless
from tests.support.patience import PATIENCE, wait_until
from tests.support.stub_service import serving_on_a_port
from tests.support.voting import Service, battles, conversation, rewritten

pytestmark = needs_chromium

PICTURE = Image(extension="png", data=read_files(FOLDERS[0])["example-2.png"].content)
SAMPLES = [replace(rewritten(number), images=(PICTURE,)) for number in range(6)]


@dataclass
class Tab:
    """A tab, and what it noticed; `calm` is checked at the end."""

    page: Page
    link: str
    complaints: list[str]

    def go(self) -> Tab:
        self.page.goto(self.link)
        return self

    def start(self, name: str) -> Tab:
        self.go()
        self.page.get_by_label("Your name").fill(name)
        self.page.keyboard.press("Enter")
        return self.ready()

    def ready(self) -> Tab:
        """Wait until a pair is shown and keys count."""
        self.page.locator("#pair").wait_for()
        self.page.wait_for_timeout(300)
        return self

    def press(self, key: str, then: str = "") -> None:
        """Press a key, and wait until the page says what it did."""
        self.page.wait_for_timeout(300)  # a second press within a quarter of a second is not meant for the next pair
        self.page.keyboard.press(key)
        if then:
            self.page.locator("#said", has_text=then).wait_for()

    @property
    def count(self) -> str:
        return self.page.locator("#count").inner_text()

    def shown(self) -> tuple[str, str, str]:
        return tuple(self.page.locator(one).inner_text() for one in ("#question", "#left .text", "#right .text"))  # type: ignore[return-value]


def is_complaint(said: ConsoleMessage) -> bool:
    return said.type in ("error", "warning") and not said.text.startswith("Failed to load resource")


@contextmanager
def tab(browser: Browser, link: str, **context: Any) -> Iterator[Tab]:
    opened = browser.new_context(**{"reduced_motion": "reduce", **context})
    page, complaints = opened.new_page(), list[str]()
    page.set_default_timeout(1000 * PATIENCE)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.extend([said.text] * is_complaint(said)))
    yield Tab(page, link, complaints)
    assert complaints == []
    opened.close()


@dataclass
class Site:
    link: str
    log: VoteLog

    def actions(self, voter: str) -> list[str]:
        return [vote.action for vote in self.log.of(voter).values()]


@contextmanager
def site(folder: Path, samples: Any = SAMPLES) -> Iterator[Site]:
    secret, key = new_key("votes")
    write_keys(folder / "keys.json", [key])
    log = VoteLog(folder / "votes.jsonl")
    app = create_app(Poll(battles(samples), log), instruction="Which one is right?", keys=folder / "keys.json")
    with serving_on_a_port(app) as (host, port):
        yield Site(f"http://{host}:{port}/#token={secret}", log)


def test_by_keyboard_alone_from_the_name_to_the_last_pair(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path) as votes, tab(browser, votes.link) as visit:
        visit.go()
        page = visit.page
        assert "token" not in page.url and "Which one is right?" in page.locator("#instruction").inner_text()
        page.wait_for_function("document.activeElement.id === 'name'")
        page.keyboard.type("Ann")
        page.keyboard.press("Enter")
        visit.ready()
        assert visit.count == "0 of 6" and page.locator("#undo").is_disabled()
        for key, then in (("1", "answer 1"), ("2", "answer 2"), ("t", "tie"), ("4", "both bad"), ("s", "skipped")):
            visit.press(key, f"Saved: {then}")
        assert visit.count == "5 of 6"
        votes_so_far = votes.actions("Ann")
        visit.press("u", "Taken back: skipped")
        visit.press("z", "Taken back: both bad")
        assert visit.count == "3 of 6" and votes.actions("Ann") == votes_so_far[:3]
        visit.press("3", "Saved: tie")
        visit.press("S", "Saved: skipped")
        visit.press("b")
        page.locator("#done").wait_for()
        assert "all 6 pairs" in page.locator("#done-words").inner_text()
        page.get_by_role("button", name="Look at one skipped pair again").click()
        visit.press("1")
        page.locator("#done").wait_for()
        assert not page.locator("#reopen").is_visible() and len(votes.actions("Ann")) == 6
        page.keyboard.press("u")
        visit.ready()
        assert visit.count == "5 of 6"


def test_a_vote_goes_to_the_text_that_was_on_that_side(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path) as votes, tab(browser, votes.link) as visit:
        visit.start("Ann")
        texts = {sample.rewritten: "first" for sample in SAMPLES}
        expected = []
        for _ in range(5):
            _, left, _ = visit.shown()
            expected.append(texts.get(left, "second"))
            visit.press("1", "Saved: answer 1")
        assert votes.actions("Ann") == expected and len(set(expected)) == 2


def test_a_reload_another_device_and_another_voter(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path) as votes, tab(browser, votes.link) as visit:
        visit.start("Ann")
        visit.press("1", "Saved")
        visit.press("3", "Saved: tie")
        here = visit.shown()
        visit.page.reload()
        visit.ready()
        assert (visit.shown(), visit.count) == (here, "2 of 6")
        with tab(browser, votes.link) as phone:
            phone.start("ANN")
            assert phone.shown() == here
        with tab(browser, votes.link) as other:
            other.start("Bob")
            assert other.count == "0 of 6"
            other.press("2", "Saved: answer 2")
        visit.press("4", "Saved: both bad")
        visit.page.get_by_role("button", name="Vote under another name").click()
        visit.page.get_by_label("Your name").fill("Bob")
        visit.page.get_by_role("button", name="Start").click()
        visit.ready()
        assert visit.count == "1 of 6"
        assert (len(votes.actions("Ann")), len(votes.actions("Bob"))) == (3, 1)


def test_a_press_that_was_meant_for_the_pair_before_is_no_vote(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path) as votes, tab(browser, votes.link) as visit:
        visit.start("Ann")
        visit.page.evaluate(
            """() => {
                const press = (repeat) => new KeyboardEvent("keydown", { key: "1", repeat, bubbles: true });
                for (let time = 0; time < 5; time += 1) document.body.dispatchEvent(press(time > 2));
            }"""
        )
        visit.page.locator("#said", has_text="Saved").wait_for()
        assert visit.count == "1 of 6" and len(votes.actions("Ann")) == 1
        visit.page.keyboard.press("Control+1")
        visit.page.keyboard.press("?")
        visit.page.keyboard.press("2")
        assert visit.page.locator("#help").is_visible()
        visit.page.keyboard.press("Escape")
        assert len(votes.actions("Ann")) == 1


def test_a_killed_server_loses_no_vote_and_the_page_goes_on_when_it_is_back(browser: Browser, tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "0.tar", SAMPLES)
    service = Service(tmp_path / "in", tmp_path / "out")
    link = service.start()
    try:
        with tab(browser, link) as visit:
            visit.start("Ann")
            visit.press("1", "Saved: answer 1")
            visit.press("3", "Saved: tie")
            service.kill()
            visit.page.wait_for_timeout(300)
            visit.page.keyboard.press("4")
            told = visit.page.get_by_role("alert")
            told.filter(has_text="cannot be reached").wait_for()
            assert visit.count == "2 of 6", "no vote is shown as saved before it is"
            assert service.start() == link, "the link is the same after a restart"
            visit.page.locator("#said", has_text="Saved: both bad").wait_for()
            assert visit.count == "3 of 6" and not told.is_visible()
            visit.press("2", "Saved: answer 2")
        said = service.stop()
    finally:
        service.kill()
    assert "4 of 1 voter" in said
    log = VoteLog(tmp_path / "out" / "votes.jsonl")
    assert [vote.action in ("first", "second") for vote in log.of("Ann").values()] == [True, False, False, True]
    assert log.damaged == 0 and (tmp_path / "out" / "report.html").exists()


def test_what_a_text_says_stays_text(browser: Browser, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=\"document.title='broken in'\"> **bold**\n- one\n- two"
    turns = (replace(SAMPLES[0].turns[0], instruction="<image><script>document.title='broken in'</script> Which?"),)
    with (
        site(tmp_path, [replace(SAMPLES[0], turns=turns, rewritten=hostile)]) as votes,
        tab(browser, votes.link) as visit,
    ):
        visit.start("<b>Ann</b>")
        page = visit.page
        assert page.title() == "Which answer is better?" and page.locator("#who-name").inner_text() == "<b>Ann</b>"
        assert page.locator("#question").inner_text().startswith("<script>")
        assert page.locator(".answers img, .answers script").count() == 0
        assert page.locator(".answers li").all_inner_texts() == ["one", "two"]


def test_earlier_turns_can_be_read_and_pictures_enlarged(browser: Browser, tmp_path: Path) -> None:
    talk = replace(conversation(3), images=(PICTURE,))
    with site(tmp_path, [talk]) as votes, tab(browser, votes.link) as visit:
        visit.start("Ann")
        while visit.page.locator("#before").is_hidden():
            visit.press("1", "Saved")
        visit.page.locator("summary").click()
        assert "Question 0?" in visit.page.locator(".turns").inner_text()
        visit.page.get_by_role("button", name="The picture").click()
        assert visit.page.locator("#zoom").is_visible()
        visit.page.keyboard.press("Escape")
        assert not visit.page.locator("#zoom").is_visible()


def test_without_the_token_the_page_asks_for_it(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path) as votes, tab(browser, votes.link) as visit:
        visit.link, _, token = votes.link.partition("#token=")
        visit.go()
        visit.page.get_by_label("Your name").fill("Ann")
        visit.page.get_by_label("Access token").fill("pf-wrong")
        visit.page.keyboard.press("Enter")
        visit.page.get_by_role("alert").filter(has_text="token is missing or wrong").wait_for()
        visit.page.get_by_label("Access token").fill(token)
        visit.page.get_by_role("button", name="Start").click()
        visit.ready()
        assert token not in visit.page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_can_be_read(browser: Browser, tmp_path: Path, scheme: Any) -> None:
    with site(tmp_path) as votes, tab(browser, votes.link, color_scheme=scheme) as visit:
        visit.start("Ann")
        assert nameless(visit.page) == [] and faint(visit.page) == []
        visit.press("1", "Saved")
        visit.page.keyboard.press("?")
        assert nameless(visit.page, least=3) == [] and faint(visit.page) == []
        visit.page.keyboard.press("Escape")
        status = visit.page.locator("#status")
        wait_until(lambda: re.match(r"Pair 2 of 6\. What is \d", status.text_content() or ""))


def test_it_fits_a_phone_and_thumbs(browser: Browser, tmp_path: Path) -> None:
    long = replace(SAMPLES[1], rewritten="A_very_long_word_" * 30 + "\n\n" + "and more words " * 200)
    phone = {"viewport": {"width": 360, "height": 640}, "is_mobile": True, "has_touch": True}
    with site(tmp_path, [long, *SAMPLES[2:]]) as votes, tab(browser, votes.link, **phone) as visit:
        visit.go()
        visit.page.get_by_label("Your name").fill("A name of exactly forty characters, wow.")
        check_small(visit.page)
        visit.page.get_by_role("button", name="Start").tap()
        visit.ready()
        for number in range(1, 5):
            check_small(visit.page, fields=False)
            boxes = visit.page.locator(".choice").evaluate_all(
                "all => all.map((one) => one.getBoundingClientRect().toJSON())"
            )
            assert len(boxes) == 4 and all(box["height"] >= 48 and box["bottom"] <= 640 for box in boxes)
            visit.page.locator(".choice").nth(number % 4).tap()
            visit.page.locator("#count", has_text=f"{number} of 5").wait_for()
            visit.page.wait_for_timeout(300)
        wait_until(lambda: len(votes.actions("A name of exactly forty characters, wow.")) == 4)
