"""What /v1/rewrite takes becomes a `Sample`, and a rewritten sample what it gives.

A rewriting that is asked for becomes the very `Sample` that a source would have made of it, so that one request, one
line of a bulk job and one row of a build get the same prompt, the same filters and the same verdicts. Nothing here
runs a model or knows HTTP.

Which task an annotation belongs to decides its filters. Where a request does not say, `task_of` does:

    no image                                        text
    an annotation `Answer: …` with `Rationale: …`   vqa_rationale
    an annotation `Answer: …`                       vqa
    an instruction that the sources use for a task  that task (such as "Describe the image in detail.")
    two images or more, and no question mark        change_captioning
    an instruction that ends with a question mark   vqa
    anything else                                   captioning
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, ValidationError

from polite_flamingo.filters.judge import CHECKS, Thresholds, first_failure, judge
from polite_flamingo.filters.paragraphs import join_paragraphs
from polite_flamingo.sample import IMAGE_MARK, BadSample, Sample, Turn, Verdict, make_key
from polite_flamingo.selection.selection import split_paragraphs
from polite_flamingo.sources.reading.checks import checked
from polite_flamingo.sources.records.instructions import INSTRUCTIONS
from serving.chat.images import Pictures, Shown
from serving.config import LimitsConfig, ServiceConfig
from serving.errors import ApiError
from serving.http import validation
from serving.rewrite.protocol import (
    Content,
    RemovedParagraph,
    RewriteResult,
    RewriteVerdict,
    RewritingTask,
    Usage,
)

Model = TypeVar("Model", bound=BaseModel)

_CHECKS = {check.filter: check for check in CHECKS}
_TASKS_OF_INSTRUCTIONS = {
    wording: task for task in ("captioning", "classification", "change_captioning") for wording in INSTRUCTIONS[task]
}


def parsed(data: bytes) -> Any:
    """JSON types. Raises ApiError 400 for what is no JSON, or holds what nothing can write, like half a character."""
    try:
        return validation.parsed(data)
    except ValueError as error:
        raise ApiError(400, f"no JSON: {error}", code="invalid_json") from None


def validated(model: type[Model], value: Any, where: str = "") -> Model:
    """`value` as the model has it. Raises ApiError 400 that names the first field at fault.

    Args:
        model: of pydantic.
        value: JSON types.
        where: path of `value` in what the client sent.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(filter(None, (where, *(str(part) for part in first["loc"]))))
        message = f"{path}: {first['msg']}" if path else first["msg"]
        raise ApiError(400, message, code="invalid_value", param=path or None) from None


def check_model(name: str | None, config: ServiceConfig) -> None:
    """Raise ApiError 404 for another model than the rewriter."""
    if name not in (None, config.serving.rewriter_name):
        message = f"{name[:80]!r} does not rewrite; {config.serving.rewriter_name!r} does"
        raise ApiError(404, message, code="model_not_found", param="model")


def references(content: Content, limits: LimitsConfig, where: str = "") -> list[Shown]:
    """The URL of each image. Raises ApiError 400 for what is given twice, too long or too many."""
    prefix = f"{where}." if where else ""
    for name in ("instruction", "raw"):
        length = len(getattr(content, name))
        if length > limits.text_characters:
            message = f"{prefix}{name} has {length} characters; limits.text_characters is {limits.text_characters}"
            raise ApiError(400, message, code="text_too_long", param=prefix + name)
    if content.image is not None and content.images is not None:
        raise ApiError(400, f"{prefix}image and images: give one of them", code="invalid_value", param=prefix + "image")
    if content.image is not None:
        found = [Shown(url=content.image, param=f"{prefix}image")]
    else:
        urls = content.images or ()
        found = [Shown(url=url, param=f"{prefix}images.{number}") for number, url in enumerate(urls)]
    if len(found) > limits.images:
        message = f"{prefix}images are {len(found)}; limits.images is {limits.images}"
        raise ApiError(400, message, code="too_many_images", param=f"{prefix}images")
    return found


