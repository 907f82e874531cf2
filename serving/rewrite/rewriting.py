"""Requests of /v1/rewrite -> `Sample`s, and rewritten samples -> responses.

A request becomes the `Sample` that a source would have made of it, so a request, a line of a bulk job and a row of a
build get the same prompt, filters and verdicts. Nothing here runs a model or knows HTTP.

The task of an annotation decides its filters. `infer_task` infers it if a request does not name one:

    no image                                        text
    an annotation `Answer: …` with `Rationale: …`   vqa_rationale
    an annotation `Answer: …`                       vqa
    an instruction that the sources use for a task  that task (such as "Describe the image in detail.")
    an instruction that ends with a question mark   vqa
    any other with two images or more               change_captioning
    anything else                                   captioning
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from polite_flamingo.filters.paragraphs import join_paragraphs
from polite_flamingo.filters.thresholds import CHECKS, Thresholds, apply_thresholds, first_failure
from polite_flamingo.sample import IMAGE_MARK, BadSample, Sample, Turn, Verdict, make_key
from polite_flamingo.selection.select_shard import split_paragraphs
from polite_flamingo.sources.reading.image_folder import checked_image
from polite_flamingo.sources.records.instructions import INSTRUCTIONS
from serving.chat.images import ImageReference
from serving.chat.responses import Usage
from serving.config import LimitsConfig, ServiceConfig
from serving.errors import ApiError, invalid
from serving.rewrite.protocol import Content, RemovedParagraph, RewriteResult, RewriteVerdict, RewritingTask

_CHECKS = {check.name: check for check in CHECKS}
_TASKS_OF_INSTRUCTIONS = {
    wording: task for task in ("captioning", "classification", "change_captioning") for wording in INSTRUCTIONS[task]
}


def check_model(name: str | None, config: ServiceConfig) -> None:
    """Raise ApiError 404 unless the model is the rewriter."""
    if name not in (None, config.serving.rewriter_name):
        message = f"{name[:80]!r} does not rewrite; use {config.serving.rewriter_name!r}"
        raise ApiError(404, message, code="model_not_found", param="model")


def image_references(content: Content, limits: LimitsConfig, where: str = "") -> list[ImageReference]:
    """Get each image's URL. Raises ApiError 400 for too many images, too long texts, or both `image` and `images`."""
    prefix = f"{where}." if where else ""
    for name, text in (("instruction", content.instruction), ("raw", content.raw)):
        if len(text) > limits.text_characters:
            why = f"{len(text)} characters; the limit is {limits.text_characters} (limits.text_characters)"
            raise invalid(prefix + name, why, "text_too_long")
    if content.image is not None and content.images is not None:
        raise invalid(f"{prefix}image", "both image and images; give one of them")
    if content.image is not None:
        found = [ImageReference(url=content.image, param=f"{prefix}image")]
    else:
        urls = content.images or ()
        found = [ImageReference(url=url, param=f"{prefix}images.{number}") for number, url in enumerate(urls)]
    if len(found) > limits.images:
        why = f"{len(found)} images; the limit is {limits.images} (limits.images)"
        raise invalid(f"{prefix}images", why, "too_many_images")
    return found


def make_sample(
    content: Content, images: Sequence[bytes], *, key: str = "", meta: Mapping[str, Any] | None = None
) -> Sample:
    """Make the sample that a source would have made.

    Args:
        content: the annotation.
        images: encoded, in order.
        key: "" to derive it from the content, so that the same request samples the same text.
        meta: stored with the sample.

    Raises:
        ApiError: 400; its code is one of `sample.REASONS`.
    """
    instruction = content.instruction
    if IMAGE_MARK not in instruction:
        instruction = IMAGE_MARK * len(images) + instruction
    key = key or _content_key(instruction, content.raw, images)
    try:
        pictures = tuple(checked_image(data, f"image {number}")[0] for number, data in enumerate(images))
        task = content.task or infer_task(content.instruction, content.raw, len(pictures))
        if task != "text" and not pictures:
            raise BadSample("missing_image", f"task {task!r} needs an image; send one, or set task to 'text'")
        turns = (Turn(instruction=instruction, response=content.raw),)
        sample = Sample(key=key, dataset="rewrite", task=task, turns=turns, images=pictures, meta=meta or {})
        return sample.validate()
    except BadSample as bad:
        raise invalid("", bad.detail.removeprefix(f"{key}: "), bad.reason) from None


def infer_task(instruction: str, raw: str, images: int) -> RewritingTask:
    """Infer the task of a request that names none, by the rules in this module's docstring."""
    asked = instruction.replace(IMAGE_MARK, "").strip()
    if not images:
        return "text"
    if raw.lstrip().startswith("Answer:"):
        return "vqa_rationale" if "\nRationale:" in raw else "vqa"
    if asked in _TASKS_OF_INSTRUCTIONS:
        return _TASKS_OF_INSTRUCTIONS[asked]  # type: ignore[return-value]
    if asked.endswith("?"):
        return "vqa"
    return "change_captioning" if images > 1 else "captioning"


def make_result(
    sample: Sample,
    model: str,
    thresholds: Thresholds,
    *,
    finish_reason: Literal["stop", "length"] | None = None,
    usage: Usage | None = None,
) -> RewriteResult:
    """Return the response for a rewritten sample, with verdicts if it is scored.

    Args:
        sample: rewritten.
        model: the name that clients use.
        thresholds: of the filters.
        finish_reason: why the text ended.
        usage: tokens.
    """
    text = sample.rewritten or ""
    result = RewriteResult(
        model=model, task=cast(RewritingTask, sample.task), response=text, rewritten=text, finish_reason=finish_reason,
        kept=None, reason="", verdicts=[], reward_before=None, reward_after=None, removed_paragraphs=[], scores={},
        usage=usage,
    )  # fmt: skip
    if not sample.scores:
        return result
    verdicts = apply_thresholds(sample, thresholds)
    failure = first_failure(verdicts)
    result.kept, result.reason = failure is None, failure.reason if failure else ""
    result.verdicts = [_verdict(verdict, thresholds) for verdict in verdicts]
    result.scores = dict(sample.scores)
    result.reward_before, result.reward_after = sample.scores.get("reward_raw"), sample.scores.get("reward")
    if failure is None:  # as in a selection, rejected samples keep their paragraphs
        kept, removed = split_paragraphs(sample, thresholds)
        if kept or removed:
            result.response = join_paragraphs([paragraph for _, paragraph in kept])
        result.removed_paragraphs = [RemovedParagraph(score=score, text=paragraph) for score, paragraph in removed]
    return result


def _verdict(verdict: Verdict, thresholds: Thresholds) -> RewriteVerdict:
    check = _CHECKS.get(verdict.filter)
    threshold = getattr(thresholds, verdict.filter) if check else None
    return RewriteVerdict(
        filter=verdict.filter,
        label=check.label if check else "rewards of the annotation and the text",
        score=verdict.score if verdict.score is not None and math.isfinite(verdict.score) else None,
        threshold=threshold,
        rule=check.rule(threshold) if check else "kept if both are finite numbers",
        keep=verdict.keep,
        reason=verdict.reason,
    )


def _content_key(instruction: str, raw: str, images: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in (instruction.encode("utf-8", "surrogatepass"), raw.encode("utf-8", "surrogatepass"), *images):
        digest.update(len(part).to_bytes(8, "big") + part)
    return make_key("rewrite", "online", digest.hexdigest()[:32])
