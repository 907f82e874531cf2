"""Shapes must not lie: what its grammar writes it reads back, truths check as true, and falsehoods as false."""

from __future__ import annotations

import random

import pytest

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.testbed.shapes.captions import (
    describe,
    hallucinated,
    keeps_description,
    polite_change,
    polite_class,
    terse_captions,
    terse_changes,
)
from polite_flamingo.testbed.shapes.draw import draw, encode
from polite_flamingo.testbed.shapes.grammar import Claim, parse, say, true_of
from polite_flamingo.testbed.shapes.questions import KINDS, ask
from polite_flamingo.testbed.shapes.scene import BACKGROUNDS, CANVAS, COLOURS, SHAPES, random_change, random_scene
from polite_flamingo.testbed.shapes.write import write_raw

SCENES = [random_scene(random.Random(f"test-{i}")) for i in range(150)]


def test_a_scene_is_unambiguous_and_lies_within_its_canvas() -> None:
    for scene in SCENES:
        names = [(thing.colour, thing.shape) for thing in scene.things]
        assert len(set(names)) == len(names)
        for thing in scene.things:
            x1, y1, x2, y2 = thing.box
            assert 0 <= x1 < x2 <= CANVAS and 0 <= y1 < y2 <= CANVAS
            column, row = thing.cell % 3, thing.cell // 3
            assert column * 32 <= thing.centre[0] <= column * 32 + 32 and row * 32 <= thing.centre[1] <= row * 32 + 32


def test_a_picture_shows_its_things_in_their_colours_at_their_places() -> None:
    for scene in SCENES[:40]:
        picture = draw(scene)
        assert picture.size == (CANVAS, CANVAS)
        for thing in scene.things:
            # the centre of every shape but the heart's notch lies inside it
            x, y = round(thing.centre[0]), round(thing.centre[1] + 1)
            shown = picture.getpixel((x, y))
            want = COLOURS[thing.colour]
            assert all(abs(a - b) < 40 for a, b in zip(shown, want, strict=True)), (thing, shown)
        assert picture.tobytes() == draw(scene).tobytes()
    assert encode(draw(SCENES[0]), "jpg")[:2] == b"\xff\xd8"


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_stated_truly_and_only_the_right_one_keeps_the_meaning(kind: str) -> None:
    rng = random.Random(kind)
    asked = 0
    for scene in SCENES:
        if kind == "beside" and len(scene.things) == 1:
            continue
        if kind == "colour" and all(sum(t.shape == o.shape for o in scene.things) > 1 for t in scene.things):
            continue
        question = ask(rng, scene, (kind,))
        asked += 1
        for wording in range(2):
            claims = parse(question.polite(wording))
            assert claims and all(true_of(claim, scene) for claim in claims), question
            assert question.keeps_meaning(question.polite(wording))
            for other in question.others:
                assert not question.keeps_meaning(question.statement(other, wording))
        if question.reason:
            reasoned = question.polite(reasoned=True)
            claims = parse(reasoned)
            assert claims and len(claims) == 2 and all(true_of(claim, scene) for claim in claims), reasoned
            assert question.keeps_meaning(reasoned, reasoned=True)
            assert not question.keeps_meaning(reasoned), "the reason is more than was asked for"
    assert asked > 100


@pytest.mark.parametrize("boxes", [True, False])
def test_a_description_keeps_its_meaning_and_a_hallucinated_one_does_not(boxes: bool) -> None:
    rng = random.Random(3)
    for scene in SCENES:
        captions = terse_captions(rng, scene)
        text = describe(scene, captions, boxes=boxes)
        assert keeps_description(text, scene, captions, boxes=boxes), text
        false = hallucinated(rng, scene, text)
        assert false != text and not keeps_description(false, scene, captions, boxes=boxes), false


def test_a_description_that_leaves_a_thing_out_does_not_keep_the_meaning() -> None:
    scene = next(s for s in SCENES if len(s.things) == 3)
    captions = terse_captions(random.Random(0), scene)
    text = describe(scene, captions)
    listed = next(claim for claim in parse(text) or [] if claim.kind == "list")
    first = text[text.index("There is ") + len("There is ") :].split(",")[0]
    shorter = text.replace(f"{first}, ", "")
    assert len(listed.items) == 3 and shorter != text and parse(shorter)
    assert not keeps_description(shorter, scene, captions)


@pytest.mark.parametrize(
    "malformed",
    ["", "red circle.", "There is a small red circle", "there is a red circle.", "The image shows shows two shapes.",
     "There is a small red circle small.", "There is a small red circle in the top left,."],
)  # fmt: skip
def test_what_is_not_a_sentence_of_shapes_does_not_parse(malformed: str) -> None:
    assert parse(malformed) is None


def test_claims_tell_true_from_false() -> None:
    scene = next(s for s in SCENES if len(s.things) == 2)
    first = scene.things[0]
    other = next(c for c in COLOURS if scene.find(c, first.shape) is None)
    assert true_of(Claim("exists", {"colour": first.colour, "shape": first.shape}), scene)
    assert not true_of(Claim("exists", {"colour": other, "shape": first.shape}), scene)
    assert true_of(Claim("exists_not", {"colour": other, "shape": first.shape}), scene)
    wrong = next(b for b in BACKGROUNDS if b != scene.background)
    assert not true_of(Claim("ground", {"ground": wrong}), scene)
    assert true_of(Claim("opening", {"many": "two"}), scene) and not true_of(Claim("opening", {"many": "three"}), scene)


def test_changes_and_classes_are_sentences_too() -> None:
    rng = random.Random(1)
    kinds = set()
    for scene in SCENES:
        after, change = random_change(rng, scene)
        kinds.add(change.kind)
        assert (after == scene) == (change.kind == "none")
        assert parse(polite_change(change)), change
        assert terse_changes(rng, change)
    assert kinds == {"none", "added", "removed", "moved", "recoloured"}
    for shape in SHAPES:
        assert parse(polite_class(shape, 0)) and parse(polite_class(shape, 1))


def test_say_refuses_slots_that_no_template_takes() -> None:
    with pytest.raises(ValueError, match="no 'size' sentence takes"):
        say("size", colour="red")


def test_raw_datasets_are_read_by_the_ordinary_adapters(tmp_path) -> None:
    options = write_raw(tmp_path, samples=30, damage=False, hard=0)
    assert len(options) == 7 and {SOURCES[name].category for name in options} == {
        "captioning", "classification", "change captioning", "VQA with rationale", "VQA",
    }  # fmt: skip
    for name, files in options.items():
        rows = list(SOURCES[name].read(files))
        assert all(isinstance(row, Sample) and row.validate() for row in rows), rows[0]
        assert len(rows) == (10 if name == "elevater_ic" else 30)


def test_damaged_pictures_are_quarantined_and_nothing_else_is(tmp_path) -> None:
    for name, files in write_raw(tmp_path, samples=30).items():
        rows = list(SOURCES[name].read(files))
        bad = [row for row in rows if isinstance(row, Quarantined)]
        assert {row.reason for row in bad} == {"missing_image", "empty_image"}, name
        assert len(rows) == (10 if name == "elevater_ic" else 30), "a file cut short is found when it is decoded"


def test_the_same_seed_writes_the_same_bytes(tmp_path) -> None:
    for folder in ("a", "b"):
        write_raw(tmp_path / folder, samples=9, seed=5)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) > 40
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
