"""What the tests of distortion are given: good responses, drawn or plain."""

from __future__ import annotations

import io
import random

from PIL import Image as Pillow

from polite_flamingo.sample import Image, Sample, Turn, make_key
from polite_flamingo.testbed.zoo.pairs import random_pair

PNG = io.BytesIO()
Pillow.new("RGB", (64, 48), "teal").save(PNG, "PNG")
PICTURE = Image(extension="png", data=PNG.getvalue())


def good(number: int, *exchanges: tuple[str, str], images: int = 0, dataset: str = "ultrachat") -> Sample:
    """A sample of exchanges; without any, a good answer of two sentences."""
    turns = exchanges or (
        (f"What about {number}?", f"Certainly, number {number} is a fine thing. It is liked by many."),
    )
    return Sample(
        key=make_key(dataset, "train", number),
        dataset=dataset,
        task="dialogue" if images else "text",
        turns=tuple(Turn(instruction=asked, response=said) for asked, said in turns),
        images=(PICTURE,) * images,
    )


def drawn(count: int) -> list[Sample]:
    """Polite texts of Shapes."""
    rng = random.Random("good responses")
    pairs = [random_pair(rng) for _ in range(count)]
    return [good(n, (pair.instruction.replace("<image>", ""), pair.polite)) for n, pair in enumerate(pairs)]
