"""LLaMA-Factory's folder of datasets: `dataset_info.json` says where each lies and how its columns are called.

    "mllm_demo": {file_name: "mllm_demo.json", formatting: "sharegpt",
                  columns: {messages: "messages", images: "images"},
                  tags: {role_tag: "role", content_tag: "content", user_tag: "user", assistant_tag: "assistant"}}

The columns and tags get the names of `record_layouts.py`, and `llava.py` does the rest. `--extra dataset=NAME` chooses;
by default all that name a file are read. Datasets that name a hub instead are not fetched. `num_samples` and `split` of
an entry are not obeyed. A column that `columns` does not name keeps its own name, and is read or kept as any field is.

An annotation other than such a folder is read as `llava` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from polite_flamingo.sources.datasets.conversations import identify, noted
from polite_flamingo.sources.datasets.llava import OWN_IMAGES, OWN_TASKS, TASK_EXTRA
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.streaming import only_value
from polite_flamingo.sources.records.annotation_files import files_at
from polite_flamingo.sources.records.file_records import records_of
from polite_flamingo.sources.records.messages import read_conversation
from polite_flamingo.sources.records.source import Records, Source, SourceOptions, extra_choice

INFO = "dataset_info.json"

COLUMNS = {
    "messages": "conversations", "prompt": "instruction", "query": "input", "response": "output", "history": "history",
    "system": "system", "tools": "tools", "images": "images", "videos": "videos", "audios": "audios",
    "chosen": "chosen", "rejected": "rejected", "kto_tag": "kto_tag",
}  # fmt: skip
"""What LLaMA-Factory calls a column, and the field that `read_conversation` knows."""

ROLES = {"user_tag": "human", "assistant_tag": "gpt", "system_tag": "system", "observation_tag": "observation",
         "function_tag": "function_call"}  # fmt: skip
"""What LLaMA-Factory calls a role, and its default name, which `read_conversation` knows, or refuses by name."""


@dataclass(frozen=True)
class Dataset:
    """An entry of `dataset_info.json`: what its columns and roles are called in the fields that we read."""

    name: str
    file: str
    fields: Mapping[str, str]
    role_field: str
    content_field: str
    roles: Mapping[str, str]

    @staticmethod
    def of(name: str, entry: Mapping[str, Any], where: Path) -> Dataset:
        """Read an entry that names a file. Raises `SourceError` if its fields are not as documented."""
        columns, tags = entry.get("columns") or {}, entry.get("tags") or {}
        file = entry["file_name"]
        strings = [file, *(columns.values() if isinstance(columns, dict) else [None])]
        strings += tags.values() if isinstance(tags, dict) else [None]
        if not all(isinstance(one, str) for one in strings):
            raise SourceError(f"{where}: {name[:60]!r} must have strings in file_name, columns and tags")
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts or "\0" in file:
            raise SourceError(f"{where}: {name[:60]!r} leads out of the folder ({file[:60]!r}): copy the file into it")
        return Dataset(
            name,
            file,
            {columns[known]: ours for known, ours in COLUMNS.items() if known in columns},
            tags.get("role_tag", "from"),
            tags.get("content_tag", "value"),
            {tags.get(known, ours): ours for known, ours in ROLES.items()},
        )

    def renamed(self, record: Any) -> Any:
        """Return a record with the fields' and roles' names that we read; what is not an object unchanged."""
        if not isinstance(record, dict):
            return record
        found = {self.fields[name]: value for name, value in record.items() if name in self.fields}
        for name, value in record.items():
            if name not in self.fields:
                found[f"column.{name}" if name in found else name] = value
        for name in ("conversations", "chosen", "rejected"):
            if isinstance(value := found.get(name), list):
                found[name] = list(map(self._message, value))
            elif value is not None:
                found[name] = self._message(value)
        return found

    def _message(self, message: Any) -> Any:
        if not isinstance(message, dict) or not {self.role_field, self.content_field} <= message.keys():
            return message
        role, said = message[self.role_field], message[self.content_field]
        rest = {name: value for name, value in message.items() if name not in (self.role_field, self.content_field)}
        return {"from": self.roles.get(role, role) if isinstance(role, str) else role, "value": said, **rest}


def records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the records of all datasets that are chosen, renamed, and note what is kept of them or left out.

    Raises:
        SourceError: an entry is not as documented, is not there, or lies on a hub.
    """
    extra_choice(options, "task", *OWN_TASKS)
    return noted(rows(options, scratch), read_conversation, scratch)


def rows(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the records of all datasets that are chosen, renamed. Raises `SourceError` as `records` does."""
    wanted = [name for name in options.extra.get("dataset", "").split(",") if name]
    for number, path in enumerate(options.annotations):
        if (path / INFO).is_file():
            for dataset in _datasets(path / INFO, wanted, scratch):
                for file in files_at(path, number, scratch, dataset.file):
                    for place, row, record in records_of(file, scratch, dataset.name):
                        yield place, row, dataset.renamed(record)
        else:
            for file in files_at(path, number, scratch):
                yield from records_of(file, scratch, "conversations")


def _datasets(info: Path, wanted: list[str], scratch: Scratch) -> Iterator[Dataset]:
    """Yield the datasets of `dataset_info.json` that are wanted, or all that name a file."""
    entries = only_value(info)
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise SourceError(f"{info} is not LLaMA-Factory's; a folder that `datasets` saved is read by --source llava")
    local = [name for name, entry in entries.items() if "file_name" in entry]
    for name in wanted:
        if name not in entries:
            there = ", ".join(entries)[:400]
            raise SourceError(f"{info} has no dataset {name[:60]!r}; it has {there}")
        if name not in local:
            raise SourceError(
                f"{info}: {name[:60]!r} lies on a hub: give its files (hf://datasets/…) to --source llava"
            )
    for name in wanted or local:
        for ignored in ("num_samples", "split"):
            if ignored in entries[name]:
                scratch.note(f"{info.name}: {name!r}: {ignored} is not obeyed")
        yield Dataset.of(name, entries[name], info)
    if not wanted and len(local) < len(entries):
        scratch.note(f"{info.name}: datasets on a hub are left out", len(entries) - len(local))


SOURCE = Source(
    name="llama_factory",
    title="LLaMA-Factory's folder of datasets",
    use="own data",
    task="dialogue",
    files="data/ (a folder with dataset_info.json and the files that it names); the folder that the paths begin in",
    published="your own",
    licence="your own",
    evidence="transcribed",
    records=records,
    identify=identify,
    build=OWN_IMAGES,
    images="optional",
    extra=TASK_EXTRA | {"dataset": "the datasets of dataset_info.json to read, separated by commas (default: all)"},
)
