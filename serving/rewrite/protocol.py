"""Requests and responses of /v1/rewrite, and of the lines of a bulk job."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.chat.responses import ErrorBody, Usage

RewritingTask = Literal["captioning", "classification", "change_captioning", "vqa_rationale", "vqa", "text"]


class Content(BaseModel):
    """An annotation to rewrite."""

    model_config = ConfigDict(extra="forbid")

    instruction: str = Field(
        description="The question or instruction about the images. May hold one `<image>` per image; without any, the "
        "images come first.",
        examples=["What colour is the circle?"],
        min_length=1,
    )
    raw: str = Field(
        description="The raw annotation, such as `Answer: red` (formats: docs/architecture.md).",
        examples=["Answer: red"],
        min_length=1,
    )
    image: str | None = Field(default=None, description="One image: a data URL, or an http(s) URL of an allowed host.")
    images: list[str] | None = Field(default=None, description="Several images, in the order of their `<image>` marks.")
    task: RewritingTask | None = Field(
        default=None,
        description="Decides which filters apply. Default: inferred from instruction, annotation and images.",
    )


class Options(BaseModel):
    """How to rewrite."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(default=None, description="The rewriter's name. Default: the only one.")
    scores: bool = Field(default=True, description="Also score and judge the text.")
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="0 is greedy. Default: the server's setting."
    )
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(
        default=None, ge=0, lt=1 << 63, description="Sampling seed. Default: derived from the content."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, le=1 << 20, description="Maximum length. Default: the server's setting."
    )


class RewriteOne(Content, Options):
    """One annotation to rewrite."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"instruction": "How do I boil an egg?", "raw": "8 minutes in boiling water", "task": "text"}]
        },
    )


class RewriteMany(Options):
    """Several annotations, rewritten at once; each ends in its text or its error."""

    items: list[Content] = Field(min_length=1)


class RewriteVerdict(BaseModel):
    """The verdict of one filter."""

    filter: str = Field(examples=["sts"])
    label: str = Field(description="What the score is.", examples=["similarity to the annotation"])
    score: float | None = Field(description="null where the model gave no finite number.", examples=[0.71])
    threshold: float | None = Field(examples=[0.4])
    rule: str = Field(description="The filter's rule in words.", examples=["kept from 0.4"])
    keep: bool
    reason: str = Field(description="Why it rejects: a stable word; empty if it keeps.", examples=[""])


class RemovedParagraph(BaseModel):
    """A paragraph of a kept caption that does not fit the image."""

    score: float = Field(description="Its CLIPScore.")
    text: str


class RewriteResult(BaseModel):
    """The result for one annotation; without scores, all that depends on them is null or empty."""

    object: Literal["rewrite"] = "rewrite"
    model: str
    task: RewritingTask
    response: str = Field(description="The polite text as the dataset would hold it, without removed paragraphs.")
    rewritten: str = Field(description="The text as the model generated it.")
    finish_reason: Literal["stop", "length"] | None = Field(description="null in bulk jobs.")
    kept: bool | None = Field(description="Whether every filter keeps it.")
    reason: str = Field(description="The reason of the first filter that rejects it; empty if none does.")
    verdicts: list[RewriteVerdict]
    reward_before: float | None = Field(description="Reward of the raw annotation.")
    reward_after: float | None = Field(description="Reward of the text.")
    removed_paragraphs: list[RemovedParagraph]
    scores: dict[str, Any] = Field(description="All scores of all filters.")
    usage: Usage | None = Field(description="null in bulk jobs.")


class RewriteItemResult(BaseModel):
    """One of several items: its result or its error."""

    index: int = Field(description="Position in `items`.")
    result: RewriteResult | None
    error: ErrorBody | None


class Timings(BaseModel):
    """Seconds spent in the call."""

    rewriting: float
    scoring: float


class _Call(BaseModel):
    id: str
    created: int
    timings: Timings


class RewriteAnswer(RewriteResult, _Call):
    """The response to a `RewriteOne`."""


class RewriteList(_Call):
    """The response to a `RewriteMany`, in the order of its items."""

    object: Literal["list"] = "list"
    data: list[RewriteItemResult]
    usage: Usage


def request_schema() -> dict[str, Any]:
    """JSON schema of a body: one annotation or several."""
    many, content = RewriteMany.model_json_schema(), Content.model_json_schema()
    del many["$defs"]
    many["properties"]["items"]["items"] = content
    return {"anyOf": [RewriteOne.model_json_schema(), many]}
