"""Train the tiny CLIP: an open_clip `CLIP` whose cosine says whether a sentence is true of a Shapes picture.

Sentences of many pictures share words, so in-batch negatives are often true. The grammar knows: every sentence is tried
against every scene of the batch, and a sigmoid loss learns the exact matrix. Each picture also has false sentences that
differ from the truth in one word: a prototype recognised hallucinated objects with an AUC of 0.70 to 0.84 without such
negatives, and 0.94 to 0.96 with them. Before any text, the vision transformer alone learns to name the contents of
every cell from the patch tokens, and all things from the pooled embedding; these heads are discarded. It is frozen from
then on, so a Flamingo may be trained on it while the text side learns.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from polite_flamingo.filters.paragraphs import paragraphs, pieces
from polite_flamingo.images.decoding import decode
from polite_flamingo.testbed.shapes.captions import hallucinated, random_relation
from polite_flamingo.testbed.shapes.draw import draw, encode
from polite_flamingo.testbed.shapes.grammar import BESIDE, NUMBERS, WHERE, Claim, parse, say, true_of
from polite_flamingo.testbed.shapes.scene import (
    BACKGROUNDS,
    COLOURS,
    PATTERNS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    any_scene,
)
from polite_flamingo.testbed.zoo.fitting import Checkpoint, Optimiser, mixed_precision, run, seed_everything
from polite_flamingo.testbed.zoo.pairs import random_pair
from polite_flamingo.testbed.zoo.tokens import learn_tokenizer, save_tokenizer
from polite_flamingo.torchvision_repair import repair_torchvision

SEE_STEPS = 1800
MATCH_STEPS = 3000
SEEN = 160
"""Pictures in a step that has no text."""
MEAN, STD = (0.72, 0.68, 0.66), (0.20, 0.22, 0.24)
CONFIG = {
    "model_cfg": {
        "embed_dim": 192,
        "init_logit_scale": 2.3,
        "init_logit_bias": -4.0,
        "vision_cfg": {"image_size": 96, "layers": 4, "width": 128, "head_width": 32, "patch_size": 12},
        "text_cfg": {
            "context_length": 77, "vocab_size": 0, "width": 128, "heads": 4, "layers": 3,
            "hf_tokenizer_name": "local", "pool_type": "eos", "eos_id": 2, "pad_id": 0,
            "tokenizer_kwargs": {"clean": "whitespace"},
        },
    },
    "preprocess_cfg": {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic", "resize_mode": "shortest"},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A text and what it claims; terse wordings claim the same as polite ones."""

    text: str
    claims: tuple[Claim, ...]

    def holds(self, scene: Scene) -> bool:
        """Whether every claim is true of `scene`."""
        return all(true_of(claim, scene) for claim in self.claims)


def statement(rng: random.Random, scene: Scene) -> Statement:
    """Return a random true statement about `scene`, polite or terse."""
    kind = rng.choices(
        ("item", "terse", "list", "relation", "ground", "opening", "where", "class"), (5, 3, 4, 2, 3, 2, 1, 1)
    )[0]
    thing = rng.choice(scene.things)
    if kind == "item":
        where = f" {WHERE[thing.place]}" if rng.random() < 0.7 else ""
        size = f"{thing.size} " if rng.random() < 0.8 or where else ""
        return _polite(f"There is a {size}{thing.name}{where}.")
    if kind == "terse":
        return Statement(text=thing.full_name, claims=_polite(f"There is a {thing.full_name}.").claims)
    if kind == "list":
        things = rng.sample(scene.things, rng.randint(1, len(scene.things)))
        things.sort(key=lambda t: t.cell)
        placed = rng.random() < 0.8
        words = [f"a {t.full_name}" + (f" {WHERE[t.place]}" if placed else "") for t in things]
        listed = words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
        return _polite(f"{rng.choice(('There is', 'In addition, there is'))} {listed}.")
    if kind == "relation" and len(scene.things) > 1:
        first, relation, second = random_relation(rng, scene)
        return _polite(f"The {first.name} is {BESIDE[relation]} the {second.name}.")
    if kind == "where":
        return _polite(f"The {thing.name} is {WHERE[thing.place]}.")
    if kind == "class" and len(scene.things) == 1:
        return _polite(say("class", rng.randrange(2), shape=thing.shape))
    ground = {"pattern": scene.pattern, "ground": scene.background}
    many = {"many": NUMBERS[len(scene.things)]} if len(scene.things) > 1 else {}
    if kind == "opening":
        return _polite(say("opening", **many))
    if rng.random() < 0.5:
        return _polite(say("background", **ground))
    return _polite(say("opening_ground", **many, **ground))


