"""An input is known again by its bytes, also after it was copied between a disk and a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.location import location


@pytest.mark.parametrize("copied", ["from a bucket to a disk", "from a disk to a bucket"])
def test_a_copy_is_known_again(copied: str, tmp_path: Path, bucket: str) -> None:
    places = [location(bucket) / "a.tar", location(tmp_path) / "a.tar"]
    before, after = places if copied == "from a bucket to a disk" else reversed(places)
    before.put("some rows")
    recorded = InputFile.at(before)
    after.put("some rows")
    assert recorded.is_still_at(after)
    after.put("other row")
    assert not recorded.is_still_at(after), "of the same size"
