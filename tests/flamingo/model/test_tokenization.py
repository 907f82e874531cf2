"""Ids as in the models' training: open_flamingo's added tokens, and blanks that the old LLaMA tokenizer dropped."""

from __future__ import annotations

import dataclasses
import io

import pytest
import sentencepiece
import transformers

from polite_flamingo.flamingo.model.tokenization import LegacyLlamaTokenizer, TransformersTokenizer, load_tokenizer
from polite_flamingo.prompts import SYSTEM, chat_prompt, rewriting_prompt


@pytest.fixture(scope="module")
def legacy(tmp_path_factory) -> LegacyLlamaTokenizer:
    """A LLaMA-like sentencepiece model of our own (BPE, byte fallback, blank mark before each text)."""
    buffer = io.BytesIO()
    sentences = [SYSTEM, chat_prompt("What is the man doing?"), "a b c d e", "he is running in the park"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=buffer, vocab_size=400, model_type="bpe", byte_fallback=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, hard_vocab_limit=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("legacy") / "tokenizer.model"
    path.write_bytes(buffer.getvalue())
    return LegacyLlamaTokenizer(path)


def test_legacy_pieces_between_special_tokens_are_stripped_and_encoded_alone(legacy):
    image, end = legacy.image_id, legacy.end_of_chunk_id
    alone = {word: legacy.encode(word)[1:] for word in ("a", "b", "c")}
    assert legacy.encode("a <image> b<image>c\n<|endofchunk|>\n a") == [
        1, *alone["a"], image, *alone["b"], image, *alone["c"], end, *alone["a"],
    ]  # fmt: skip
    assert legacy.encode("<image> \n <|endofchunk|>") == [1, image, end], "white space between two vanishes"
    assert legacy.encode("a </s> b") == [1, *alone["a"], 2, *alone["b"]]


def test_legacy_keeps_white_space_at_the_ends_of_the_text(legacy):
    with_blank, without = legacy.encode("### Assistant: "), legacy.encode("### Assistant:")
    assert with_blank[:-1] == without, "the prompt's last blank is a token of its own"


def test_legacy_ids_follow_the_vocabulary(legacy):
    size = len(legacy) - 3
    assert (legacy.pad_id, legacy.bos_id, legacy.eos_id) == (0, 1, 2)
    assert (legacy.end_of_chunk_id, legacy.image_id) == (size, size + 1)


def test_legacy_text_comes_back_without_special_tokens(legacy):
    text = rewriting_prompt("<image>What is the man doing?", "he is running")
    decoded = legacy.decode(legacy.encode(text))
    assert decoded.startswith(SYSTEM)
    assert "(Drafted Response): he is running" in decoded
    assert "<image>" not in decoded and "</s>" not in decoded


def test_legacy_needs_its_model_file(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"sentencepiece tokenizer.model, but .*tokenizer.model does not exist"):
        load_tokenizer(dataclasses.replace(tiny.config, tokenization="legacy_llama", tokenizer=str(tmp_path)))


def test_transformers_tokenizers_get_the_missing_tokens_in_open_flamingos_order(tiny, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny.folder / "lm")
    bare = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_without_added_tokens(tokenizer), bos_token="<s>", eos_token="</s>"
    )
    bare.save_pretrained(tmp_path)
    ours = TransformersTokenizer(str(tmp_path))
    size = len(bare)
    assert (ours.end_of_chunk_id, ours.image_id, ours.pad_id, len(ours)) == (size, size + 1, size + 2, size + 3)
    ids = ours.encode("a <image><|endofchunk|> b")
    assert ids.count(ours.image_id) == 1 and ids.count(ours.end_of_chunk_id) == 1
    assert ours.decode(ids) == "a  b"


def test_a_tokenizer_that_has_them_stays_as_it_is(tiny):
    ours = load_tokenizer(tiny.config)
    assert len(ours) == len(transformers.AutoTokenizer.from_pretrained(tiny.folder / "lm"))
    assert ours.decode(ours.encode("he is running, isn't he ?")) == "he is running, isn't he ?"


def test_a_text_may_be_encoded_without_its_beginning_and_no_special_token_hides_from_packing(legacy, tiny):
    for tokenizer, spelled in ((legacy, ("</s>", "<s>", "<PAD>")), (load_tokenizer(tiny.config), ("</s>", "<pad>"))):
        text = "a <image> b"
        assert tokenizer.encode(text) == [*tokenizer.begin_ids, *tokenizer.encode(text, begin=False)]
        assert not set(tokenizer.encode("he is running", begin=False)) & set(tokenizer.special_ids)
        for mark in (*spelled, "<image>", "<|endofchunk|>"):
            assert set(tokenizer.encode(f"a{mark}b", begin=False)) & set(tokenizer.special_ids), mark


def _without_added_tokens(tokenizer):
    import json

    from tokenizers import Tokenizer

    data = json.loads(tokenizer.backend_tokenizer.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] in ("<s>", "</s>", "<pad>")]
    return Tokenizer.from_str(json.dumps(data))
