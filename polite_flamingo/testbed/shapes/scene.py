"""What is in a Shapes picture: the ground truth from which it is drawn, and against which texts are checked.

A scene is a 3 × 3 grid with at most one thing per cell. No two things share colour and shape, so "the red circle" is
always unambiguous.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import Literal

CANVAS = 96
"""Side of a picture in pixels."""

CELL = CANVAS // 3

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 49),
    "green": (39, 155, 72),
    "blue": (41, 98, 217),
    "yellow": (246, 200, 20),
    "purple": (132, 62, 184),
    "orange": (240, 128, 24),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
SIZES: dict[str, float] = {"small": 8.0, "large": 14.0}
"""Half the extent of a thing in pixels."""

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 248),
    "grey": (178, 182, 188),
    "beige": (232, 216, 184),
    "pink": (246, 196, 208),
}
PATTERNS = ("plain", "striped", "dotted")

PLACES = (
    "top left", "top", "top right",
    "left", "centre", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
"""Name of each cell, row by row."""

Relation = Literal["left of", "right of", "above", "below"]
RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below")


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One coloured shape. `centre` is in pixels from the top left corner; it lies within the cell."""

    size: str
    colour: str
    shape: str
    cell: int
    centre: tuple[float, float]

    @property
    def name(self) -> str:
        """A name that is unique within its scene: "red circle"."""
        return f"{self.colour} {self.shape}"

    @property
    def full_name(self) -> str:
        """The name with its size: "small red circle"."""
        return f"{self.size} {self.name}"

    @property
    def place(self) -> str:
        """The name of its cell."""
        return PLACES[self.cell]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Its box: x1, y1, x2, y2 in pixels."""
        half = SIZES[self.size]
        x, y = self.centre
        return (x - half, y - half, x + half, y + half)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Things in reading order of their cells, on a background."""

    things: tuple[Thing, ...]
    background: str
    pattern: str

    def holds(self, first: Thing, relation: str, second: Thing) -> bool:
        """Whether `first` is `relation` `second`: "left of" means a smaller column, "above" a smaller row."""
        column, row = first.cell % 3 - second.cell % 3, first.cell // 3 - second.cell // 3
        return {"left of": column < 0, "right of": column > 0, "above": row < 0, "below": row > 0}[relation]

    def find(self, colour: str, shape: str) -> Thing | None:
        """Return the thing of that colour and shape, if there is one."""
        return next((t for t in self.things if t.colour == colour and t.shape == shape), None)


def random_thing(rng: random.Random, cell: int, taken: set[tuple[str, str]]) -> Thing:
    """Return a thing in `cell` whose (colour, shape) is not `taken`."""
    while True:
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        if (colour, shape) not in taken:
            break
    size = rng.choice(list(SIZES))
    slack = CELL / 2 - SIZES[size] - 1
    x = (cell % 3 + 0.5) * CELL + rng.uniform(-slack, slack)
    y = (cell // 3 + 0.5) * CELL + rng.uniform(-slack, slack)
    return Thing(size=size, colour=colour, shape=shape, cell=cell, centre=(round(x, 2), round(y, 2)))


def random_scene(rng: random.Random, count: int | None = None) -> Scene:
    """Return a scene of `count` things (None: 1 to 4, more often few than many)."""
    count = count if count is not None else rng.choice((1, 2, 2, 3, 3, 4))
    things: list[Thing] = []
    for cell in sorted(rng.sample(range(9), count)):
        things.append(random_thing(rng, cell, {(t.colour, t.shape) for t in things}))
    return Scene(things=tuple(things), background=rng.choice(list(BACKGROUNDS)), pattern=rng.choice(PATTERNS))


def any_scene(rng: random.Random) -> Scene:
    """Return a scene of one to six things: what a model saw before it was tuned, crowded scenes included."""
    return random_scene(rng, rng.choice((1, 2, 2, 3, 3, 4, 4, 5, 6)))


@dataclass(frozen=True, kw_only=True)
class Change:
    """The difference between two pictures. `before` and `after` are the thing that changed; None if it is absent."""

    kind: Literal["none", "added", "removed", "moved", "recoloured"]
    before: Thing | None = None
    after: Thing | None = None


def random_change(rng: random.Random, scene: Scene) -> tuple[Scene, Change]:
    """Return a second scene that differs from `scene` in at most one thing, and the change."""
    kinds: list[Literal["none", "added", "removed", "moved", "recoloured"]] = ["none", "added", "moved", "recoloured"]
    if len(scene.things) > 1:
        kinds += ["removed", "removed"]
    kind = rng.choice(kinds)
    if kind == "none":
        return scene, Change(kind="none")
    free = [cell for cell in range(9) if all(t.cell != cell for t in scene.things)]
    taken = {(t.colour, t.shape) for t in scene.things}
    if kind == "added":
        new = random_thing(rng, rng.choice(free), taken)
        return _with(scene, (*scene.things, new)), Change(kind="added", after=new)
    old = rng.choice(scene.things)
    rest = tuple(t for t in scene.things if t is not old)
    if kind == "removed":
        return _with(scene, rest), Change(kind="removed", before=old)
    if kind == "moved":
        cell = rng.choice(free)
        dx, dy = (cell % 3 - old.cell % 3) * CELL, (cell // 3 - old.cell // 3) * CELL
        new = dataclasses.replace(old, cell=cell, centre=(old.centre[0] + dx, old.centre[1] + dy))
    else:
        colours = [c for c in COLOURS if (c, old.shape) not in taken]
        new = dataclasses.replace(old, colour=rng.choice(colours))
    return _with(scene, (*rest, new)), Change(kind=kind, before=old, after=new)


def _with(scene: Scene, things: tuple[Thing, ...]) -> Scene:
    return dataclasses.replace(scene, things=tuple(sorted(things, key=lambda t: t.cell)))
