"""The rewriting playground, keys, and accessibility: names, contrast, small screens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving.config import AccessConfig
from serving.errors import overloaded
from serving.http import keys
from serving.server import page
from tests.support.browsing import Stage, Visit, needs_chromium
from tests.support.browsing import browser as browser
from tests.support.browsing import stage as stage
from tests.support.browsing import visit as visit
from tests.support.page_looks import check_small, faint, nameless

pytestmark = needs_chromium


def rewrite(visit: Visit, raw: str = "Answer: blue") -> None:
    visit.page.fill("#instruction", "What colour is the star?")
    visit.page.fill("#annotation", raw)
    visit.page.get_by_role("button", name="Rewrite").click()


def test_raw_and_polite_stand_side_by_side_with_every_verdict(visit: Visit) -> None:
    visit.page.click("#tab-rewriting")
    visit.backend.says = ["The star in the image", " is blue. 🦩"]
    visit.page.get_by_role("button", name="An answer").click()
    result = visit.page.locator(".result")
    result.wait_for()
    assert result.locator(".judgement").inner_text().startswith("Kept")
    assert result.locator(".side.raw .text").inner_text() == "Answer: blue"
    assert result.locator(".side.polite .text").inner_text() == "The star in the image is blue. 🦩"
    assert "7.75 politer" in result.locator(".reward").inner_text()
    [line] = result.locator(".verdicts:visible li").all_inner_texts()
    assert "Does not contradict the annotation" in line and "5 kept above 0" in line and "passes" in line
    result.locator("summary").click()
    assert result.locator(".verdicts:visible li").count() == 7
    widths = result.locator(".meter .fill").evaluate_all("nodes => nodes.map((node) => node.style.width)")
    assert len(set(widths)) > 3 and all(width.endswith("%") for width in widths)
    [asked] = visit.backend.asked
    assert asked.model == "polite-flamingo" and len(asked.images) == 1 and "Answer: blue" in asked.exchanges[0].prompt


def test_a_rejection_says_which_filter_and_why(visit: Visit) -> None:
    visit.page.click("#tab-rewriting")
    visit.backend.says = ["<b>no</b>"]
    visit.backend.numbers.scores |= {"words": 1, "nli": [4.0, -1.0, -2.0], "reward": -4.0}
    visit.give_files("drop", [("star.png", "image/png", page.files()["example-2.png"].content)])
    visit.page.locator("#rewrite-tray li").wait_for()
    visit.page.select_option("#task", "vqa")
    rewrite(visit)
    result = visit.page.locator(".result")
    result.wait_for()
    assert result.locator(".judgement").inner_text().replace("\n", " ") == "Rejected Because it is too short."
    assert result.locator(".side.polite .text").inner_text() == "<b>no</b>"
    assert "0.5 less polite" in result.locator(".reward").inner_text()
    failed = " ".join(result.locator(".verdicts:visible .failed").all_inner_texts())
    assert "it contradicts the annotation" in failed and "it is too short" in failed


def test_rewriting_that_fails_says_so_and_can_be_stopped(visit: Visit) -> None:
    visit.page.click("#tab-rewriting")
    rewrite(visit, raw="<|endofchunk|>")
    visit.page.get_by_role("alert").wait_for()
    visit.backend.refuses = [overloaded("no room", retry_after=3)]
    rewrite(visit)
    told = visit.page.get_by_role("alert").filter(has_text="You can try again in 3 seconds.")
    told.filter(has_text=re.compile(r"You can try again (in [123] s|now)\.")).wait_for()  # it counts down
    visit.backend.free.clear()
    visit.page.get_by_role("button", name="Try again").click()
    visit.page.get_by_role("button", name="Stop").click()
    visit.page.get_by_role("button", name="Rewrite").wait_for()


def test_a_key_is_asked_for_and_kept_in_this_tab_only(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    secret, key = keys.new_key("page")
    keys.write_keys(file, [key])
    with stage.visit(access=AccessConfig(keys=str(file), log=False)) as visit:
        visit.go()
        visit.send("Hello")
        visit.page.get_by_role("button", name="Enter the API key").click()
        assert visit.page.evaluate("document.activeElement.id") == "key"
        visit.page.keyboard.type(secret)
        visit.page.keyboard.press("Enter")
        assert visit.wait_for_answer()
        assert visit.page.get_by_role("alert").count() == 0
        assert secret in visit.page.evaluate("JSON.stringify(sessionStorage)")
        assert secret not in visit.page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_can_be_read(stage: Stage, scheme: str) -> None:
    with stage.visit(color_scheme=scheme) as visit:
        visit.go()
        assert nameless(visit.page) == [] and faint(visit.page) == []
        visit.backend.says = ["Some `code`, **bold**\n- and a list"]
        visit.give_files("drop", [("a.png", "image/png", page.files()["example-1.png"].content)] * 2)
        visit.page.locator("#tray li").nth(1).wait_for()
        assert nameless(visit.page) == []
        visit.send("What is it?")
        visit.wait_for_answer()
        visit.backend.refuses = [overloaded("no room", retry_after=30)]
        visit.send("And now?")
        visit.page.get_by_role("alert").wait_for()
        assert nameless(visit.page) == [] and faint(visit.page) == []
        visit.page.click("#open-settings")
        assert nameless(visit.page) == [] and faint(visit.page) == []
        visit.page.click("#close-settings")
        visit.page.click("#tab-rewriting")
        visit.backend.numbers.scores |= {"words": 1, "clip_paragraphs": [3.0]}
        visit.backend.says = ["Two words"]
        visit.page.get_by_role("button", name="A wrong caption").click()
        visit.page.locator(".result").wait_for()
        assert nameless(visit.page) == [] and faint(visit.page) == []


def test_it_fits_a_phone(stage: Stage) -> None:
    with stage.visit(viewport={"width": 360, "height": 640}, is_mobile=True, has_touch=True) as visit:
        visit.go()
        visit.backend.says = ["A_very_long_word_" * 20, "\n```\n" + "code " * 60 + "\n```"]
        visit.give_files("drop", [(f"{n}.png", "image/png", page.files()["example-1.png"].content) for n in range(4)])
        visit.page.locator("#tray li").nth(3).wait_for()
        visit.send("And_another_long_word_" * 20)
        visit.wait_for_answer()
        check_small(visit.page)
        visit.page.get_by_role("button", name="Settings").tap()
        check_small(visit.page)
        visit.page.keyboard.press("Escape")
        visit.page.get_by_role("tab", name="Rewriting").tap()
        visit.page.get_by_role("button", name="A caption").tap()
        visit.page.locator(".result").wait_for()
        check_small(visit.page)
