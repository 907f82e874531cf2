"""Joined, the pieces are the whole text; no letter is cut, and no part of a stop string ever shows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
import sentencepiece
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models

from polite_flamingo.flamingo.engine.detokenizer import Detokenizer
from polite_flamingo.flamingo.model.tokenization import LegacyLlamaTokenizer, Tokenizer, TransformersTokenizer

TEXTS = [
    "he is running in the park",
    "naïve café, 東京 😀😀 and 👩‍👩‍👧 again",
    "  two blanks,\n\n  a new   paragraph \n",
    "😀東a京😀b",
    "a",
    " ",
    "one two three four five six seven eight nine ten " * 6,
    " " * 40 + "far away",
]


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> LegacyLlamaTokenizer:
    """Like LLaMA's: marks for blanks, and bytes for unknown letters."""
    return LegacyLlamaTokenizer(_pieces(tmp_path_factory.mktemp("legacy"), remove_extra_whitespaces=False))


@pytest.fixture(scope="module")
def squeezing(tmp_path_factory: pytest.TempPathFactory) -> LegacyLlamaTokenizer:
    """Drops all blanks at the start of what it decodes."""
    return LegacyLlamaTokenizer(_pieces(tmp_path_factory.mktemp("squeezing"), remove_extra_whitespaces=True))


def _pieces(folder: Path, **settings: object) -> Path:
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXTS[0], TEXTS[6], "a b c d e"] * 20), model_writer=buffer, vocab_size=330,
        model_type="bpe", byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, hard_vocab_limit=False,
        normalization_rule_name="identity", minloglevel=2, **settings,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(buffer.getvalue())
    return folder / "tokenizer.model"


@pytest.fixture(scope="module")
def byte_level(tiny) -> TransformersTokenizer:  # type: ignore[no-untyped-def]
    """Like GPT-2's and MPT's: every token is bytes, and a letter may be cut anywhere."""
    return TransformersTokenizer(str(tiny.folder / "lm"))


@pytest.fixture(scope="module")
def fallback(tmp_path_factory: pytest.TempPathFactory) -> TransformersTokenizer:
    """LLaMA's fast tokenizer: blank marks, bytes for the unknown, one blank dropped in front."""
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyz,"]
    fast = Fast(models.BPE({token: n for n, token in enumerate(vocabulary)}, [], unk_token="<unk>", byte_fallback=True))
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    from tokenizers import normalizers

    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<s>", eos_token="</s>")
    folder = tmp_path_factory.mktemp("fallback")
    whole.save_pretrained(folder)
    return TransformersTokenizer(str(folder))


KINDS = ["legacy", "squeezing", "byte_level", "fallback"]


def pieces(tokenizer: Tokenizer, tokens: Sequence[int], stop: Sequence[str] = ()) -> tuple[list[str], bool]:
    """Return what each token adds, what the end adds, and whether a stop string ended the text."""
    running = Detokenizer(tokenizer.decode, stop)
    seen, given = 0, []
    stopped = False
    for token in tokens:
        stopped = running.add(token)
        given.append(running.text[seen:])
        seen = len(running.text)
        if stopped:
            break
    given.append(running.end()[seen:])
    return given, stopped


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_make_the_whole(kind: str, text: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    tokens = tokenizer.encode(text)
    given, _ = pieces(tokenizer, tokens)
    assert "".join(given) == tokenizer.decode(tokens)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in given), "no letter may be cut"
    if kind != "squeezing":
        assert "".join(given) == text


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_with_its_token_and_not_at_the_end(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    tokens = tokenizer.encode(TEXTS[0])
    given, _ = pieces(tokenizer, tokens)
    assert given[-1] == ""
    assert sum(map(bool, given)) >= len(tokens) - 3, "but for the mark of the beginning and blanks that are dropped"


@pytest.mark.parametrize("kind", ["legacy", "byte_level"])
@given(data=st.data())
def test_whatever_tokens_a_model_says_the_pieces_make_the_whole(
    kind: str, data: st.DataObject, request: pytest.FixtureRequest
) -> None:
    """Including special tokens, halves of letters, and bytes that belong to no letter."""
    tokenizer = request.getfixturevalue(kind)
    tokens = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=60))
    given, _ = pieces(tokenizer, tokens)
    assert "".join(given) == tokenizer.decode(tokens)


@given(words=st.lists(st.sampled_from([*"abc,", " ", "\n", "é", "東", "😀", "👩‍👧"]), max_size=40))
@pytest.mark.parametrize("kind", KINDS[:1] + KINDS[2:])
def test_any_text_comes_back_letter_by_letter(kind: str, words: list[str], request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    tokens = tokenizer.encode("".join(words))
    given, _ = pieces(tokenizer, tokens)
    assert "".join(given) == tokenizer.decode(tokens)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(given)


@given(text=st.text("ab é😀\n", max_size=30), stop=st.lists(st.text("ab é😀\n", max_size=4), min_size=1, max_size=3))
@pytest.mark.parametrize("kind", ["legacy", "byte_level", "fallback"])
def test_a_stop_text_ends_it_and_never_shows(
    kind: str, text: str, stop: list[str], request: pytest.FixtureRequest
) -> None:
    """The cut is the same as if all tokens so far were decoded at each token."""
    tokenizer = request.getfixturevalue(kind)
    tokens = tokenizer.encode(text)
    real = [one for one in stop if one]
    expected, found = tokenizer.decode(tokens), False
    for count in range(1, len(tokens) + 1):
        known = tokenizer.decode(tokens[:count])
        places = [known.find(one) for one in real if one in known]
        if places:
            expected, found = known[: min(places)], True
            break
    given, stopped = pieces(tokenizer, tokens, stop)
    assert (("".join(given)).rstrip("\N{REPLACEMENT CHARACTER}"), stopped) == (
        expected.rstrip("\N{REPLACEMENT CHARACTER}"),
        found,
    )
    before = ""
    for piece in given:
        before += piece
        assert not any(one in before for one in real)


def test_what_may_begin_a_stop_text_waits_until_it_is_known(byte_level: TransformersTokenizer) -> None:
    decode = byte_level.decode
    letters = {letter: byte_level.encode(letter)[0] for letter in "ab#x"}
    running = Detokenizer(decode, ["###"])
    shown = []
    for letter in "a##b##x#":
        assert not running.add(letters[letter])
        shown.append(running.text)
    assert shown == ["a", "a", "a", "a##b", "a##b", "a##b", "a##b##x", "a##b##x"]
    assert running.end() == "a##b##x#", "the text ends: it was none"
    running = Detokenizer(decode, ["###"])
    assert [running.add(letters[letter]) for letter in "a###"] == [False, False, False, True]
    assert running.text == running.end() == "a"


def test_the_cost_of_a_token_does_not_grow_with_the_text(legacy: LegacyLlamaTokenizer) -> None:
    decoded = []

    def decode(tokens: Sequence[int]) -> str:
        decoded.append(len(tokens))
        return legacy.decode(tokens)

    noise = [legacy.encode("東")[-1]] * 300  # bytes that never make a letter
    for tokens, window in ((legacy.encode(TEXTS[6] * 5), 16), (noise, 64)):
        decoded.clear()
        running = Detokenizer(decode)
        for token in tokens:
            running.add(token)
        assert len(tokens) >= 300
        assert max(decoded) <= window
        assert len(decoded) <= 1.2 * len(tokens)
