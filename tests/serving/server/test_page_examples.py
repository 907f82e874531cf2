"""The page's examples: drawn by Shapes, and asked what the tiny profile's model answers right as it is served."""

from __future__ import annotations

import base64
import json
import re
import urllib.request
from pathlib import Path

from polite_flamingo.testbed.shapes.draw import draw, encode
from polite_flamingo.testbed.shapes.scene import Scene, Thing
from serving.backends.engine_host import EngineHost
from serving.backends.local import LocalBackend
from serving.config import from_profile
from serving.server import page
from serving.server.app import create_app
from tests.support.patience import PATIENCE
from tests.support.stub_service import serving_on_a_port

TINY = Path(__file__).parents[3] / "profiles" / "tiny.yaml"


def thing(name: str, cell: int, *centre: float) -> Thing:
    size, colour, shape = name.split()
    return Thing(size=size, colour=colour, shape=shape, cell=cell, centre=(centre[0], centre[1]))


EXAMPLES = {
    "example-1.png": Scene(
        things=(
            thing("large red heart", 4, 48.89, 48.31),
            thing("small green circle", 8, 81.06, 77.76),
        ),
        background="grey",
        pattern="dotted",
    ),
    "example-2.png": Scene(
        things=(thing("large orange heart", 5, 79.5, 47.17), thing("small blue star", 6, 22.43, 81.45)),
        background="beige",
        pattern="striped",
    ),
    "example-3.png": Scene(things=(thing("small blue star", 4, 50.46, 53.95),), background="pink", pattern="plain"),
    "example-4.png": Scene(things=(thing("small blue star", 3, 18.46, 53.95),), background="pink", pattern="plain"),
}


def test_the_pictures_are_drawn_by_shapes() -> None:
    assert {name: encode(draw(scene), "png") for name, scene in EXAMPLES.items()} == {
        name: file.content for name, file in page.files().items() if name.endswith(".png")
    }


def test_a_newcomer_gets_a_right_answer_to_each() -> None:
    text = page.files()["chat.js"].content.decode()
    asked = re.findall(r'\{ pictures: \[(.+?)\], text: "(.+?)" \}', text)
    config = from_profile(TINY, {"serving.access.log": False})
    host = EngineHost(config.serving.chat_name, config.serving.chat, chat=True)
    with serving_on_a_port(create_app(config, LocalBackend([host]))) as (address, port):
        answers = [_answer(f"http://{address}:{port}", json.loads(f"[{names}]"), words) for names, words in asked]
    wanted = [
        "There is a large red heart in the centre and a small green circle in the bottom right.",
        "is blue",
        "in the centre",
    ]
    assert len(answers) == len(wanted)
    assert [words for words, answer in zip(wanted, answers, strict=True) if words not in answer] == [], answers


def _answer(url: str, pictures: list[str], words: str) -> str:
    shown = [base64.b64encode(page.files()[name].content).decode() for name in pictures]
    content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{one}"}} for one in shown]
    message = {"role": "user", "content": [*content, {"type": "text", "text": words}]}
    body = json.dumps({"model": "clever-flamingo", "messages": [message]}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])
