"""The chat page, used as people use it, in Chromium."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image

from polite_flamingo.images import decoding
from serving.errors import ApiError, overloaded
from serving.server import page as served
from tests.support.browsing import Stage, Visit, needs_chromium
from tests.support.browsing import browser as browser
from tests.support.browsing import stage as stage
from tests.support.browsing import visit as visit
from tests.support.patience import wait_until

pytestmark = needs_chromium


def picture(size: tuple[int, int], colour: str = "red", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def test_a_newcomer_gets_an_answer_in_one_click_and_goes_on_talking(visit: Visit) -> None:
    visit.page.locator("#examples button").last.click()
    first = visit.wait_for_answer()
    asked = visit.backend.asked[0]
    assert first.strip() and not visit.page.locator("#welcome").is_visible()
    assert list(asked.images) == [(served.FOLDER / "example-3.png").read_bytes()]
    assert visit.page.locator(".bubble img").count() == 1
    assert "tokens in" in visit.page.locator(".facts").inner_text()
    visit.send("Grüße, 🦩!")
    visit.wait_for_answer(2)
    again = visit.backend.asked[1]
    assert len(again.exchanges) == 2 and again.images == asked.images
    assert "Grüße, 🦩!" in again.exchanges[1].prompt and again.exchanges[0].target.strip() == first.strip()
    assert visit.page.locator("#text").input_value() == ""
    assert visit.page.evaluate("document.activeElement.id") == "text"


def test_an_answer_is_seen_while_it_comes_and_stopping_it_frees_its_slot(visit: Visit) -> None:
    visit.backend.free.clear()
    visit.send("Talk to me")
    visit.page.wait_for_function("() => document.querySelector('.message.busy .text')?.textContent.length > 0")
    wait_until(lambda: visit.backend.open_streams == 1)
    assert visit.page.locator("#stop").is_visible() and not visit.page.locator("#send").is_visible()
    visit.page.keyboard.press("Escape")
    text = visit.wait_for_answer()
    wait_until(lambda: visit.backend.open_streams == 0)
    assert text and visit.page.locator(".facts").inner_text().startswith("stopped")
    assert visit.page.locator("#send").is_visible()
    visit.backend.free.set()
    visit.page.get_by_role("button", name="Answer again").click()
    visit.page.locator(".facts", has_text="tokens in").wait_for()
    assert visit.page.locator(".message.assistant").count() == 1
    assert visit.backend.asked[1].exchanges == visit.backend.asked[0].exchanges
    assert visit.backend.asked[1].params.temperature == 0.7, "greedy decoding would give the same words"


def test_a_stopped_answer_without_a_word_leaves_no_trace(visit: Visit) -> None:
    visit.page.route("**/v1/chat/completions", lambda route: None)
    visit.send("Hello?")
    visit.page.locator(".waiting").wait_for()
    visit.page.click("#stop")
    visit.page.locator("#send").wait_for()
    assert visit.page.locator(".message.assistant").count() == 0
    visit.page.unroute_all()


HOSTILE = """<img src=x onerror="document.title='broken in'"><script>document.title='broken in'</script>

Some **bold** words & `code`, [a link](javascript:alert(1)):
- one
- zwei – größer

3. three

```html
<b>no markup</b>
```

