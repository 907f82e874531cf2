"""Chat turns as token ids: the reference's ids and masks to the letter."""

from __future__ import annotations

import re

import pytest

from polite_flamingo.flamingo.model.tokenization import LegacyLlamaTokenizer
from polite_flamingo.packing.chat_turns import Exchange, encode
from polite_flamingo.prompts import SYSTEM
from tests.support.reference import SHARED, golden


class Words:
    """The reference fixture's tokenizers of whole words."""

    pad_id, eos_id, end_of_chunk_id, image_id = 0, 2, 3, 4

    def __init__(self, vocabulary: dict[str, int], pattern: str, begins: bool):
        self._ids, self._pattern = vocabulary, re.compile(pattern)
        self.begin_ids = [1] if begins else []
        self.special_ids = {0, 1, 2, 3, 4}

    def __len__(self) -> int:
        return len(self._ids)

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        return [*(self.begin_ids if begin else []), *(self._ids[word] for word in self._pattern.findall(text))]


def guanaco(instruction: str, beginning: str) -> str:
    """The fixture's template: like ours, but without `<|endofchunk|>` after images."""
    return f"{beginning}### Human: {instruction}\n### Assistant: "


@pytest.mark.parametrize("number", range(13))
def test_the_references_ids_and_loss_masks_to_the_letter(number):
    fixture = golden("multiturn.json")
    run = fixture["runs"][number]
    name = run["tokenizer"]
    if name.startswith("word"):
        tokenizer = Words(fixture["vocab"][name], fixture["word_pattern"], begins=name == "word_bos")
    else:
        tokenizer = LegacyLlamaTokenizer(SHARED / "reference" / "tiny_llama_tokenizer.model")
    beginning = SYSTEM + "\n" if run["template"] == "guanaco" else ""
    for item in run["items"]:
        said = zip(item["instructions"], item["targets"], strict=True)
        turns = encode(
            [
                Exchange(
                    prompt=guanaco(asked, "\n" if place else beginning), target=target, images=asked.count("<image>")
                )
                for place, (asked, target) in enumerate(said)
            ],
            tokenizer,
            bos="every",
        )
        ids = [token for turn in turns for token in (*turn.prompt, *turn.target)]
        mask = [learned for turn in turns for learned in [0] * len(turn.prompt) + [1] * len(turn.target)]
        assert (ids, mask) == (item["raw_input_ids"], item["raw_target_mask"])
        length = run["max_length"]  # the reference cuts and pads its samples; our rows are never too long
        fill = [0] * max(0, length - len(ids))
        assert [*ids[:length], *fill] == item["input_ids"]
        assert [*mask[:length], *fill] == item["target_mask"]
        learned = [one if kept else -100 for one, kept in zip(ids, mask, strict=True)][:length]
        assert [*learned, *(-100 for _ in fill)] == item["labels"]