def _polite(text: str) -> Statement:
    claims = parse(text)
    assert claims is not None, text
    return Statement(text=text.removesuffix("."), claims=tuple(claims))  # CLIPScore cuts texts at full stops


_FAMILIES = [
    tuple(COLOURS), SHAPES, tuple(SIZES), tuple(BACKGROUNDS), PATTERNS, tuple(WHERE.values()), tuple(BESIDE.values()),
    NUMBERS[2:],
]  # fmt: skip


def near_miss(rng: random.Random, scene: Scene, other: Scene) -> Statement:
    """Return a false statement about `scene`: with a single word exchanged, or true of another scene."""
    while True:
        if rng.random() < 0.25:
            candidate = statement(rng, other)
        else:
            true = statement(rng, scene)
            family = rng.choice([f for f in _FAMILIES if any(word in true.text for word in f)] or _FAMILIES)
            present = [word for word in family if word in true.text]
            if not present:
                continue
            text = true.text.replace(rng.choice(present), rng.choice(family), 1)
            polite = text if text[0].isupper() else f"There is a {text}"
            claims = parse(polite + ".")
            if claims is None:
                continue
            candidate = Statement(text=text, claims=tuple(claims))
        if not candidate.holds(scene):
            return candidate


def pixels(scenes: list[Scene]) -> Tensor:
    """Return normalised pictures (B, 3, 96, 96). Every third one goes through JPEG, as half of the shards' do."""
    pictures = [draw(scene) for scene in scenes]
    pictures[::3] = [decode(encode(picture, "jpg")) for picture in pictures[::3]]
    stack = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])
    x = torch.from_numpy(stack).permute(0, 3, 1, 2) / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


NAMES = [f"{size} {colour} {shape}" for size in SIZES for colour in COLOURS for shape in SHAPES]


CELL_CLASSES = len(SIZES) + len(COLOURS) + len(SHAPES) + 3
"""Size, colour and shape of a cell's thing, each with a class for an empty cell."""

GROUND_CLASSES = len(BACKGROUNDS) + len(PATTERNS)


def cells_loss(logits_BKC: Tensor, scenes: list[Scene]) -> Tensor:
    """Return the classification loss of each cell's size, colour and shape; logits are (B, 9, CELL_CLASSES)."""
    loss = torch.zeros(())
    families = {"size": list(SIZES), "colour": list(COLOURS), "shape": list(SHAPES)}
    split = logits_BKC.split([len(names) + 1 for names in families.values()], -1)
    for logits, (family, names) in zip(split, families.items(), strict=True):
        target = torch.full(logits.shape[:2], len(names))
        for row, scene in enumerate(scenes):
            for thing in scene.things:
                target[row, thing.cell] = names.index(getattr(thing, family))
        weight = torch.where(target == len(names), 0.3, 1.0).flatten()
        loss = loss + (F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none") * weight).mean()
    return loss


def ground_loss(logits_BC: Tensor, scenes: list[Scene]) -> Tensor:
    """Return the classification loss of the background's colour and pattern; logits are (B, GROUND_CLASSES)."""
    ground, pattern = logits_BC.split((len(BACKGROUNDS), len(PATTERNS)), -1)
    colours = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])
    return F.cross_entropy(ground, colours) + F.cross_entropy(
        pattern, torch.tensor([PATTERNS.index(scene.pattern) for scene in scenes])
    )


