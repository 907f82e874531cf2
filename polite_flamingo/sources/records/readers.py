"""Makes the `records` function of datasets whose files are lists with one sample per element."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.small_files import printable_name
from polite_flamingo.sources.reading.streaming import numbered_elements
from polite_flamingo.sources.records.source import Place, Reader, Records, SourceOptions


def list_reader(read: Callable[[Path], Iterable[Any]], part: str, *fields: str) -> Reader:
    """Make the `records` function of a dataset whose files `read` reads record by record.

    Args:
        read: yields a file's records, such as `streaming.elements`.
        part: the name of the list in messages and in `meta["source"]`.
        fields: the fields to keep of each record; without any, all are kept.
    """

    def records(options: SourceOptions, scratch: Scratch) -> Records:
        for path in options.annotations:
            place = Place(file=printable_name(path), part=part)
            for number, record in enumerate(read(path)):
                yield place, number, keep_fields(record, fields) if fields else record

    return records


def elements_of(name: str) -> Callable[[Path], Iterator[Any]]:
    """Read the list `name` of a file that is an object, for `list_reader`."""
    return lambda path: (element for _, _, element in numbered_elements(path, name))


def keep_fields(record: Any, names: Iterable[str], **more: Any) -> Any:
    """Keep these fields of a record and add more; a value that is not an object is unchanged, to be refused later."""
    return {name: record[name] for name in names if name in record} | more if isinstance(record, dict) else record
