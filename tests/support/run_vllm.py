"""`PYTHON -m tests.support.run_vllm SHARED FOLDER`: rewrite with vLLM in a Python that has it.

What came of it is in FOLDER/found.json.

The model is a Qwen2-VL with random weights, made here; its texts have no sense, but pictures, turns, counts and
failures go the real way.
"""

from __future__ import annotations

import io
import json
import runpy
import sys
from pathlib import Path

from polite_flamingo.faults.bisection import Bisector
from polite_flamingo.rewriters.config import PromptConfig, VllmConfig
from polite_flamingo.rewriters.vllm import VllmRewriter
from polite_flamingo.sample import IMAGE_MARK, BadSample, Image, Sample, Turn
from polite_flamingo.usage import Usage

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>"]  # fmt: skip


def make_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer with Qwen's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL)
    tokenizer.train_from_iterator(["What is it? It is a red circle in the picture."], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    Qwen2TokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|im_end|>", pad_token="<|endoftext|>",
        bos_token="<|endoftext|>", additional_special_tokens=SPECIAL[1:],
    ).save_pretrained(folder)  # fmt: skip


def picture() -> Image:
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.new("RGB", (112, 84), "red").save(buffer, "PNG")
    return Image(extension="png", data=buffer.getvalue())


def sample(key: str, *turns: str, images: int = 0) -> Sample:
    made = [
        Turn(instruction=IMAGE_MARK * (images if number == 0 else 0) + "What is it?", response=text)
        for number, text in enumerate(turns)
    ]
    return Sample(key=key, dataset="d", task="vqa", turns=tuple(made), images=(picture(),) * images)


def main(shared: str, folder: str) -> None:
    tokenizer, model = Path(folder, "tokenizer"), Path(folder, "model")
    tokenizer.mkdir(parents=True)
    make_tokenizer(tokenizer)
    sys.argv = ["tiny_qwen2_vl.py", str(tokenizer), str(model)]
    runpy.run_path(f"{shared}/real_models/tiny_qwen2_vl.py", run_name="__main__")
    engine = {"dtype": "bfloat16", "enforce_eager": True, "max_model_len": 2048, "max_num_seqs": 4}
    prompt = PromptConfig(examples=())
    rewriter = VllmRewriter(VllmConfig(model=str(model), max_tokens=8, prompt=prompt, engine=engine))
    counted = {}
    for name, one in {
        "text": sample("d/s/0", "red"), "picture": sample("d/s/1", "red", images=1),
        "pictures": sample("d/s/2", "red", images=2), "talk": sample("d/s/3", "red", "round", images=1),
    }.items():  # fmt: skip
        usage = Usage()
        [texts] = rewriter.rewrite([one], usage)
        counted[name] = {"texts": [type(text).__name__ for text in texts], **usage}
    rows = [sample(f"d/s/{n}", "long " * (3000 if n == 5 else 1)) for n in range(4, 8)]
    bisector = Bisector(reason="rewriting_failed", max_failures_in_a_row=4)
    parts = bisector.run(lambda some: rewriter.rewrite(some, Usage()), rows)
    failed = {one[0].key: str(found) for one, found in parts if isinstance(found, BadSample)}
    rows_seen = [row.key for one, _ in parts for row in one]
    made = Path(folder, "found.tmp")
    made.write_text(json.dumps({"counted": counted, "failed": failed, "rows": rows_seen}))
    made.replace(Path(folder, "found.json"))


if __name__ == "__main__":
    main(*sys.argv[1:])
