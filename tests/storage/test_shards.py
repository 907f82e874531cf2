"""A shard gives back what was put in, bit for bit; and whatever is done to its bytes, every row is accounted for."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.sample import REASONS, BadSample, Image, Quarantined, Sample, Turn, make_key
from polite_flamingo.storage.disk import sweep_temporary
from polite_flamingo.storage.shards import encode_record, read_shard, write_shard
from polite_flamingo.storage.tar_groups import MAX_JSON_BYTES

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sample(name: object, images: int = 1, response: str = "a red circle") -> Sample:
    return Sample(
        key=make_key("shapes", "train", name),
        dataset="shapes",
        task="captioning",
        turns=(Turn(instruction="<image>" * images + "Describe.", response=response),),
        images=tuple(Image(extension="jpg", data=f"{name}-{n}".encode() * 50) for n in range(images)),
    )


def tar(path: Path, members: list[tuple[str, bytes] | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w") as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                file.addfile(info, io.BytesIO(member[1]))
    return path


def members(*samples: Sample) -> list[tuple[str, bytes]]:
    return [
        member
        for s in samples
        for member in [
            (f"{s.key}.json", encode_record(s)),
            *((f"{s.key}.{n}.{image.extension}", image.data) for n, image in enumerate(s.images)),
        ]
    ]


def outcome(path: Path) -> list[tuple[str, str]]:
    """(key, reason) of each row; a sample's reason is ""."""
    return [(row.key, row.reason if isinstance(row, Quarantined) else "") for row in read_shard(path)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    images = draw(
        st.lists(
            st.builds(Image, extension=st.sampled_from(["jpg", "png", "jpeg"]), data=st.binary(min_size=1)), max_size=3
        )
    )
    return Sample(
        key=make_key("d", draw(st.sampled_from(["train", "val"])), draw(st.text(max_size=12))) + "x",
        dataset="d",
        task="text" if not images else "vqa",
        turns=(Turn(instruction="<image>" * len(images) + draw(texts).replace("<image>", ""), response=draw(texts)),),
        images=tuple(images),
        meta=draw(st.dictionaries(st.text(max_size=5), json_values, max_size=3)),
        rewritten=draw(st.none() | st.text(max_size=20)),
        scores=draw(st.dictionaries(st.text(max_size=5), json_values, max_size=3)),
    )


@quick
@given(st.lists(samples(), min_size=1, max_size=5, unique_by=lambda s: s.key))
def test_round_trip_is_exact_and_the_bytes_repeat(tmp_path: Path, given_samples: list[Sample]) -> None:
    a, b = tmp_path / "a.tar", tmp_path / "b.tar"
    write_shard(a, given_samples)
    write_shard(b, given_samples)
    assert read_shard(a) == given_samples
    assert a.read_bytes() == b.read_bytes()


@quick
@given(st.integers(0, 8000), st.binary(min_size=1, max_size=40))
def test_damage_anywhere_never_raises_and_loses_nothing_silently(tmp_path: Path, at: int, junk: bytes) -> None:
    good = [sample(n) for n in range(5)]
    path = tmp_path / "a.tar"
    write_shard(path, good)
    data = path.read_bytes()
    path.write_bytes(data[:at] + junk + data[at + len(junk) :])
    rows = read_shard(path)
    intact = [row for row in rows if row in good]
    assert len(intact) >= 3 or any(isinstance(row, Quarantined) for row in rows)
    assert all(row.reason in REASONS for row in rows if isinstance(row, Quarantined))


@pytest.mark.parametrize("cut", range(0, 5 * 2048, 300))
def test_truncated_shard_keeps_every_whole_row_and_says_so_once(tmp_path: Path, cut: int) -> None:
    good = [sample(n) for n in range(5)]  # 2048 bytes each: header + JSON, header + image
    path = tmp_path / "a.tar"
    write_shard(path, good)
    path.write_bytes(path.read_bytes()[:cut])
    rows = read_shard(path)
    whole = cut // 2048 + (cut % 2048 >= 1024 + 512 + len(good[0].images[0].data))
    assert rows[:-1] == good[:whole]
    assert isinstance(rows[-1], Quarantined)
    assert rows[-1].reason == ("empty_shard" if cut == 0 else "unreadable_shard" if cut < 512 else "truncated_tar")
    assert rows[-1].index == len(rows) - 1


def test_cut_between_two_rows_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [sample(0), sample(1)])
    path.write_bytes(path.read_bytes()[:2048])  # tarfile alone takes this for a complete archive
    assert [reason for _, reason in outcome(path)] == ["", "truncated_tar"]


