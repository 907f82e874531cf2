"""Puts raw annotations into words before the rewriter sees them: the one place that fixes these formats.

Every adapter builds its responses here, and so does the training of the tiny rewriter. The forms are those of the
paper's own records (`readme.md` of ChenDelong1999/polite_flamingo; arXiv 2307.01003, appendix).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

BOXES_FOLLOW = "The positions of objects, as normalised (x1, y1, x2, y2):"

Box = tuple[float, float, float, float]


def captions_and_boxes(captions: Iterable[str], boxes: Sequence[tuple[str, Box]] = ()) -> str:
    """Write distinct captions, one per line; then, if there are boxes, lines `label: [x1, y1, x2, y2]`, three decimals.

    Args:
        captions: the captions, which may repeat and carry stray blanks; empty ones are left out.
        boxes: label and x1, y1, x2, y2, each from 0 to 1.
    """
    lines = distinct(captions)
    if boxes:
        lines.append(BOXES_FOLLOW)
        lines += [f"{label}: [{', '.join(f'{value:.3f}' for value in box)}]" for label, box in boxes]
    return "\n".join(lines)


def answer_response(answer: str, rationale: str = "") -> str:
    """Write `Answer: red` and, if there is a rationale, a line `Rationale: …`."""
    answer = f"Answer: {answer.strip()}"
    return f"{answer}\nRationale: {rationale.strip()}" if rationale.strip() else answer


def answer_in(response: str) -> str:
    """Return the answer that `answer_response` wrote into a response; any other response as it is, stripped."""
    if not response.startswith("Answer: "):
        return response.strip()
    return response.removeprefix("Answer: ").split("\nRationale: ")[0].strip()


def class_response(label: str, template: str, facts: Iterable[str] = ()) -> str:
    """Fill CLIP's prompt template with the class, then add what is known about the class, one fact per line."""
    return "\n".join([template.replace("{}", label), *distinct(facts)])


def distinct_lines(texts: Iterable[str]) -> str:
    """Write the distinct sentences about a change, or expressions for a marked region, one per line."""
    return "\n".join(distinct(texts))


def distinct(texts: Iterable[str]) -> list[str]:
    """Return the texts stripped, without empty ones and repetitions, in order of first appearance."""
    return list(dict.fromkeys(stripped for text in texts if (stripped := text.strip())))
