"""The walks that docs/architecture.md tells lead through the code: the files are there, and each is met on the way."""

import re

import pytest

from tests.test_architecture import ROOT, graph, modules

MOST = {"a sample": 20, "a chat request": 15, "a training row": 12}
"""Files of a walk: more, and a reader is lost."""


def walk(name: str) -> list[str]:
    """The files of a walk's numbered list, in order."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition(f"## Walk: {name}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\d+\. `([^`]+)`", section, re.MULTILINE)


@pytest.mark.parametrize("name", MOST)
def test_a_walk_is_short_and_each_file_is_imported_by_one_before_it(name: str) -> None:
    named = {str(path.relative_to(ROOT)): module for module, path in modules().items()}
    files = walk(name)
    assert 1 < len(files) <= MOST[name] and len(set(files)) == len(files), "each file is read once"
    assert [file for file in files if file not in named] == []
    met = {named[files[0]]}
    for file in files[1:]:
        assert any(named[file] in graph()[module] for module in met), f"nothing before it imports {file}"
        met.add(named[file])
