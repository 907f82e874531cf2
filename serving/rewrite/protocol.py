"""The JSON of /v1/rewrite, and of a line of a bulk job: what may be asked, what is told.

Models only; `rewriting.py` knows what they mean.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RewritingTask = Literal["captioning", "classification", "change_captioning", "vqa_rationale", "vqa", "text"]


class Content(BaseModel):
    """What is to be rewritten."""

    model_config = ConfigDict(extra="forbid")

    instruction: str = Field(
        description="What is asked of the images. May hold one `<image>` for each of them; without any, the images "
        "come first.",
        examples=["What colour is the circle?"],
        min_length=1,
    )
    raw: str = Field(
        description="The annotation, worded as raw ones are, such as `Answer: red` (docs/architecture.md).",
        examples=["Answer: red"],
        min_length=1,
    )
    image: str | None = Field(
        default=None, description="One image: a data URL, or an http(s) URL of a host that is allowed."
    )
    images: list[str] | None = Field(default=None, description="Several images, in the order of their marks.")
    task: RewritingTask | None = Field(
        default=None,
        description="Decides which filters judge; inferred from instruction, annotation and images if left out.",
    )


class Options(BaseModel):
    """How it is rewritten."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(default=None, description="The rewriter's name; there is one.")
    scores: bool = Field(default=True, description="Score and judge the text as well.")
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="0 is greedy; left out, the server's setting."
    )
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(
        default=None, ge=0, lt=1 << 63, description="Of the draws; left out, it hangs on the content."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, le=1 << 20, description="Of the text; left out, the server's setting."
    )


class RewriteOne(Content, Options):
    """One rewriting."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"instruction": "How do I boil an egg?", "raw": "8 minutes in boiling water", "task": "text"}]
        },
    )


class RewriteMany(Options):
    """Several, rewritten at once; each ends in its text or in its error."""

    items: list[Content] = Field(min_length=1)


class RewriteVerdict(BaseModel):
    """What one check says."""

    filter: str = Field(examples=["sts"])
    label: str = Field(description="What the number is.", examples=["similarity to the annotation"])
    score: float | None = Field(description="null where a model gave no number.", examples=[0.71])
    threshold: float | None = Field(examples=[0.4])
    rule: str = Field(description="The check in words.", examples=["kept from 0.4"])
    keep: bool
    reason: str = Field(description="Why it rejects, a stable word; empty where it keeps.", examples=[""])


class RemovedParagraph(BaseModel):
    """A paragraph of a kept caption that does not fit the image."""

    score: float = Field(description="Its CLIPScore.")
    text: str


class Usage(BaseModel):
    """Tokens, as OpenAI counts them; an image is one."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class RewriteResult(BaseModel):
    """What became of one rewriting; without scores, everything that hangs on them is null or empty."""

    object: Literal["rewrite"] = "rewrite"
    model: str
    task: RewritingTask
    response: str = Field(description="The polite text as the dataset would have it: removed paragraphs are out.")
    rewritten: str = Field(description="The text as the model wrote it.")
    finish_reason: Literal["stop", "length"] | None = Field(description="null in bulk jobs, which do not keep it.")
    kept: bool | None = Field(description="Whether every check keeps it.")
    reason: str = Field(description="The first check's that rejects it, empty where none does.")
    verdicts: list[RewriteVerdict]
    reward_before: float | None = Field(description="The reward model's of the annotation.")
    reward_after: float | None
    removed_paragraphs: list[RemovedParagraph]
    scores: dict[str, Any] = Field(description="Every number of every filter.")
    usage: Usage | None = Field(description="null in bulk jobs.")


class RewriteError(BaseModel):
    """Why an item has no text; OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class RewriteItemResult(BaseModel):
    """One of several: its result or its error, never both."""

    index: int = Field(description="Place in `items`.")
    result: RewriteResult | None
    error: RewriteError | None


class Timings(BaseModel):
    """Seconds of the whole call."""

    rewriting: float
    scoring: float


class RewriteAnswer(RewriteResult):
    """The answer to one rewriting."""

    id: str
    created: int
    timings: Timings


class RewriteList(BaseModel):
    """The answer to several, in their order."""

    object: Literal["list"] = "list"
    id: str
    created: int
    data: list[RewriteItemResult]
    usage: Usage
    timings: Timings


def request_schema() -> dict[str, Any]:
    """JSON schema of a body: one rewriting or several."""
    many, content = RewriteMany.model_json_schema(), Content.model_json_schema()
    del many["$defs"]
    many["properties"]["items"]["items"] = content
    return {"anyOf": [RewriteOne.model_json_schema(), many]}