class CellHeads(nn.Module):
    """Names size, colour and shape of each cell and the ground from patch tokens, and which things there are from the
    pooled embedding, whose cosine with a text must tell them apart. Used in training only."""

    def __init__(self, width: int, pooled: int):
        super().__init__()
        self.present = nn.Linear(pooled, len(NAMES) * (1 + len(PLACES)))
        self.pooled_ground = nn.Linear(pooled, GROUND_CLASSES)
        self.cell = nn.Linear(width, CELL_CLASSES)
        self.ground = nn.Linear(width, GROUND_CLASSES)

    def forward(self, x_BNC: Tensor, pooled_BE: Tensor, scenes: list[Scene]) -> Tensor:
        """Return the sum of the classification losses of patch tokens (B, N, C) and pooled embeddings (B, E)."""
        side = int(x_BNC.shape[1] ** 0.5)
        grid = x_BNC.transpose(1, 2).unflatten(2, (side, side))
        loss = cells_loss(self.cell(F.adaptive_avg_pool2d(grid, 3).flatten(2).transpose(1, 2)), scenes)
        where = torch.zeros(len(scenes), 1 + len(PLACES), len(NAMES))
        for row, scene in enumerate(scenes):
            for thing in scene.things:
                where[row, 0, NAMES.index(thing.full_name)] = 1
                where[row, 1 + thing.cell, NAMES.index(thing.full_name)] = 1
        presence = F.binary_cross_entropy_with_logits(self.present(pooled_BE), where.flatten(1), reduction="none")
        weight = torch.where(where.flatten(1) > 0, 20.0, 1.0)
        loss = loss + 4 * (presence * weight).sum() / weight.sum()
        grounds = (self.ground(x_BNC.mean(1)), self.pooled_ground(pooled_BE))
        return loss + sum((ground_loss(logits, scenes) for logits in grounds), torch.zeros(()))


def encode_texts(model: nn.Module, ids_BT: Tensor) -> Tensor:
    """Compute `CLIP.encode_text`, cut to the longest text of the batch (most fill a third of the context)."""
    length = int((ids_BT != 0).sum(1).max())
    ids = ids_BT[:, :length]
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)
    ends = (ids == 2).int().argmax(1)
    return x[torch.arange(len(x)), ends] @ model.text_projection


