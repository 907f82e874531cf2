"""The file of keys, the command that changes it, and the server that reads it meanwhile."""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from serving.http import keys
from serving.http.keys import Key, KeyRing, new_key, read_keys, write_keys

ROOT = Path(__file__).parents[3]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def command(*arguments: object) -> int:
    return keys.main([str(argument) for argument in arguments])


def made(path: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert command("new", *arguments, "--file", path) == 0
    return capsys.readouterr().out.strip()


def test_a_key_is_shown_once_and_only_its_hash_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "etc" / "keys.json"
    assert command("new", "the demo page", "--file", path, "--requests-per-minute", 60, "--days", 30) == 0
    shown = capsys.readouterr()
    secret = shown.out.strip()
    assert secret.startswith("pf-") and len(secret) == 46 and secret not in shown.err, "on stdout alone, for a pipe"
    text = path.read_text()
    assert secret not in text and secret[3:] not in text
    [key] = read_keys(path)
    assert key.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert (key.name, key.requests_per_minute, key.concurrent_requests) == ("the demo page", 60, None)
    assert key.expires > key.created and key.id in shown.err and key.id not in secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["keys.json"], "no temporary file, no lock stays behind"


def test_list_shows_all_keys_and_no_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.json"
    made(path, capsys, "one", "--concurrent-requests", 2)
    made(path, capsys, "two")
    first, second = read_keys(path)
    write_keys(path, [first, replace(second, expires="2001-01-01T00:00:00+00:00")])
    assert command("revoke", first.id, "--file", path) == 0
    capsys.readouterr()
    assert command("list", "--file", path) == 0
    table = capsys.readouterr().out
    rows = [line.split() for line in table.splitlines()]
    assert rows[1][:2] == [first.id, "revoked"] and rows[1][-2:] == ["2", "one"]
    assert rows[2][:2] == [second.id, "expired"] and "2001-01-01" in rows[2]
    assert first.sha256[:8] not in table


def test_what_goes_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.json"
    below_a_file = path / "keys.json"
    for arguments, says in (
        (("list", "--file", path), "makes one"),
        (("revoke", "key_00000000", "--file", path), "makes one"),
        (("new", "x", "--file", below_a_file), "keys.json"),
        (("list", "--file", path), 'must hold {"keys": [...]}'),
    ):
        if below_a_file in arguments:
            path.write_text("{}")
        assert command(*arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("keys: error: ") and error.count("\n") == 1 and says in error
    path.unlink()
    made(path, capsys, "x")
    assert command("revoke", "key_00000000", "--file", path) == 1
    assert "has no key key_00000000" in capsys.readouterr().err
    assert command("new", "x", "--days", "1e12", "--file", path) == 1
    assert "beyond the calendar" in capsys.readouterr().err
    for wrong in (("--days", "-1"), ("--requests-per-minute", "many"), ("--requests-per-minute", "-3")):
        with pytest.raises(SystemExit):
            command("new", "x", *wrong, "--file", path)
        assert "must be a" in capsys.readouterr().err
    assert len(read_keys(path)) == 1


def test_the_command_runs_and_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving.http.keys", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("new", "list", "revoke"))


GOOD = {"id": "key_1", "name": "n", "sha256": "0" * 64, "created": "2026-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not a JSON file"),
        ("\udcff", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("[]", "must hold"),
        ('{"keys": {}}', "must hold"),
        ([3], r"keys\[0\]: must be an object"),
        ([GOOD | {"secret": "pf-marker"}], r"keys\[0\].secret: Unexpected keyword argument"),
        ([GOOD, {"id": "x"}], r"keys\[1\].name: Field required"),
        ([GOOD | {"sha256": "marker"}], r"sha256: String should match pattern '\^\[0-9a-f\]\{64\}\$'"),
        ([GOOD | {"created": "marker"}], "created: must be a date"),
        ([GOOD | {"expires": "99999-01-01"}], "expires: must be a date"),
        ([GOOD | {"expires": 5}], "expires: Input should be a valid string"),
        ([GOOD | {"id": ""}], "id: String should have at least 1 character"),
        ([GOOD | {"requests_per_minute": -1}], "requests_per_minute: Input should be greater than or equal to 0"),
        ([GOOD | {"concurrent_requests": True}], "concurrent_requests: Input should be a valid integer"),
        ([GOOD, GOOD | {"sha256": "1" * 64}], "same `id`"),
        ([GOOD, GOOD | {"id": "key_2"}], "same `sha256`"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused_in_one_line(
    content: str | list[object], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    text = content if isinstance(content, str) else json.dumps({"keys": content})
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=says) as caught:
        read_keys(path)
    assert "marker" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_survives_a_writer_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, [Key(**GOOD)])
    monkeypatch.setattr("serving.http.keys.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        write_keys(path, [])
    assert [key.id for key in read_keys(path)] == ["key_1"] and len(list(tmp_path.iterdir())) == 1


def test_a_ring_knows_its_keys_and_nothing_like_them(tmp_path: Path) -> None:
    secret, key = new_key("somebody")
    write_keys(tmp_path / "keys.json", [key])
    ring = KeyRing(tmp_path / "keys.json")
    assert ring.find(secret.encode()) == key
    for wrong in (
        b"",
        secret.encode()[:-1],
        secret.encode() + b" ",
        secret.upper().encode(),
        b"\xff\xfe",
        key.sha256.encode(),
    ):
        assert ring.find(wrong) is None


def test_keys_added_and_revoked_count_within_a_second_without_a_restart(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    (first, one), (second, two) = new_key("one"), new_key("two")
    write_keys(path, [one])
    ring = KeyRing(path, clock)
    write_keys(path, [replace(one, revoked="2026-01-01T00:00:00+00:00"), two])
    assert ring.find(second.encode()) is None, "the file is looked at once a second, not at every request"
    clock.now += 1.0
    assert ring.find(second.encode()) == two
    revoked = ring.find(first.encode())
    assert revoked is not None and revoked.state(0) == "revoked"


def test_a_file_that_goes_bad_or_away_locks_nobody_out_and_is_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    (secret, one), (other, two) = new_key("one"), new_key("two")
    write_keys(path, [one])
    ring = KeyRing(path, clock)
    for breakage in (lambda: path.write_text('{"keys": [7]}'), path.unlink):
        breakage()
        clock.now += 1.0
        assert ring.find(secret.encode()) == one
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"], "said once for each change"
    write_keys(path, [two])
    clock.now += 1.0
    assert ring.find(secret.encode()) is None and ring.find(other.encode()) == two


def test_a_server_does_not_start_without_the_keys_it_was_told_to_ask_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="makes one"):
        KeyRing(tmp_path / "keys.json")


def test_a_key_expires_at_its_second() -> None:
    key = Key(**GOOD, expires="2026-01-01T00:00:10+00:00")
    assert [key.state(1767225600 + passed) for passed in (9.999, 10)] == ["active", "expired"]
    assert Key(**GOOD).state(1e12) == "active"
    assert replace(key, revoked="2026-01-01T00:00:00+00:00").state(0) == "revoked"
