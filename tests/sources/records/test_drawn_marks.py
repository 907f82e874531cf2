"""Marks: the colour that is named is there, the arrow's tip is at the point, nothing else of the picture changes."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from polite_flamingo.images.decoding import decode, inspect
from polite_flamingo.sample import BadSample, Image
from polite_flamingo.sources.records.boxes import Box
from polite_flamingo.sources.records.drawn_marks import (
    COLOURS,
    SHAPES,
    _arrow,
    _longest_arrow,
    colour_of,
    draw_arrow,
    draw_region,
    shape_of,
)

GREY = (128, 128, 128)


def picture(
    width: int, height: int, kind: str = "PNG", colour: tuple[int, int, int] = GREY, orientation: int = 1
) -> Image:
    buffer = io.BytesIO()
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    Pillow.new("RGB", (width, height), colour).save(buffer, kind, exif=exif)
    return Image(extension={"JPEG": "jpg", "TIFF": "tif"}.get(kind, kind.lower()), data=buffer.getvalue())


def noise(width: int, height: int) -> Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return Image(extension="png", data=buffer.getvalue())


def box(x1: float, y1: float, x2: float, y2: float) -> Box:
    return Box(label="", x1=x1, y1=y1, x2=x2, y2=y2)


def pixels(image: Image) -> np.ndarray:
    return np.asarray(decode(image.data)).astype(int)


def is_colour(image: Image, colour: str, tolerance: int = 0) -> np.ndarray:
    """Return where the picture has that colour, as booleans of height x width."""
    found: np.ndarray = np.abs(pixels(image) - COLOURS[colour]).max(axis=2) <= tolerance
    return found


def extent(where: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom (the last two excluded) of the pixels that are true."""
    ys, xs = np.nonzero(where)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


@pytest.mark.parametrize("colour", COLOURS)
def test_a_bounding_box_surrounds_its_region_and_leaves_it_as_it_is(colour: str) -> None:
    before = noise(320, 240)
    after = draw_region(before, box(100, 80, 200, 140), colour, "bounding box")
    changed = (pixels(before) != pixels(after)).any(axis=2)
    assert not changed[80:140, 100:200].any()
    assert extent(changed) == (95, 75, 205, 145)  # a line of 3 pixels between edges of 1
    inner = is_colour(after, colour)
    assert inner[76:79, 96:204].all() and inner[141:144, 96:204].all()
    assert inner[76:144, 96:99].all() and inner[76:144, 201:204].all()
    edge = pixels(after)[75, 95:205]
    assert (edge == 0).all() or (edge == 255).all()


@pytest.mark.parametrize("colour", COLOURS)
def test_a_circle_goes_through_the_corners_of_its_region(colour: str) -> None:
    before = picture(320, 240)
    after = draw_region(before, box(100, 80, 200, 140), colour, "circle")
    inner = is_colour(after, colour)
    # around the middle (150, 110): 50 and 30 times the root of two, then an edge of 1 and a line of 3
    assert np.abs(np.subtract(extent(inner), (76, 64, 224, 156))).max() <= 1
    assert inner[110, 76:78].all() and inner[110, 222:224].all() and inner[64:66, 150].all()
    changed = (pixels(before) != pixels(after)).any(axis=2)
    assert not changed[95:125, 110:190].any() and not changed[110, 100:200].any()
    assert extent(changed) == (74, 62, 226, 158)
    assert not changed[62:70, 74:90].any()  # an ellipse, not a rectangle


def test_a_mark_in_the_colour_of_its_ground_is_seen_by_its_edge() -> None:
    for colour, rgb in COLOURS.items():
        ground = picture(200, 150, colour=rgb)
        for after in (
            *(draw_region(ground, box(50, 50, 90, 90), colour, shape) for shape in SHAPES),
            draw_arrow(ground, 100, 70, colour),
        ):
            contrast = np.abs(pixels(after) - rgb).sum(axis=2)
            assert contrast.max() > 180 and (contrast > 100).sum() > 20


