"""Write the dataset card: the README.md of an output folder, which explains the data without the report."""

from __future__ import annotations

import dataclasses
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from polite_flamingo.cost import Cost
from polite_flamingo.filters.thresholds import CHECKS, KEEP_TURNS, REJECTIONS, Thresholds, not_compared, not_scored
from polite_flamingo.formatting import fixed, money, table
from polite_flamingo.selection.statistics import KEPT, UNKNOWN, DatasetCounts, Statistics
from polite_flamingo.storage.provenance import NOTHING, Annotations
from polite_flamingo.storage.run_info import RunInfo

DATA_FILES = ("configs:", "- config_name: default", "  data_files:", "  - split: train")
"""Tells `load_dataset` which files to load. It would otherwise guess, and load scored and quarantined rows too."""

FILES = """\
| file | what it holds |
|---|---|
| `parquet/*.parquet` | kept samples, one per row, with unchanged images: what `load_dataset` reads, see below |
| `pf1m/*.tar` | the same as WebDataset: `KEY.json` (text, scores), `KEY.0.jpg`, `KEY.1.jpg` … (unchanged images) |
| `pf1m.json` | the same as records of PF-1M; image paths are relative to this folder |
| `llava.json`, `dataset_info.json` | records for LLaVA and LLaMA-Factory; those with several `images` have no `image` |
| `images/` | the image files that these records name |
| `verdicts/NAME.jsonl` | every filter's verdict on every scored sample, including rejected ones |
| `scored/NAME.tar` | every rewritten sample with all scores, to select again with other thresholds and no model |
| `quarantine/NAME.jsonl` | what could not be read or processed, with reasons |
| `report.html`, `stats.json` | a page about the run, and its figures |
"""

LOADING = """\
```python
from datasets import load_dataset

rows = load_dataset("THIS_FOLDER", split="train")  # reads parquet/; the images of a row are rows[0]["images"]
rows = load_dataset("webdataset", data_files="THIS_FOLDER/pf1m/*.tar", split="train")  # rows[0]["0.jpg"] …

import glob, webdataset

rows = webdataset.WebDataset(sorted(glob.glob("THIS_FOLDER/pf1m/*.tar")), shardshuffle=False).decode("pil")
```

- `instruction` has an `<image>` in each image's place, `response` is the raw annotation, `rewritten` the polite one; in
  the tars, `json` has them as `turns` and `rewritten`. `scores`, `meta` and `provenance` are JSON text:
  `json.loads(row["scores"])`.
- Conversations: `messages` has all turns, `turn_notes` their scores (JSON text), in the tars `json["turns"]`; the three
  columns above are of the first one.
- In the tars every image is called .jpg, whatever its format (`json["images"]` tells): libraries take their columns
  from names, and decoders go by content. If rows have different numbers of images, tars with more of them come first by
  name: keep that order for `datasets`, which takes its columns from the first tar.
- Images are the bytes of their source. Pillow alone cannot open all of them: HEIC needs
  `pillow_heif.register_heif_opener()`, a PNG with megabytes of text or profile needs
  `PIL.PngImagePlugin.MAX_TEXT_CHUNK = 1 << 30`.
"""

LICENCE = """\
Annotations and images keep the licences of the datasets they come from, see each dataset's own page. The
rewritten texts derive from them and from the models named above, whose terms also apply. The software that made this
folder is under Apache-2.0, which does not cover the data.
"""