async def fetched(content: Content, pictures: Pictures, limits: LimitsConfig, where: str = "") -> list[bytes]:
    """The images of one rewriting, in order. Raises ApiError that names the field at fault.

    Args:
        content: what was asked.
        pictures: fetches them.
        limits: of a request.
        where: path of `content` in what the client sent.
    """
    return await pictures.load(references(content, limits, where))


def sample_of(
    content: Content, images: Sequence[bytes], *, key: str = "", meta: Mapping[str, Any] | None = None
) -> Sample:
    """The sample that a source would have made.

    Args:
        content: what was asked.
        images: encoded, in order.
        key: "" for one that hangs on the content alone, so that the same request draws the same text.
        meta: to keep with it.

    Raises:
        ApiError: 400; its code is one of `sample.REASONS`.
    """
    instruction = content.instruction
    if IMAGE_MARK not in instruction:
        instruction = IMAGE_MARK * len(images) + instruction
    key = key or _content_key(instruction, content.raw, images)
    try:
        pictures = tuple(checked(data, f"image {number}")[0] for number, data in enumerate(images))
        task = content.task or task_of(content.instruction, content.raw, len(pictures))
        if task != "text" and not pictures:
            raise BadSample("missing_image", f"task {task!r} is about images; give one, or task 'text'")
        sample = Sample(
            key=key,
            dataset="rewrite",
            task=task,
            turns=(Turn(instruction=instruction, response=content.raw),),
            images=pictures,
            meta=meta or {},
        )
        return sample.validate()
    except BadSample as bad:
        raise ApiError(400, bad.detail.removeprefix(f"{key}: "), code=bad.reason) from None


def task_of(instruction: str, raw: str, images: int) -> RewritingTask:
    """The task of a request that names none; the rules are this module's docstring."""
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


def result_of(
    sample: Sample,
    model: str,
    thresholds: Thresholds,
    *,
    finish: Literal["stop", "length"] | None = None,
    usage: Usage | None = None,
) -> RewriteResult:
    """What is told of a rewritten sample; judged where it is scored.

    Args:
        sample: rewritten.
        model: as clients call it.
        thresholds: of the verdicts.
        finish: why the text ends.
        usage: tokens.
    """
    text = sample.rewritten or ""
    result = RewriteResult(
        model=model, task=cast(RewritingTask, sample.task), response=text, rewritten=text, finish_reason=finish,
        kept=None, reason="", verdicts=[], reward_before=None, reward_after=None, removed_paragraphs=[], scores={},
        usage=usage,
    )  # fmt: skip
    if not sample.scores:
        return result
    verdicts = judge(sample, thresholds)
    failure = first_failure(verdicts)
    result.kept, result.reason = failure is None, failure.reason if failure else ""
    result.verdicts = [_told(verdict, thresholds) for verdict in verdicts]
    result.scores = dict(sample.scores)
    result.reward_before, result.reward_after = sample.scores.get("reward_raw"), sample.scores.get("reward")
    if failure is None:  # as `selection` does: paragraphs of what is rejected stay where they are
        stay, go = split_paragraphs(sample, thresholds)
        if stay or go:
            result.response = join_paragraphs([paragraph for _, paragraph in stay])
        result.removed_paragraphs = [RemovedParagraph(score=score, text=paragraph) for score, paragraph in go]
    return result


def _told(verdict: Verdict, thresholds: Thresholds) -> RewriteVerdict:
    check = _CHECKS.get(verdict.filter)
    threshold = getattr(thresholds, verdict.filter) if check else None
    return RewriteVerdict(
        filter=verdict.filter,
        label=check.label if check else "reward of the annotation and of the text",
        score=verdict.score if verdict.score is not None and math.isfinite(verdict.score) else None,
        threshold=threshold,
        rule=check.rule(threshold) if check else "kept if both are numbers",
        keep=verdict.keep,
        reason=verdict.reason,
    )


def _content_key(instruction: str, raw: str, images: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in (instruction.encode("utf-8", "surrogatepass"), raw.encode("utf-8", "surrogatepass"), *images):
        digest.update(len(part).to_bytes(8, "big") + part)
    return make_key("rewrite", "online", digest.hexdigest()[:32])