def test_members_in_any_order_are_one_row(tmp_path: Path) -> None:
    good = [sample(n, images=2) for n in range(4)]
    jumbled = sorted(members(*good), key=lambda member: hashlib.sha256(member[0].encode()).digest())
    path = tar(tmp_path / "a.tar", jumbled)
    rows = read_shard(path)
    assert sorted(rows, key=lambda row: row.key) == good


def test_second_row_of_a_key_is_quarantined(tmp_path: Path) -> None:
    first, second = sample(1), sample(1, response="another")
    path = tar(tmp_path / "a.tar", members(first, sample(2), second))
    rows = read_shard(path)
    assert rows[:2] == [first, sample(2)]
    assert outcome(path)[2] == (first.key, "duplicate_key")


@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", "a/../../x.json", "../x"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    path = tar(tmp_path / "a.tar", [*members(sample(1)), (name, b"{}")])
    assert [reason for _, reason in outcome(path)] == ["", "unsafe_name"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused_with_their_row(tmp_path: Path, kind: bytes) -> None:
    bad = sample(1)
    link = tarfile.TarInfo(f"{bad.key}.0.jpg")
    link.type, link.linkname = kind, "/etc/passwd"
    path = tar(tmp_path / "a.tar", [members(bad)[0], link, *members(sample(2))])
    assert outcome(path) == [(bad.key, "unsafe_name"), (sample(2).key, "")]


def test_folders_and_foreign_columns_do_no_harm(tmp_path: Path) -> None:
    folder = tarfile.TarInfo("shapes")
    folder.type = tarfile.DIRTYPE
    good = sample(1)
    path = tar(tmp_path / "a.tar", [folder, *members(good), (f"{good.key}.cls", b"3")])
    assert read_shard(path) == [good]


def test_a_shard_that_was_packed_again_is_read_as_before(tmp_path: Path) -> None:
    """`tar -C folder .` on a Mac: names begin with ./, companions lie between, and nothing is in order."""
    good = [sample(n, images=2) for n in range(2)]
    names = [(f"./{name}", data) for name, data in members(*good)]
    left = [("./._x.json", b"\0\5\x16\7"), ("./.DS_Store", b"1"), ("__MACOSX/shapes/train/0.json", b"{")]
    path = tar(tmp_path / "a.tar", [left[0], names[3], names[1], left[1], names[0], *names[4:], left[2], names[2]])
    assert sorted(read_shard(path), key=lambda row: row.key) == good
    loud = [(name.replace(".jpg", ".JPG").replace(".json", ".JSON"), data) for name, data in members(sample(1))]
    assert read_shard(tar(tmp_path / "b.tar", loud)) == [sample(1)]


def test_repeated_members_never_join_the_picture_of_one_row_with_the_text_of_another(tmp_path: Path) -> None:
    (text, picture), (other_text, _) = members(sample(1)), members(sample(1, response="another"))
    other_picture = (picture[0], b"another picture")
    for order in ([text, other_text, picture, other_picture], [text, other_text, other_picture]):
        path = tar(tmp_path / "a.tar", [*order, *members(sample(2))])
        assert [reason for _, reason in outcome(path)] == ["duplicate_key", "duplicate_key", ""]


def test_names_that_are_not_utf8_can_be_written_down(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", errors="surrogateescape") as file:
        for name, data in [("\udce9.json", b"{}"), ("../\udce9.json", b"{}"), *members(sample(1))]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    rows = read_shard(tmp_path / "a.tar")
    assert [row.reason for row in rows if isinstance(row, Quarantined)] == ["bad_field", "unsafe_name"]
    for row in rows[:2]:
        assert isinstance(row, Quarantined)
        row.to_json().encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("é".encode("latin-1"), "bad_json"),
        (json.dumps({"key": "x"}).encode("utf-16"), "bad_json"),
        (b'{"key": NaN}', "bad_json"),
        (b'{"key": "\\ud800"}', "bad_json"),
        (b"[" * 200_000, "bad_json"),
        (b"1" * 5000, "bad_json"),
        (b"", "bad_json"),
        (b"[1]", "bad_field"),
        (b'"text"', "bad_field"),
        (encode_record(sample(1)).replace(b'"task"', b'"tusk"'), "bad_field"),
        (encode_record(sample(1)).replace(b'"captioning"', b"3"), "bad_field"),
        (encode_record(sample(1)).replace(b'"captioning"', b'"poetry"'), "bad_field"),
        (encode_record(sample(2)), "bad_field"),
        (encode_record(sample(1)).replace(b"a red circle", b"  "), "empty_response"),
        (encode_record(sample(1)).replace(b"a red circle", b"red " * 250_000), "text_too_long"),
        (b" " * (MAX_JSON_BYTES + 1), "text_too_long"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_json_ends_with_its_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    bad = sample(1)
    path = tar(tmp_path / "a.tar", [(f"{bad.key}.json", data), members(bad)[1], *members(sample(3))])
    assert outcome(path) == [(bad.key, reason), (sample(3).key, "")]
    record = read_shard(path)[0]
    assert isinstance(record, Quarantined)
    assert record.payload == f"{path}#{bad.key}.json"
    assert "\n" not in record.detail


def test_images_must_be_there(tmp_path: Path) -> None:
    two, gap, none, empty = sample("two", 2), sample("gap", 3), sample("none"), sample("empty")
    no_bytes = (f"{empty.key}.0.jpg", b"")
    path = tar(
        tmp_path / "a.tar",
        [*members(two)[:2], *members(gap)[:1], *members(gap)[2:], *members(none)[:1], members(empty)[0], no_bytes],
    )
    assert [reason for _, reason in outcome(path)] == ["missing_image"] * 3 + ["empty_image"]


def test_image_without_json_is_a_row_too(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [(f"{sample(1).key}.0.jpg", b"x")])
    assert outcome(path) == [(sample(1).key, "bad_json")]


def test_a_header_that_promises_the_world_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [sample(1)])
    huge = tarfile.TarInfo(f"{sample(2).key}.0.jpg")
    huge.size = 1 << 60
    path.write_bytes(path.read_bytes()[:2048] + huge.tobuf() + b"x" * 512)
    assert [reason for _, reason in outcome(path)] == ["", "image_too_large", "truncated_tar"]


def test_shards_that_are_none(tmp_path: Path) -> None:
    tar(tmp_path / "empty.tar", [])
    (tmp_path / "zero.tar").write_bytes(b"")
    (tmp_path / "text.tar").write_text("not a tar at all " * 100)
    (tmp_path / "folder.tar").mkdir()
    reasons = {p.name: [r for _, r in outcome(p)] for p in sorted(tmp_path.iterdir())}
    assert reasons == {
        "empty.tar": ["empty_shard"],
        "folder.tar": ["unreadable_shard"],
        "text.tar": ["unreadable_shard"],
        "zero.tar": ["empty_shard"],
    }


def test_concatenated_tars_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [sample(1)])
    path.write_bytes(path.read_bytes() * 2)
    assert [reason for _, reason in outcome(path)] == ["", "truncated_tar"]


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [sample(1)])
    with pytest.raises(BadSample, match="empty_response"):
        write_shard(path, [sample(2), sample(3, response=" ")])
    with pytest.raises(ValueError, match="two samples have the key"):
        write_shard(path, [sample(2), sample(2)])
    assert read_shard(path) == [sample(1)]
    assert list(tmp_path.iterdir()) == [path]


def test_sweep_removes_what_killed_writers_left(tmp_path: Path) -> None:
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored" / "a.tar.tmp-123").write_bytes(b"half")
    write_shard(tmp_path / "scored" / "b.tar", [sample(1)])
    assert [p.name for p in sweep_temporary(tmp_path)] == ["a.tar.tmp-123"]
    assert [p.name for p in (tmp_path / "scored").iterdir()] == ["b.tar"]


def test_the_webdataset_library_reads_our_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    good = [sample(n, images=n) for n in range(3)]
    write_shard(tmp_path / "a.tar", good)
    rows = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [row["__key__"] for row in rows] == [s.key for s in good]
    assert [json.loads(row["json"]) for row in rows] == [s.to_record() for s in good]
    assert rows[2]["1.jpg"] == good[2].images[1].data