def _how_made(run: RunInfo) -> str:
    """Return how the responses came about, up to the number of annotations."""
    if run.rewriter == "none":
        return "responses that are annotations as they were, chosen from"
    by = next(
        (
            _line(model.name)
            for model in run.models
            if model.role == "rewriter" or (run.rewriter == "vllm" and model.role == "rewriter 1")
        ),
        "",
    )
    after = f"{by}, as Polite Flamingo does" if by else "Polite Flamingo"
    return f"polite responses, rewritten by {after} (arXiv 2307.01003) from"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a card says of its folder: files for `load_dataset`, a table of all files, how to load them, a remark."""

    data_files: str = "parquet/*.parquet"
    files: str = FILES
    loading: str = LOADING
    remark: str = ""


OUTPUT = Contents()
"""An output folder."""


def card(
    statistics: Statistics, thresholds: Thresholds, run: RunInfo, annotations: Annotations = NOTHING,
    contents: Contents = OUTPUT, cost: Cost | None = None,
) -> str:  # fmt: skip
    """Return the card as Markdown; its front matter is for dataset hubs.

    Args:
        statistics: the selection's statistics.
        thresholds: the selection's thresholds.
        run: the run that made the samples.
        annotations: counts of annotation records before the build, if known.
        contents: what is in the folder.
        cost: what the models consumed.
    """
    assert len(dataclasses.fields(thresholds)) == len(CHECKS) + 3, "every threshold is in the table"
    total = statistics.total()
    warning = run.world.warning(statistics.of_another_world()) if run.world else ""
    sources = sum(name != UNKNOWN for name in statistics.datasets)
    values = [(check, getattr(thresholds, check.name)) for check in CHECKS]
    polite = "–" if thresholds.polite_already is None else f"{thresholds.polite_already:g}"
    others = [
        ["clip_single", str(thresholds.clip_single).lower(), "whether CLIPScore judges single paragraphs"],
        ["polite_already", polite, "reward from which an annotation may stay unchanged"],
        ["keep_turns", thresholds.keep_turns, KEEP_TURNS[thresholds.keep_turns]],
    ]
    lines = [
        "---",
        "task_categories: [image-to-text, visual-question-answering]",
        "language: [en]",
        f"size_categories: [{_size(total.kept)}]",
        *([*DATA_FILES, f"    path: {contents.data_files}"] if total.kept and contents.data_files else []),
        "---",
        f"# {_line(run.title)}",
        "",
        f"{total.kept:,} instructions with {_how_made(run)} "
        f"{total.rows + annotations.before:,} raw annotations of {sources} datasets, and filtered.",
        f"Mean reward: annotations {fixed(total.reward_raw.value)}, kept texts {fixed(total.reward_kept.value)}.",
        f"CLIPScore removed {total.paragraphs_removed:,} paragraphs from kept texts.",
        "",
        *([f"{contents.remark}\n"] if contents.remark else []),
        *(f"**{_line(line)}**\n" for line in _warnings(total, run, warning)),
        "## Counts",
        "",
        *_counts(statistics, total),
        "",
        "Every row is kept, rejected (by its first failing filter) or quarantined (could not be read or processed).",
        *_before(annotations),
        *_turns(total),
        "",
        "## How it was made",
        "",
        f"- started {_line(run.started)}, configuration `{_code(run.config_hash)}`",
        f"- command: `{_code(run.command)}`",
        *(f"- {_line(m.role)}: `{_code(m.name)}` (fingerprint `{_code(m.fingerprint)}`)" for m in run.models),
        *(f"- {line}" for line in cost_lines(cost, total.kept)),
        f"- versions: {_line(', '.join(f'{name} {version}' for name, version in run.versions.items()))}",
        "",
        "## Thresholds",
        "",
        *table(
            ["threshold", "value", "meaning"],
            [*([c.filter, "–" if v is None else f"{v:g}", f"{c.label}, {c.rule(v)}"] for c, v in values), *others],
        ),
        "",
        "## Files",
        "",
        contents.files,
        *(["## Loading", "", contents.loading] if total.kept else []),
        "## Licence",
        "",
        LICENCE,
    ]
    return "\n".join(lines).encode("utf-8", "replace").decode()


def _warnings(total: DatasetCounts, run: RunInfo, foreign: str) -> Iterator[str]:
    """Yield what a reader must know first."""
    found = (*run.about, foreign, run.note or not_compared(total.tasks), not_scored(total.not_scored))
    return (line for line in found if line)


def _counts(statistics: Statistics, total: DatasetCounts) -> Iterator[str]:
    """Yield a table with one row per dataset and one column per reason that occurred."""
    reasons = [reason for reason in REJECTIONS if total.rejected[reason]]
    rows = [*sorted(statistics.datasets.items()), ("**all**", total)]
    head = ["dataset", "rows in", "kept", *reasons, "quarantined"]
    yield from table(
        head,
        [
            [
                _line(name),
                *(f"{value:,}" for value in (counts.rows, counts.kept)),
                *(f"{counts.rejected[reason]:,}" for reason in reasons),
                f"{counts.quarantined.total():,}",
            ]
            for name, counts in rows
        ],
        right=range(1, len(head)),
    )
    if total.quarantined:
        yield ""
        reasons_of = ", ".join(f"{_line(reason)} {count:,}" for reason, count in sorted(total.quarantined.items()))
        yield f"Quarantined: {reasons_of}."


def cost_lines(cost: Cost | None, kept: int) -> Iterator[str]:
    """Yield one line per model with what it consumed, and one with the money if there are prices."""
    for model in cost.models if cost else ():
        counts = {
            "requests": model.requests, "prompt tokens": model.prompt_tokens,
            "generated tokens": model.generated_tokens, "images": model.images,
        }  # fmt: skip
        hours = {"GPU hours": model.gpu_hours, "CPU hours": model.cpu_hours}
        parts = [f"{count:,} {name}" for name, count in counts.items() if count]
        parts += [f"{count:.3f} {name}" for name, count in hours.items() if count]
        yield f"cost of {model.model}: {', '.join(parts) or 'nothing'}"
    if cost and cost.prices.known:
        each = cost.per_million(kept)
        share = "" if each is None else f", {money(each, cost.prices.currency)} per million kept samples"
        yield f"cost in money: {money(cost.money, cost.prices.currency)}{share}"


def _turns(total: DatasetCounts) -> Iterator[str]:
    """Yield a paragraph on the turns of conversations."""
    if not total.conversations:
        return
    kept = total.turns[KEPT]
    lost = [f"{count:,} {_line(reason)}" for reason, count in total.turns.most_common() if reason != KEPT]
    yield ""
    yield f"Turns of conversations: {total.turns.total():,} = {' + '.join([f'{kept:,} kept', *lost])}."


def _before(annotations: Annotations) -> Iterator[str]:
    """Yield a paragraph on the annotation records that did not become rows of the build."""
    if not annotations.before:
        return
    reasons = ", ".join(f"{_line(reason)} {count:,}" for reason, count in annotations.quarantined.items())
    parts = [f"{sum(annotations.quarantined.values()):,} were quarantined ({reasons})"] if reasons else []
    parts += [f"{annotations.left_out:,} were left out by sampling"] if annotations.left_out else []
    parts += [f"{annotations.not_read:,} are in shards that were not read here"] if annotations.not_read else []
    yield ""
    yield (
        f"Before that, at ingest: of {annotations.rows:,} annotation records of {_line(', '.join(annotations.names))}, "
        f"{'; '.join(parts)}; {annotations.rows_in:,} became rows."
    )


def _line(text: str) -> str:
    """Return a text on one line, with Markdown and HTML escaped."""
    flat = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`|[]_" else {"<": "&lt;", "&": "&amp;"}.get(c, c) for c in flat)


def _code(text: str) -> str:
    return " ".join(text.split()).replace("`", "'") or "–"


def _size(count: int) -> str:
    """Return a number of rows as one of the hub's classes: n<1K, 1K<n<10K, …"""
    classes = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M")
    return classes[bisect([10**3, 10**4, 10**5, 10**6, 10**7], count)]