def patch_tokens(model: nn.Module, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the projected class token (B, E) and the patch tokens before `ln_post` (B, N, C), which Flamingo sees."""
    visual = model.visual
    x = visual._embeds(x_BCHW)
    x = visual.transformer(x)
    return visual.ln_post(x[:, 0]) @ visual.proj, x[:, 1:]


def paragraph_pair(rng: random.Random) -> tuple[Scene, str, str]:
    """Return a picture, a paragraph describing it, and a paragraph of the same description made false."""
    pair = random_pair(rng, "captioning")
    scene = pair.scenes[0]
    true, false = paragraphs(pair.polite), paragraphs(hallucinated(rng, scene, pair.polite))
    changed = [(t, f) for t, f in zip(true, false, strict=False) if t != f]
    if not changed:
        return scene, rng.choice(true), rng.choice(false[len(true) :])
    return scene, *rng.choice(changed)


def train(
    folder: Path,
    *,
    seed: int = 0,
    see: int = SEE_STEPS,
    match: int = MATCH_STEPS,
    scenes: int = 64,
    lr: float = 2e-3,
) -> None:
    """Train from scratch and save in open_clip's layout: config, weights (fp16), tokenizer.

    Two phases, each resumed from its last checkpoint in `folder/training`, which is deleted at the end:

    1. `see` steps of the vision tower alone on the contents of every cell, which need no text.
    2. `match` steps of the text tower and the vision tower's last norm and projection: a third on single statements,
       which teach what is true, the others on whole paragraphs scored by the filter's own formula, true ones against
       false ones of every picture of the batch. Only this teaches scores that can be compared between pictures, as one
       threshold does.
    """
    seed_everything(seed)
    training = folder / "training"
    tokenizer = save_tokenizer(learn_tokenizer(seed), folder, ends=True)
    config = json.loads(json.dumps(CONFIG))
    config["model_cfg"]["text_cfg"]["vocab_size"] = len(tokenizer)
    settings = dict(config["model_cfg"])
    settings["text_cfg"] = {k: v for k, v in settings["text_cfg"].items() if not k.startswith(("hf_", "tokenizer_"))}
    repair_torchvision()
    import open_clip

    model = open_clip.CLIP(**settings)
    heads = CellHeads(settings["vision_cfg"]["width"], settings["embed_dim"])
    both = nn.ModuleDict({"clip": model, "heads": heads})

    def encode_all(texts: list[str]) -> Tensor:
        clean = [" ".join(text.split()) for text in texts]  # as open_clip's tokenizer does: pieces begin with a space
        return encode_texts(model, tokenizer(clean, padding=True, return_tensors="pt")["input_ids"])

    def statements(rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        batch = [any_scene(rng) for _ in range(scenes)]
        said = []
        for row, scene in enumerate(batch):
            said += [statement(rng, scene) for _ in range(2)]
            said += [near_miss(rng, scene, batch[row - 1]) for _ in range(2)]
        truth = torch.tensor([[s.holds(scene) for s in said] for scene in batch])
        own = torch.zeros_like(truth)
        for row in range(scenes):
            own[row, row * 4 : row * 4 + 4] = True
        with mixed_precision():
            pooled, _ = patch_tokens(model, pixels(batch))
            texts = encode_all([s.text for s in said])
        v, t = F.normalize(pooled.float(), dim=-1), F.normalize(texts.float(), dim=-1)
        logits = v @ t.T * model.logit_scale.exp() + model.logit_bias
        each = F.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
        loss = each[truth].mean() + each[~truth & ~own].mean() + each[~truth & own].mean() * 1.5
        above = (logits[truth & own][:, None] > logits[~truth & own][None, :]).float().mean()
        return loss, {"match": loss.item(), "statements": above.item()}

    def whole_paragraphs(rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        triples = [paragraph_pair(rng) for _ in range(scenes)]
        cut = [pieces(text) for _, *texts in triples for text in texts]
        distinct = list(dict.fromkeys(piece for parts in cut for piece in parts))
        with mixed_precision():
            pooled, _ = patch_tokens(model, pixels([scene for scene, *_ in triples]))
            texts = encode_all(distinct)
        v, t = F.normalize(pooled.float(), dim=-1), F.normalize(texts.float(), dim=-1)
        place = {piece: i for i, piece in enumerate(distinct)}
        scores = torch.stack(
            [100 * (t[[place[piece] for piece in parts]].mean(0) @ v[row // 2]) for row, parts in enumerate(cut)]
        )
        true, false = scores[::2], scores[1::2]
        difference = true[:, None] - false[None, :]
        loss = F.softplus(-difference / 2).mean() + F.softplus(-(true - false) / 2).mean()
        return 2 * loss, {"ranking": loss.item(), "paragraphs": (difference > 0).float().mean().item()}

    def seeing(optimiser: Optimiser, i: int) -> dict[str, float]:
        rng = random.Random(f"clip-see-{seed}-{i}")
        batch = [any_scene(rng) for _ in range(SEEN)]
        with mixed_precision():
            pooled, patches = patch_tokens(model, pixels(batch))
        loss = heads(patches.float(), pooled.float(), batch)
        optimiser.step(loss)
        return {"cells": loss.item()}

    def matching(optimiser: Optimiser, i: int) -> dict[str, float]:
        rng = random.Random(f"clip-match-{seed}-{i}")
        loss, figures = whole_paragraphs(rng) if i % 3 else statements(rng)
        optimiser.step(loss)
        return figures

    def phase(name: str, parts: nn.Module, steps: int, step: Callable[..., dict[str, float]]) -> None:
        optimiser = Optimiser(parts.named_parameters(), lr=lr, steps=steps)
        checkpoint = Checkpoint(training / f"{name}.pt", both=both, optimiser=optimiser)
        print(f"{name}: {steps} steps", file=sys.stderr)
        run(steps, partial(step, optimiser), checkpoint)

    phase("see", nn.ModuleDict({"visual": model.visual, "heads": heads}), see, seeing)
    model.visual.requires_grad_(False)
    model.visual.ln_post.requires_grad_(True)
    model.visual.proj.requires_grad_(True)
    phase("match", model, match, matching)
    save(model, config, folder)
    shutil.rmtree(training)


def save(model: nn.Module, config: dict[str, object], folder: Path) -> None:
    """Write `open_clip_config.json` and `open_clip_model.safetensors` (fp16)."""
    state = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
