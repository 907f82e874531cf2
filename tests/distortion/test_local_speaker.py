"""The robot as a model in this process: a tiny random one, which speaks nonsense by the rules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.distortion.config import DistortionConfig, LocalConfig, Shares
from polite_flamingo.distortion.llm_prompts import CLOSING, parse_quotation, plain_prompt, prefill
from polite_flamingo.distortion.local_speaker import LocalSpeaker, closing_tokens
from polite_flamingo.distortion.pairs import distort
from polite_flamingo.distortion.speakers import SpeakerRequest
from polite_flamingo.prompts import SYSTEM
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.torchvision_repair import repair_torchvision
from tests.support.good_responses import good

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% if not loop.last %}</s>{% endif %}{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA of some thousand weights that loves quotation marks, with a tokenizer of bytes and a few words."""
    path = tmp_path_factory.mktemp("robot")
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    inner.train_from_iterator(['He said "no." The red house is big. A dog is brown."'] * 30, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    repair_torchvision()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=1600, initializer_range=0.3, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


def config(folder: Path, **changes: object) -> DistortionConfig:
    settings = {"max_new_tokens": 60, "temperature": 2.0, "top_p": 1.0, **changes}
    local = LocalConfig(model=str(folder), batch=3, device="cpu", dtype="float32")
    shares = Shares(llm=1, text=0, captions_and_boxes=0)
    return DistortionConfig(speaker="local", local=local, shares=shares, **settings)  # type: ignore[arg-type]


def requests(count: int) -> list[SpeakerRequest]:
    commands = ["", *COMMANDS]
    return [
        SpeakerRequest(seed=str(n), instruction="Who?", response="It is Anna. " * (1 + n % 4), command=commands[n % 25])
        for n in range(count)
    ]


def test_texts_end_at_their_quotation_mark_and_do_not_depend_on_their_neighbours(folder: Path) -> None:
    speaker = LocalSpeaker(config(folder, max_new_tokens=200))
    said = speaker.say(requests(10))
    finished = [text for text in said if text]
    assert len(finished) >= 3, "a random model draws a mark now and then"
    assert not any(mark in str(text) for text in finished for mark in CLOSING)
    assert said == speaker.say(requests(10)), "the same again"
    assert [speaker.say([request])[0] for request in requests(10)] == said, "alone or among others"
    assert len(set(finished)) == len(finished), "each by its own seed"


def test_draws_follow_the_models_probabilities(folder: Path) -> None:
    """The noise that each row gets of its own draws as softmax would: the mean over 600 rows, at one position."""
    from polite_flamingo.distortion.local_speaker import _SeededGumbelNoise

    logits = torch.tensor([0.0, 1.0, 2.0]).log_softmax(0)
    drawn = _SeededGumbelNoise([f"row {n}" for n in range(600)])(torch.zeros(600, 1), logits.expand(600, 3)).argmax(1)
    shares = torch.bincount(drawn, minlength=3) / 600
    assert torch.allclose(shares, logits.exp(), atol=0.08)


def test_greedy_is_what_generate_says(folder: Path) -> None:
    speaker = LocalSpeaker(config(folder, temperature=0.0, max_new_tokens=20))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    (request,) = requests(1)
    ids = tokenizer(plain_prompt(request), return_tensors="pt")
    made = model.generate(**ids, max_new_tokens=20, do_sample=False, pad_token_id=1)[0, ids["input_ids"].shape[1] :]
    assert speaker.say([request]) == [parse_quotation(tokenizer.decode(made, skip_special_tokens=True))]


def test_a_model_with_a_chat_template_is_spoken_to_by_it(folder: Path, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    speaker = LocalSpeaker(config(tmp_path))
    text = tokenizer.decode(speaker._ids(requests(2)[1]))
    assert text.startswith("<system>") and text.count("</s>") == 4 and "###" not in text
    assert text.endswith(f"<assistant>{prefill('no_punctuation')}"), "the turn is left open"


REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
DROPS = TEMPLATE.replace("%}<{{", "%}{% if m['role'] != 'system' %}<{{").replace("{% endfor", "{% endif %}{% endfor")


@pytest.mark.parametrize("template", [REFUSES + TEMPLATE, DROPS], ids=["refuses", "drops"])
def test_where_a_template_has_no_system_role_its_text_stands_before_the_first_instruction(
    folder: Path, tmp_path: Path, template: str
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    speaker = LocalSpeaker(config(tmp_path, max_new_tokens=4))
    assert speaker.wording == "begun turn, system text in the first turn"
    text = tokenizer.decode(speaker._ids(requests(2)[1]))
    assert text.startswith(f"<user>{SYSTEM}\n\nWho?</s><assistant>") and text.endswith(prefill("no_punctuation"))
    (said,) = speaker.say(requests(1))
    assert isinstance(said, str)

    tokenizer.chat_template = TEMPLATE + "{{ raise_exception('No chats.') }}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"chat template cannot be used \(No chats\.\)"):
        LocalSpeaker(config(tmp_path))


def test_what_does_not_fit_the_window_is_refused_alone(folder: Path) -> None:
    long = SpeakerRequest(seed="x", instruction="Who?", response="Anna " * 900)
    answers = LocalSpeaker(config(folder)).say([long, *requests(2)])
    assert isinstance(answers[0], BadSample) and answers[0].reason == "text_too_long"
    assert all(isinstance(answer, str) for answer in answers[1:])


def test_every_token_with_a_mark_in_it_closes(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    closing = set(closing_tokens(tokenizer).tolist())
    holds = {token for token in range(len(tokenizer)) if '"' in tokenizer.decode([token])}
    assert len(holds) >= 2 and holds <= closing


def test_pairs_name_the_model_and_an_absent_one_is_refused(folder: Path, tmp_path: Path) -> None:
    rows = distort([good(n) for n in range(6)], config(folder, draws=6))
    pairs = [row for row in rows if isinstance(row, Sample)]
    assert pairs and {row.provenance["distortion"]["speaker"] for row in pairs} == {str(folder)}
    with pytest.raises(ValueError, match="cannot be loaded"):
        LocalSpeaker(config(tmp_path / "none"))
