"""The list of fields that change what a record means, and what becomes of each.

Other projects write beside the texts what must not be learned, which answers are bad, and what is not an image.
Ignoring that would teach something other than the file says. So each field of a record, message or content part is one
of these:

- read: the source itself uses it (each source says which);
- in `FIELDS`: honoured, or its record is quarantined under its name, or it is kept in `meta` for a stated reason;
- unknown: kept in `meta`.

Whatever is kept is noted once per record (`Scratch.note`). Null means absent. `extra_fields.py` applies this list, and
`docs/formats.md` is generated from it. A name added here is honoured everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Where = Literal["record", "message", "part"]

Kind = Literal["learn", "mask", "good", "bad", "gone", "opinion", "refused", "kept"]

EFFECTS: dict[Kind, str] = {
    "learn": "honoured: if false or 0, the response is not learned (a record's field holds one value, or one per turn)",
    "mask": "honoured: if true or 1, the response is not learned",
    "good": "honoured: if false, the answer is not learned; on a record, the whole record is quarantined (excluded)",
    "bad": "honoured: if true, the answer is not learned; on a record, the whole record is quarantined (excluded)",
    "gone": "honoured: if true, the record is quarantined (excluded)",
    "opinion": "honoured: if a word or a negative number calls the answer bad, it is not learned (excluded)",
    "refused": "quarantined (unsupported) unless empty",
    "kept": "kept in meta, and counted",
}
"""What becomes of a field of each kind, as `docs/formats.md` words it."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """Fields with one meaning.

    Attributes:
        names: the fields' names; case, "_" and "-" make no difference.
        where: whose fields they are.
        kind: what they do.
        says: why a field is refused or kept.
        numbers: whether 0 and 1 mean false and true; other datasets use some of these names for numbers.
    """

    names: tuple[str, ...]
    kind: Kind
    where: tuple[Where, ...] = ("record", "message")
    says: str = ""
    numbers: bool = True


ANYWHERE: tuple[Where, ...] = ("record", "message", "part")

FIELDS: tuple[Field, ...] = (
    Field(kind="learn", names=(
        "weight", "train", "training", "trainable", "is_train", "do_train", "learn", "learned", "learnable", "loss",
        "compute_loss", "calculate_loss", "has_loss", "is_loss", "use_loss", "loss_mask", "loss_weight", "loss_scale",
        "supervise", "supervised", "train_on", "train_on_turn", "train_this", "include_in_loss", "assistant_masks",
        "assistant_mask", "train_mask", "turn_mask", "turn_weights", "weights",
    )),
    Field(kind="mask", names=(
        "mask", "masked", "is_masked", "mask_loss", "ignore_loss", "no_loss", "skip_loss", "no_train", "exclude_loss",
        "exclude_from_loss", "exclude_from_training", "do_not_train", "dont_train", "not_train", "context_only",
    )),
    Field(kind="mask", where=("message",), names=("skip", "skipped", "ignore", "ignored")),
    Field(kind="gone", where=("record",), names=("skip", "skipped", "ignore", "ignored")),
    Field(kind="gone", names=(
        "deleted", "is_deleted", "removed", "is_removed", "exclude", "excluded", "is_excluded", "discard", "discarded",
        "drop", "dropped", "hidden", "is_hidden", "disabled", "blacklisted", "blocked", "withdrawn", "retracted",
        "banned", "do_not_use", "dont_use", "to_delete", "to_remove",
    )),
    Field(kind="good", names=(
        "kto_tag", "kto_label", "is_correct", "is_good", "is_accepted", "is_approved", "is_valid", "is_preferred",
        "is_chosen", "is_desirable", "is_safe", "is_helpful", "is_usable", "is_clean", "is_response_correct",
        "answer_correct", "answer_is_correct", "response_is_correct", "review_result", "passed_filter", "passes_filter",
        "quality_ok", "is_high_quality", "is_faithful", "is_factual", "is_grounded", "is_ok", "accepted", "approved",
        "desirable", "usable", "keep", "valid",
    )),
    Field(kind="good", numbers=False, names=(
        "label", "correct", "good", "safe", "helpful", "preferred", "passed", "pass", "ok", "liked", "chosen",
    )),
    Field(kind="bad", names=(
        "toxic", "is_toxic", "bad", "is_bad", "incorrect", "is_incorrect", "wrong", "is_wrong", "is_rejected",
        "flagged", "is_flagged", "harmful", "is_harmful", "unsafe", "is_unsafe", "spam", "is_spam", "nsfw", "is_nsfw",
        "hallucination", "hallucinated", "has_hallucination", "is_hallucination", "is_hallucinated", "corrupt",
        "corrupted", "is_corrupted", "failed", "is_failed", "invalid", "is_invalid", "low_quality", "is_low_quality",
        "undesirable", "is_undesirable", "disliked", "truncated", "is_truncated", "is_error", "has_error",
        "needs_review", "is_broken", "broken", "offensive", "is_offensive", "is_negative", "is_noise", "noisy",
        "is_noisy", "rejected",
    )),
    Field(kind="opinion", names=(
        "verdict", "feedback", "user_feedback", "vote", "votes", "thumb", "thumbs", "opinion", "judgement", "judgment",
        "preference", "decision", "review", "review_status", "status", "finish_reason", "stop_reason", "correctness",
        "label", "labels", "quality_label",
    )),
    Field(kind="refused", where=ANYWHERE, says="calls of tools", names=(
        "tools", "tool_calls", "tool_call", "tool_call_id", "tool_use", "tool_results", "functions", "function_call",
        "function_calls",
    )),
    Field(kind="refused", where=ANYWHERE, says="tokens of a certain model", names=(
        "input_ids", "token_ids", "tokens", "attention_mask", "completion_mask", "prompt_ids", "completion_ids",
        "labels_ids", "pixel_values",
    )),
    Field(kind="refused", where=ANYWHERE, says="which parts of a text are learned", names=(
        "train_detail", "training_detail", "train_details", "train_spans", "loss_spans", "spans_to_train",
    )),
    Field(kind="refused", where=ANYWHERE, says="something other than pictures", names=(
        "point_cloud", "pointcloud", "points_3d", "depth", "depth_map", "mesh",
    )),
    Field(kind="refused", where=("message", "part"), says="a file", names=(
        "file", "files", "file_id", "file_ids", "input_file", "document", "pdf", "pdfs", "attachments",
    )),
    Field(kind="refused", where=("record",), says="a file", names=("pdf", "pdfs", "attachments", "document_file")),
    Field(kind="kept", says="the answer that was not preferred; it is not taught", names=(
        "rejected", "rejected_response", "rejected_responses", "rejected_message", "rejected_messages",
        "rejected_answer", "rejected_images", "rejected_conversations", "negative_response", "negative_responses",
        "bad_response",
    )),
    Field(kind="kept", says="a rating; which values are good is unknown", names=(
        "score", "scores", "rating", "ratings", "quality", "quality_score", "reward", "rewards", "rank", "ranking",
        "helpfulness", "toxicity", "confidence", "difficulty", "chosen_score", "rejected_score", "score_chosen",
        "score_rejected", "margin",
    )),
    Field(kind="kept", says="FineVision's rating of each turn, 1 to 5, or the least of them", names=(
        "relevance_ratings", "relevance_min", "formatting_ratings", "formatting_min", "visual_dependency_ratings",
        "visual_dependency_min", "image_correspondence_ratings", "image_correspondence_min",
    )),
    Field(kind="kept", says="thoughts before the answer; they are not taught", names=(
        "reasoning_content", "reasoning", "reasoning_details", "thinking", "thought", "thoughts", "think", "cot",
        "chain_of_thought", "scratchpad",
    )),
    Field(kind="kept", where=("message",), says="a speaker's name; it is not shown", names=("name",)),
    Field(kind="kept", says="the text is taken unchanged", names=("redacted", "is_redacted")),
    Field(kind="kept", where=("record",), says="no placeholder in the texts shows them", names=("objects",)),
)  # fmt: skip
"""The first that fits a name and a place counts, but a field of kind "good" leaves words to "opinion"."""

BAD_WORDS = frozenset({
    "bad", "reject", "rejected", "incorrect", "wrong", "dislike", "disliked", "thumbs_down", "thumbsdown", "down",
    "downvote", "downvoted", "undesirable", "fail", "failed", "unsafe", "harmful", "toxic", "spam", "invalid",
    "deleted", "removed", "discarded", "hallucinated", "hallucination", "low_quality", "refused", "error", "length",
    "max_tokens", "content_filter", "👎",
})  # fmt: skip
"""Words in an `opinion` field that say that the answer is bad, or ended early."""

OPINIONS = frozenset({"feedback", "userfeedback", "vote", "votes", "thumb", "thumbs", "opinion", "preference"})
"""Those `opinion` fields in which "negative", "no" and negative numbers are a verdict too, not a class."""

MEDIA = {
    **dict.fromkeys(("video", "videos", "movie", "movies", "videopath"), "a video"),
    **dict.fromkeys(
        ("audio", "audios", "speech", "speeches", "sound", "sounds", "wav", "wavs", "voice", "music", "audiopath"),
        "audio",
    ),
}
"""Words in the name of a field that holds something other than a picture: `video`, `video_path`, `audioUrl`."""

MEDIA_ASIDE = frozenset({
    "id", "ids", "title", "caption", "length", "duration", "fps", "category", "topic", "seconds", "time", "start",
    "end", "width", "height", "source", "dataset", "type", "url", "name",
})  # fmt: skip
"""Last words of a name that only describes a video or a sound: `video_id`."""

MEDIA_ENDINGS = {
    **dict.fromkeys(("mp4", "avi", "mov", "mkv", "webm", "m4v", "mpg", "mpeg", "wmv", "flv", "3gp"), "a video"),
    **dict.fromkeys(("wav", "mp3", "flac", "ogg", "m4a", "aac", "opus", "wma"), "audio"),
    **dict.fromkeys(("pdf", "docx", "pptx", "ply", "pcd", "obj", "glb"), "a document"),
}
"""File extensions of other media."""

PICTURE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "jp2", "avif", "heic", "svg")

MODALITY_NAMES = frozenset({"type", "datatype", "modality", "modalities", "mediatype", "inputtype", "taskmodality"})
"""Fields of a record whose word may say that it is about a video or a sound."""

IMAGE_NAMES = (
    "images", "image", "image_path", "image_paths", "image_file", "image_files", "image_url", "image_urls", "img",
    "imgs", "img_path", "img_paths", "picture", "pictures", "photo", "photos",
)  # fmt: skip
"""Fields of a record that name its pictures; the first that names any counts."""

SPEAKERS = {
    "human": "human", "user": "human", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bard": "assistant", "bing": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant",
    "prompter": "human", "system": "system", "developer": "system",
}  # fmt: skip
"""Speakers by the names that other projects use. Tools, functions and observations are not part of a sample."""
