"""What the card of an export says beside the counts: its files, and how a trainer loads them."""

from __future__ import annotations

from collections.abc import Mapping

from polite_flamingo.exports.formats import Export, Format
from polite_flamingo.selection.card import Contents

_TABLE = "| file | what it holds |\n|---|---|\n"
_IMAGES = "| `images/` | the image files that the records name, unchanged |\n"
_LAST = "| `export.json` | what was exported, written last: an export without it is not finished |\n"

_PARQUET = """\
| `data/*.parquet` | kept samples, one per row, with unchanged images |
"""
_LOAD_PARQUET = """\
```python
from datasets import load_dataset

rows = load_dataset("THIS_FOLDER", split="train")  # rows[0]["images"] are pictures
```

`messages` has the conversation, with an `<image>` in each picture's place; `response` is the raw annotation of the
first turn and `rewritten` the polite one. `scores`, `meta` and `provenance` are JSON text.
"""

_WEBDATASET = """\
| `data/*.tar` | WebDataset: `KEY.json` (text, scores), `KEY.0.jpg`, `KEY.1.jpg` … (unchanged images) |
"""
_LOAD_WEBDATASET = """\
```python
import glob, webdataset

rows = webdataset.WebDataset(sorted(glob.glob("THIS_FOLDER/data/*.tar")), shardshuffle=False).decode("pil")
```

Every image is called .jpg whatever its format: decoders go by content. Rows of one tar have the same number of images;
tars with more of them come first by name, because `datasets` takes its columns from the first tar.
"""

_LLAVA = """\
| `llava.json` | one list of records for LLaVA's trainer; those with several `images` have no `image` |
"""
_LOAD_LLAVA = """\
```
--data_path THIS_FOLDER/llava.json --image_folder THIS_FOLDER
```
"""

_SHAREGPT = """\
| `data/*.jsonl` | one record per line: `messages` and `images` |
| `dataset_info.json` | the description that LLaMA-Factory reads |
"""
_LOAD_SHAREGPT = """\
```yaml
dataset_dir: THIS_FOLDER
media_dir: THIS_FOLDER
dataset: polite_flamingo
```
"""

_OPENAI = """\
| `data/*.jsonl` | one record per line: `messages`, whose pictures are parts of type `image_url` |
"""
_LOAD_OPENAI = """\
Each line's `messages` can be sent to a chat server that speaks OpenAI's protocol, or to a fine-tuning API. Responses
with `"weight": 0` are context that is not to be learned.
"""

_PAIRS = """\
| `data/*.parquet` | preference pairs: `prompt`, `chosen` (polite), `rejected` (the raw annotation), `images` |
"""
_LOAD_PAIRS = """\
```python
from datasets import load_dataset
from trl import DPOTrainer

pairs = load_dataset("THIS_FOLDER", split="train")
trainer = DPOTrainer(model, train_dataset=pairs, processing_class=processor)
```

A conversation has a pair per turn; its prompt is the conversation so far, with polite responses. Turns whose polite
response is the annotation have none.
"""

DESCRIPTIONS: Mapping[Format, tuple[str, str, str]] = {
    "parquet": (_PARQUET, _LOAD_PARQUET, "data/*.parquet"),
    "webdataset": (_WEBDATASET, _LOAD_WEBDATASET, "data/*.tar"),
    "llava": (_LLAVA, _LOAD_LLAVA, ""),
    "sharegpt": (_SHAREGPT, _LOAD_SHAREGPT, "data/*.jsonl"),
    "openai": (_OPENAI, _LOAD_OPENAI, "data/*.jsonl"),
    "pairs": (_PAIRS, _LOAD_PAIRS, "data/*.parquet"),
}
"""Format -> its files, how they are loaded, and those for `load_dataset`."""


def contents_of(name: Format, export: Export) -> Contents:
    """Describe a finished export for its card."""
    files, loading, data_files = DESCRIPTIONS[name]
    return Contents(
        data_files=data_files,
        files=_TABLE + files + (_IMAGES if export.images else "") + _LAST,
        loading=loading,
        remark=f"{counts_of(name, export)}.",
    )


def counts_of(name: Format, export: Export) -> str:
    """Return one line of counts, which add up to the kept samples."""
    total = export.samples + sum(export.left_out.values())
    parts = [f"{export.records:,} {'pairs' if name == 'pairs' else 'records'} of {export.samples:,} samples"]
    parts += [f"{count:,} left out ({reason})" for reason, count in sorted(export.left_out.items())]
    if export.unmarked:
        parts.append(f"{export.unmarked:,} responses are context, which this format cannot say, so trainers learn them")
    return f"{total:,} kept samples as {name}: {'; '.join(parts)}"
