"""A hint for each reason of quarantine: what to check first.

A job that quarantined all or most of its rows prints the hint for the most common reason; the quarantine file has the
rest.
"""

from __future__ import annotations

from collections.abc import Mapping

HINTS: dict[str, str] = {
    "truncated_tar": "the archives end early: were they downloaded or copied whole?",
    "unreadable_shard": "the shards cannot be read: did polite-flamingo ingest write them, and may you read them?",
    "empty_shard": "the shards hold no rows: was the job that wrote them finished?",
    "unsafe_name": "names must lead to files below --images: no '..', no absolute path elsewhere, no link out of it",
    "bad_json": "the annotations are not valid JSON: were they downloaded whole, and is it the right file?",
    "bad_field": "a field is missing or of the wrong type: --list SOURCE says what the source reads; "
    "for a table, does --columns name the right ones?",
    "duplicate_key": "the same ids occur again: is a file named twice, or is the wrong column the id?",
    "missing_image": "does --images name the right folder? It must be the one that the names in the annotations are "
    "relative to",
    "corrupt_image": "the pictures do not decode: were they downloaded whole, and are they pictures?",
    "image_too_large": "the pictures are larger than a model can use: make smaller copies of them",
    "empty_image": "the picture files have no bytes: were they downloaded whole?",
    "unsupported_image": "the files are in an unsupported format, or not pictures: the details say what they are "
    "and what to do",
    "missing_annotation": "the rows have no response to read: is it the file with the answers, and, for a table, does "
    "--columns name the right response?",
    "empty_response": "the responses are empty: is it the file with the answers, and, for a table, does --columns name "
    "the right response?",
    "excluded": "the source says that none of these responses is to be learned",
    "text_too_long": "the texts are far longer than a model reads: is the right column or field the text?",
    "unsupported": "the rows are of a kind that this source cannot read: --list shows the sources",
    "rewriting_failed": "the rewriter failed on good rows: the details give the model's error",
    "refused": "the model declined: another prompt or model may not; the details give its words",
    "answer_cut": "the model's answers end at the limit of tokens: raise its max_tokens (rewriter.endpoint, sampling, "
    "judge.endpoint), or let a model that reasons do less of it",
    "answering_failed": "the model that answers failed: is its server reachable, and does it take such requests?",
    "equal_sides": "both answers of the pairs are the same text: is the right field the rejected one?",
    "swapped_sides": "the chosen answers have the lower scores: are chosen and rejected the right way round?",
    "swapped_roles": "the human answers, or prompts end with the assistant: are the roles the right way round?",
    "bad_encoding": "texts are UTF-8 that was read as something else: write the file again as UTF-8 where it was made",
    "other_language": "the two answers of the pairs are in different scripts: do they belong together?",
    "scoring_failed": "a filter failed on good rows: the details give the model's error",
    "judging_failed": "the judge failed: is its server reachable, and does it take such requests?",
    "distortion_failed": "the model that distorts failed: is its server reachable, and does it take such requests?",
    "not_distorted": "the language model returned the responses unchanged: does it follow instructions?",
    "killed_worker": "workers were killed while they had these rows: was there enough memory?",
}
"""One line for each reason of `sample.REASONS`."""


def commonest(reasons: Mapping[str, int]) -> str:
    """Return the reason with the highest count, the first of equals; "" if there is none."""
    return max(reasons, key=reasons.__getitem__, default="")


def hint(reasons: Mapping[str, int]) -> str:
    """Return the hint for the most common reason, with its count.

    Args:
        reasons: how many rows were quarantined, by reason.

    Returns:
        One line, as "missing_image (7 of 9 quarantined): does --images name …"; "" where nothing was quarantined.
    """
    reason = commonest(reasons)
    if not reason:
        return ""
    what = HINTS.get(reason, "the quarantine file says what is wrong with each row")
    return f"{reason} ({reasons[reason]:,} of {sum(reasons.values()):,} quarantined): {what}"