@pytest.mark.parametrize("shape", SHAPES)
def test_a_box_that_fills_the_picture_or_leaves_it_is_drawn_inside(shape: str) -> None:
    for corners in ((0, 0, 200, 100), (-50, -50, 500, 400), (0, 0, 200.4, 100.4)):
        after = draw_region(picture(200, 100), box(*corners), "red", shape)
        assert decode(after.data).size == (200, 100)
        left, top, right, bottom = extent(is_colour(after, "red", 60))
        assert left <= 2 and top <= 2 and right >= 198 and bottom >= 98
    partly = draw_region(picture(200, 100), box(150, 60, 900, 900), "red", shape)
    assert extent(is_colour(partly, "red"))[0] > 120


@pytest.mark.parametrize("corners", [(200, 0, 210, 10), (-10, 0, 0, 10), (5, 100, 9, 110), (50, 20, 50, 30)])
def test_a_box_outside_or_without_area_is_refused(corners: tuple[int, int, int, int]) -> None:
    with pytest.raises(BadSample, match=r"has no part inside the image \(200x100\)") as caught:
        draw_region(picture(200, 100), box(*corners), "red", "circle")
    assert caught.value.reason == "bad_field"


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(
    ("width", "height", "x", "y"),
    [
        (640, 480, 320, 240),
        (640, 480, 0, 0),
        (640, 480, 639, 0),
        (375, 500, 200, 499),
        (640, 60, 0, 59),
        (40, 30, 12, 20),
    ],
)
def test_an_arrow_has_its_tip_at_the_point(colour: str, width: int, height: int, x: int, y: int) -> None:
    before = picture(width, height)
    after = draw_arrow(before, x, y, colour)
    changed = (pixels(before) != pixels(after)).any(axis=2)
    assert changed[y, x]
    ys, xs = np.nonzero(is_colour(after, colour, 10))
    distances = np.hypot(xs - x, ys - y)
    long = max(0.16 * (width * height) ** 0.5, 16)
    assert distances.min() < 0.1 * long + 3 and 0.8 * long < distances.max() < long
    head, tail = (distances < long / 2).sum(), (distances > long / 2).sum()
    assert head > tail  # the wide end is at the point


@settings(max_examples=150, deadline=None)
@given(data=st.data(), width=st.integers(1, 5) | st.integers(1, 90), height=st.integers(1, 5) | st.integers(1, 90))
def test_an_arrow_lies_inside_wherever_it_points(data: st.DataObject, width: int, height: int) -> None:
    x, y = data.draw(st.floats(0, width)), data.draw(st.floats(0, height))
    before = picture(width, height)
    after = draw_arrow(before, x, y, "red")
    changed = (pixels(before) != pixels(after)).any(axis=2)
    assert changed.any()
    ys, xs = np.nonzero(changed)
    assert np.hypot(xs + 0.5 - min(x + 0.5, width - 0.5), ys + 0.5 - min(y + 0.5, height - 0.5)).min() < 2


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(), width=st.integers(6, 90) | st.integers(6, 9000), height=st.integers(6, 90) | st.integers(6, 9000)
)
def test_all_corners_of_an_arrow_lie_inside(data: st.DataObject, width: int, height: int) -> None:
    edge = st.sampled_from([0.0, 1.0])
    x, y = data.draw(edge | st.floats(0, 1)) * (width - 1) + 0.5, data.draw(edge | st.floats(0, 1)) * (height - 1) + 0.5
    length, angle = _longest_arrow((x, y), width, height)
    corners = _arrow((x, y), angle, length)
    assert corners[0] == (x, y)
    assert all(0 <= across <= width and 0 <= down <= height for across, down in corners)
    assert length > min(width, height) / 4 or length == max(0.16 * (width * height) ** 0.5, 16)


