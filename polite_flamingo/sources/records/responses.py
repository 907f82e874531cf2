"""Puts raw annotations into words before the rewriter sees them: the one place that fixes these formats.

Every adapter builds its responses here, and so does the training of the tiny rewriter. The forms are those of the
paper's own records (`readme.md` of ChenDelong1999/polite_flamingo; arXiv 2307.01003, appendix).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

BOXES_FOLLOW = "The positions of objects, as normalised (x1, y1, x2, y2):"

Box = tuple[float, float, float, float]


def captions_and_boxes(captions: Iterable[str], boxes: Sequence[tuple[str, Box]] = ()) -> str:
    """Distinct captions, one a line; then, where there are boxes, `label: [x1, y1, x2, y2]` lines with three decimals.

    Args:
        captions: may repeat and carry stray blanks; empty ones are left out.
        boxes: label and x1, y1, x2, y2, each from 0 to 1.
    """
    lines = distinct(captions)
    if boxes:
        lines.append(BOXES_FOLLOW)
        lines += [f"{label}: [{', '.join(f'{value:.3f}' for value in box)}]" for label, box in boxes]
    return "\n".join(lines)


def answer_response(answer: str, rationale: str = "") -> str:
    """`Answer: red`, and where there is one a line `Rationale: …`."""
    answer = f"Answer: {answer.strip()}"
    return f"{answer}\nRationale: {rationale.strip()}" if rationale.strip() else answer


def class_response(label: str, template: str, facts: Iterable[str] = ()) -> str:
    """CLIP's prompt template filled with the class, then knowledge of the class, one a line."""
    return "\n".join([template.replace("{}", label), *distinct(facts)])


def distinct_lines(texts: Iterable[str]) -> str:
    """The distinct sentences on a change, or expressions for a marked region, one a line."""
    return "\n".join(distinct(texts))


def distinct(texts: Iterable[str]) -> list[str]:
    """Stripped, without empty ones and repetitions, in order of first appearance."""
    return list(dict.fromkeys(stripped for text in texts if (stripped := text.strip())))
