"""Names become paths, and models become digests that change when the weights do."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from polite_flamingo import hub
from polite_flamingo.storage.bucket import Bucket
from polite_flamingo.storage.location import location


def test_zoo_and_package_names_become_paths_and_others_stay():
    assert hub.resolve("org/model") == "org/model"
    assert hub.resolve("package:polite_flamingo/sample.py").endswith("polite_flamingo/sample.py")
    with pytest.raises(FileNotFoundError, match=r"zoo:no_such_model"):
        hub.resolve("zoo:no_such_model")
    with pytest.raises(FileNotFoundError, match=r"no package 'no_such_package'"):
        hub.resolve("package:no_such_package/x")


def test_a_fingerprint_follows_the_content_and_not_the_place(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        (folder / "inner").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "inner" / "model.safetensors").write_bytes(b"weights")
    assert hub.fingerprint(str(first)) == hub.fingerprint(str(second))
    before = hub.fingerprint(str(first))
    (first / "inner" / "model.safetensors").write_bytes(b"weightz")
    changed = hub.fingerprint(str(first))
    (first / "inner" / "model.safetensors").write_bytes(b"weights")
    (first / "inner" / "model.safetensors").rename(first / "model.safetensors")
    assert len({before, changed, hub.fingerprint(str(first))}) == 3


def test_the_ends_of_a_large_file_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_FINGERPRINTED", 4)
    file = tmp_path / "x.pt"
    digests = set()
    for content in (b"aaaa....bbbb", b"aaaZ....bbbb", b"aaaa....bbbZ", b"aaaa.....bbbb", b"aaaabb", b"aaaabZ"):
        file.write_bytes(content)
        digests.add(hub.fingerprint(str(file)))
    assert len(digests) == 6
    whole = set()
    for content in (b"aaaa....bbbb", b"aaaa..Z.bbbb", b"aaaabbbb"):  # of an evaluation's input, the middle too
        file.write_bytes(content)
        whole.add(hub.fingerprint(str(file), whole=True))
    assert len(whole) == 3 and hub.fingerprint(str(file)) in whole, "as before, where the ends are all of it"


def test_a_name_that_is_nowhere_counts_by_itself():
    assert hub.fingerprint("ViT-L-14") != hub.fingerprint("ViT-B-32")
    assert hub.fingerprint("no-such-org/no-such-model") == "name:no-such-org/no-such-model"


def test_a_corrected_model_card_leaves_the_fingerprint_alone(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = hub.fingerprint(str(tmp_path))
    (tmp_path / "README.md").write_text("a card")
    (tmp_path / "figures.json").write_text("{}")
    assert hub.fingerprint(str(tmp_path)) == before
    (tmp_path / "config.json").write_text("{}")
    assert hub.fingerprint(str(tmp_path)) != before


def test_a_model_in_a_bucket_is_copied_once_and_has_the_fingerprint_of_its_files(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(hub, "_FINGERPRINTED", 4)
    files = {"config.json": b"{}", "in-side/b": b"weights of much", "in/b": b"w", "README.md": b"# a", "in.x": b"first"}
    for name, data in files.items():
        (location(tmp_path / "model") / name).put(data)
        (location(bucket) / "model" / name).put(data)
    opened = []
    streamed = Bucket.open
    monkeypatch.setattr(Bucket, "open", lambda store, *key: (opened.append(key), streamed(store, *key))[1])

    model = f"{bucket}/model"
    assert hub.fingerprint(model) == hub.fingerprint(str(tmp_path / "model"))
    assert hub.fingerprint(f"{model}/in.x") == hub.fingerprint(str(tmp_path / "model" / "in.x"))
    opened.clear()
    copy = Path(hub.resolve(model))
    assert {path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*") if path.is_file()} == files
    assert Path(hub.resolve(f"{model}/in.x")).read_bytes() == b"first" and len(opened) == len(files) + 1
    assert hub.resolve(model) == str(copy) and len(opened) == len(files) + 1, "another process finds the copy"
    (location(model) / "in.x").put(b"other")
    assert (Path(hub.resolve(model)) / "in.x").read_bytes() == b"other" and (copy / "in.x").read_bytes() == b"first"
    assert [path.name for path in copy.parent.parent.iterdir() if path.name.startswith("tmp")] == []
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        hub.resolve(f"{bucket}/nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist: correct the address"):
        hub.fingerprint(f"{bucket}/nowhere")