שלום עולם 🦩"""


def test_what_a_model_writes_stays_text(visit: Visit) -> None:
    visit.backend.says = [HOSTILE[at : at + 7] for at in range(0, len(HOSTILE), 7)]
    visit.send("Show me")
    visit.wait_for_answer()
    text = visit.page.locator(".message.assistant .text")
    assert visit.page.title() == "Clever Flamingo"
    assert text.locator("img, script, a, b").count() == 0
    assert text.locator("p").first.inner_text() == HOSTILE.split("\n")[0]
    assert text.locator("strong").inner_text() == "bold" and text.locator("p code").inner_text() == "code"
    assert text.locator("ul li").all_inner_texts() == ["one", "zwei – größer"]
    assert text.locator("ol").get_attribute("start") == "3"
    assert text.locator("pre").inner_text() == "<b>no markup</b>"
    last = text.locator("p").last
    assert last.inner_text() == "שלום עולם 🦩"
    assert last.evaluate("node => getComputedStyle(node).direction") == "rtl"


def test_screen_readers_hear_the_whole_answer_once(visit: Visit) -> None:
    assert visit.page.locator("#messages").get_attribute("aria-live") == "off"
    visit.page.evaluate(
        """() => {
            window.heard = [];
            const status = document.getElementById("status");
            const hear = () => status.textContent && window.heard.push(status.textContent);
            new MutationObserver(hear).observe(status, { childList: true });
        }"""
    )
    visit.backend.free.clear()
    visit.backend.says = ["Two ", "circles", "."]
    visit.send("How many?")
    visit.page.wait_for_function("() => window.heard.length === 1")
    visit.backend.free.set()
    visit.wait_for_answer()
    visit.page.wait_for_function("() => window.heard.length === 2")
    assert visit.page.evaluate("window.heard") == ["Clever Flamingo is answering", "Clever Flamingo: Two circles."]


def test_pictures_come_by_every_way_can_be_ordered_and_stand_where_they_are_put(visit: Visit, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(picture((2600, 1300), kind="JPEG"))
    page, tray = visit.page, visit.page.locator("#tray li")
    page.set_input_files("#files", [photo])
    tray.nth(0).get_by_text("scaled from 2600 × 1300 to 1024 × 512").wait_for()
    blue, green = picture((30, 20), "blue"), picture((20, 30), "green")
    visit.give_files("drop", [("blue.png", "image/png", blue), ("notes.txt", "text/plain", b"none")])
    tray.nth(1).wait_for()
    page.locator("#composer-note", has_text="notes.txt is not a picture").wait_for()
    assert not page.locator("#drop").is_visible()
    page.fill("#text", "Compare it with ")
    visit.give_files("paste", [("green.png", "image/png", green)])
    tray.nth(2).wait_for()
    assert page.input_value("#text") == "Compare it with [picture 3] "
    page.get_by_role("button", name="Move picture 3, green.png to the left").click()
    assert page.input_value("#text") == "Compare it with [picture 2] "
    assert tray.locator("img").evaluate_all("nodes => nodes.map((node) => node.alt)") == [
        "Picture 1: photo.jpg", "Picture 2: green.png", "Picture 3: blue.png"]  # fmt: skip
    page.get_by_role("button", name="Remove picture 1, photo.jpg").click()
    assert page.input_value("#text") == "Compare it with [picture 1] "
    page.focus("#text")
    page.keyboard.press("End")
    page.keyboard.type("please")
    page.keyboard.press("Enter")
    visit.wait_for_answer()
    asked = visit.backend.asked[0]
    assert list(asked.images) == [blue, green], "small ones travel as they are"
    prompt = asked.exchanges[0].prompt
    assert prompt.index("<image>") < prompt.index("Compare it with") < prompt.rindex("<image>") < prompt.index("please")
    assert tray.count() == 0


def test_a_large_photograph_is_made_small_before_it_is_sent(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "photo.bmp").write_bytes(picture((2000, 3000), "orange", "BMP"))
    visit.page.set_input_files("#files", [tmp_path / "photo.bmp"])
    visit.page.locator("#tray li").wait_for()
    visit.page.click("#send")
    visit.wait_for_answer()
    [sent] = visit.backend.asked[0].images
    found = decoding.decode(sent)
    assert found.size == (683, 1024) and len(sent) < 100_000
    assert max(abs(a - b) for a, b in zip(found.getpixel((300, 500)), (255, 165, 0), strict=True)) < 6


def test_no_more_pictures_are_taken_than_the_service_reads(visit: Visit) -> None:
    most = visit.config.serving.limits.images
    files = [(f"{number}.png", "image/png", picture((4, 4))) for number in range(most + 1)]
    visit.give_files("drop", files)
    visit.page.locator("#composer-note", has_text=f"No more than {most} pictures").wait_for()
    assert visit.page.locator("#tray li").count() == most


def test_the_last_message_can_be_changed(visit: Visit) -> None:
    visit.give_files("drop", [("red.png", "image/png", picture((8, 8)))])
    visit.page.locator("#tray li").wait_for()
    visit.send("What is it")
    visit.wait_for_answer()
    visit.page.get_by_role("button", name="Edit and send again").click()
    assert visit.page.input_value("#text") == "What is it" and visit.page.locator("#tray li").count() == 1
    visit.page.keyboard.press("Escape")
    assert visit.page.input_value("#text") == "" and not visit.page.locator("#editing").is_visible()
    visit.page.get_by_role("button", name="Edit and send again").click()
    visit.send("What colour is it?")
    wait_until(lambda: len(visit.backend.asked) == 2)
    visit.wait_for_answer()
    [exchange] = visit.backend.asked[1].exchanges
    assert "What colour is it?" in exchange.prompt and "What is it\n" not in exchange.prompt
    assert visit.page.locator(".message.user").count() == 1


def test_a_server_without_room_is_asked_again_when_it_said(visit: Visit) -> None:
    visit.backend.refuses = [overloaded("clever-flamingo has no room for another request", retry_after=7)]
    visit.send("Hello")
    problem = visit.page.get_by_role("alert")
    problem.wait_for()
    assert "clever-flamingo has no room for another request" in problem.inner_text()
    assert "You can try again in 7" in problem.inner_text()
    problem.get_by_role("button", name="Try again").click()
    assert visit.wait_for_answer()
    assert visit.page.get_by_role("alert").count() == 0 and visit.page.locator(".message.user").count() == 1


def test_a_failure_in_the_middle_keeps_what_came(visit: Visit) -> None:
    visit.backend.says = ["There are ", "two"]
    visit.backend.fails = ApiError(500, "the replica was lost; try again", "server_error")
    visit.send("How many?")
    visit.page.get_by_role("alert").get_by_text("the replica was lost; try again").wait_for()
    assert visit.wait_for_answer().strip() == "There are"
    assert visit.page.locator(".facts").inner_text().startswith("broken off")
    visit.backend.fails = None
    visit.page.get_by_role("button", name="Try again").click()
    visit.page.locator(".text", has_text="There are two").wait_for()
    assert visit.page.get_by_role("alert").count() == 0 and visit.page.locator(".message.assistant").count() == 1


def test_a_lost_connection_is_said_and_keeps_what_came(visit: Visit) -> None:
    piece = 'data: {"choices": [{"index": 0, "delta": {"content": "Half an ans"}, "finish_reason": null}]}\n\n'
    visit.page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=piece)
    )
    visit.send("Go on")
    visit.page.get_by_role("alert").get_by_text("The connection was lost").wait_for()
    assert visit.wait_for_answer() == "Half an ans"
    visit.page.unroute_all()
    visit.page.route("**/v1/chat/completions", lambda route: route.abort())
    visit.page.get_by_role("button", name="Try again").click()
    visit.page.get_by_role("alert").get_by_text("cannot be reached").wait_for()
    visit.page.unroute_all()


def test_a_reload_keeps_the_conversation_and_a_new_chat_forgets_it(visit: Visit) -> None:
    visit.give_files("drop", [("red.png", "image/png", picture((8, 8)))])
    visit.page.locator("#tray li").wait_for()
    visit.send("What is it?")
    text = visit.wait_for_answer()
    visit.go()
    assert visit.wait_for_answer() == text
    visit.send("And now?")
    visit.wait_for_answer(2)
    assert len(visit.backend.asked[1].exchanges) == 2 and len(visit.backend.asked[1].images) == 1
    visit.page.get_by_role("button", name="New chat").click()
    visit.go()
    assert visit.page.locator("#welcome").is_visible() and visit.page.locator(".message").count() == 0


def test_pictures_too_large_to_keep_are_forgotten_oldest_first(visit: Visit, tmp_path: Path) -> None:
    noise = Image.frombytes("RGB", (560, 560), os.urandom(560 * 560 * 3))  # as PNG of about 920 KiB: sent as it is
    files = [tmp_path / f"noise-{number}.png" for number in range(4)]
    for file in files:
        noise.save(file)
    visit.page.set_input_files("#files", files)
    visit.page.locator("#tray li").nth(3).wait_for()
    visit.send("What are they?")
    visit.wait_for_answer()
    visit.go()
    assert visit.page.locator(".gone").all_inner_texts() == ["noise-0.png was too large to keep over a reload"]
    assert visit.page.locator(".bubble img").count() == 3
    visit.send("Again?")
    visit.wait_for_answer(2)
    assert len(visit.backend.asked[1].images) == 3


def test_settings_travel_with_the_request(visit: Visit) -> None:
    page = visit.page
    page.click("#open-settings")
    for name, value in {
        "Temperature": "0.5",
        "Longest answer": "3",
        "Seed": "7",
        "System message": "Be brief.",
    }.items():
        page.get_by_label(name).fill(value)
    page.get_by_role("button", name="Done").click()
    visit.send("Hello")
    visit.wait_for_answer()
    asked = visit.backend.asked[0]
    params = asked.params
    assert (params.temperature, params.max_new_tokens, params.seed) == (0.5, 3, 7)
    assert "Be brief." in asked.exchanges[0].prompt
    assert "cut off" in page.locator(".facts").inner_text()


def test_everything_can_be_done_by_keyboard(stage: Stage) -> None:
    with stage.visit() as visit:
        use_the_keyboard(visit.go("#rewriting"))


def use_the_keyboard(visit: Visit) -> None:
    page, keys = visit.page, visit.page.keyboard
    focused = "document.activeElement.id || document.activeElement.className"
    keys.press("Tab")
    assert page.evaluate(focused) == "skip"
    keys.press("Tab")
    assert page.evaluate(focused) == "tab-rewriting" and page.locator("#panel-rewriting").is_visible()
    keys.press("Home")
    assert page.evaluate(focused) == "tab-chat"
    keys.press("ArrowLeft")  # around
    assert page.evaluate(focused) == "tab-rewriting" and page.locator("#panel-rewriting").is_visible()
    keys.press("ArrowRight")
    assert page.evaluate(focused) == "tab-chat" and page.locator("#panel-chat").is_visible()
    for _ in range(3):
        keys.press("Tab")
    assert page.evaluate(focused) == "open-settings"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    keys.press("Enter")
    assert page.locator("#settings").is_visible()
    keys.press("Escape")
    assert not page.locator("#settings").is_visible() and page.evaluate(focused) == "open-settings"
    while page.evaluate("document.activeElement.closest('#examples') === null"):
        keys.press("Tab")
    keys.press("Enter")
    visit.wait_for_answer()
    assert page.evaluate(focused) == "text"
    keys.type("one")
    keys.press("Shift+Enter")
    keys.type("two")
    assert page.input_value("#text") == "one\ntwo"
    keys.press("Enter")
    visit.wait_for_answer(2)
    assert "one\ntwo" in visit.backend.asked[1].exchanges[1].prompt


def test_light_and_dark_are_the_systems_until_somebody_chooses(stage: Stage) -> None:
    with stage.visit(color_scheme="dark") as visit:
        visit.go()
        ground = "getComputedStyle(document.body).backgroundColor"
        assert visit.page.evaluate(ground) == "rgb(23, 25, 28)"
        button = visit.page.get_by_role("button", name="Dark colours")
        assert button.get_attribute("aria-pressed") == "true"
        button.click()
        assert visit.page.evaluate(ground) == "rgb(250, 248, 245)"
        visit.go()
        assert visit.page.evaluate(ground) == "rgb(250, 248, 245)" and button.get_attribute("aria-pressed") == "false"