@pytest.mark.parametrize(("x", "y"), [(-0.1, 5), (5, 100.1), (201, 5), (5, -3)])
def test_a_point_outside_is_refused(x: float, y: float) -> None:
    with pytest.raises(BadSample, match=r"outside the image \(200x100\)") as caught:
        draw_arrow(picture(200, 100), x, y, "red")
    assert caught.value.reason == "bad_field"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_jpeg_stays_a_jpeg_with_full_chroma_and_the_rest_becomes_png(kind: str) -> None:
    for after in (
        draw_arrow(picture(64, 48, kind), 20, 20, "red"),
        draw_region(picture(64, 48, kind), box(9, 9, 30, 30), "red", "bounding box"),
    ):
        header = inspect(after.data)
        assert (header.format, after.extension) == (("JPEG", "jpg") if kind == "JPEG" else ("PNG", "png"))
        assert is_colour(after, "red", 20).any()
        if kind == "JPEG":
            layers = Pillow.open(io.BytesIO(after.data)).layer  # type: ignore[attr-defined]
            assert {layer[1:3] for layer in layers} == {(1, 1)}


def test_the_same_input_gives_the_same_bytes() -> None:
    for kind in ("JPEG", "PNG"):
        image = picture(64, 48, kind)
        assert draw_arrow(image, 20, 20, "red") == draw_arrow(image, 20, 20, "red")
        assert draw_region(image, box(9, 9, 30, 30), "red", "circle") == draw_region(
            image, box(9, 9, 30, 30), "red", "circle"
        )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_coordinates_are_of_the_stored_pixels_and_the_result_is_upright(orientation: int) -> None:
    plain = pixels(draw_region(picture(60, 40, orientation=1), box(10, 5, 20, 15), "red", "bounding box"))
    turned = draw_region(picture(60, 40, orientation=orientation), box(10, 5, 20, 15), "red", "bounding box")
    arrow = draw_arrow(picture(60, 40, orientation=orientation), 10, 5, "red")
    assert inspect(turned.data).width == inspect(arrow.data).width == (40 if orientation > 4 else 60)
    upright = {
        1: plain, 2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1], 5: plain.transpose(1, 0, 2),
        6: np.rot90(plain, -1), 7: plain[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(plain, 1),
    }  # fmt: skip
    assert (pixels(turned) == upright[orientation]).all()


def test_a_stated_size_decides_which_way_up_the_coordinates_are() -> None:
    rotated = picture(60, 40, orientation=6)  # shown as 40x60
    assert extent(is_colour(draw_arrow(rotated, 5, 55, "red", size=(40, 60)), "red", 40))[3] > 50
    assert draw_arrow(rotated, 55, 35, "red", size=(60, 40)) == draw_arrow(rotated, 55, 35, "red")
    with pytest.raises(BadSample, match="for an image of 640x480, this one has 40x60"):
        draw_arrow(rotated, 5, 35, "red", size=(640, 480))


def test_coordinates_are_scaled_to_a_resized_picture() -> None:
    small = picture(336, 224)  # of 640x427: the ratio is not quite the same
    for size in ((640, 427), (640.0, 426.5), (336, 224)):
        k = 336 / size[0]
        scaled = draw_region(small, box(100 / k, 50 / k, 200 / k, 100 / k), "red", "bounding box", size)
        assert np.abs(np.subtract(extent(is_colour(scaled, "red")), (96, 46, 204, 104))).max() <= 1
        tip = draw_arrow(small, 100 / k, 50 / k, "red", size)
        assert pixels(tip)[50, 100].tolist() != [128] * 3


def test_colour_and_shape_hang_on_the_key_and_all_are_used() -> None:
    keys = [f"refcocog/train/{number}" for number in range(600)]
    assert colour_of("a/b/1") == "yellow" and shape_of("a/b/1") == "bounding box"
    both = Counter((colour_of(key), shape_of(key)) for key in keys)
    assert set(both) == {(colour, shape) for colour in COLOURS for shape in SHAPES}
    assert min(both.values()) > 600 / len(both) / 2


def test_bytes_that_do_not_decode_have_the_reasons_of_decode() -> None:
    good = picture(64, 48).data
    for data, reason in ((b"", "empty_image"), (b"no image", "corrupt_image"), (good[:60], "corrupt_image")):
        with pytest.raises(BadSample) as caught:
            draw_arrow(Image(extension="png", data=data), 1, 1, "red")
        assert caught.value.reason == reason
