"""Is a key never stored, never lost by two who add one, and never added where the file says no?"""

from __future__ import annotations

import hashlib
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ConfigError
from artifacts.files import write_text_atomically
from artifacts.keys import KEY_PREFIX, KeyFile, add_key, key_sha256

HASH = "0" * 64


def test_a_new_key_is_in_the_file_as_a_hash_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    key = add_key(path, "alice", "control", 90.5, 7)
    assert key.startswith(KEY_PREFIX)
    assert key not in path.read_text()
    (entry,) = KeyFile.load(path).keys
    assert entry.sha256 == key_sha256(key) == hashlib.sha256(key.encode()).hexdigest()
    assert (entry.name, entry.role, entry.requests_per_minute, entry.burst) == ("alice", "control", 90.5, 7)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [other.name for other in path.parent.iterdir()] == ["keys.json"]


def test_keys_differ_and_the_earlier_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = [add_key(path, f"user-{index}") for index in range(5)]
    entries = KeyFile.load(path).keys
    assert [entry.sha256 for entry in entries] == [key_sha256(key) for key in keys]
    assert len(set(keys)) == 5
    assert min(len(key) for key in keys) >= 40


def test_an_open_file_is_closed_to_others_with_the_next_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    KeyFile().save(path)
    path.chmod(0o644)
    add_key(path, "alice")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_a_killed_run_left_does_not_open_the_file(tmp_path: Path) -> None:
    left = tmp_path / "keys.json.partial"
    left.write_text("half")
    left.chmod(0o644)
    write_text_atomically(tmp_path / "keys.json", "whole", 0o600)
    assert (tmp_path / "keys.json").read_text() == "whole"
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_of_many_who_add_at_once_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda index: add_key(path, f"user-{index}"), range(24)))
    assert {entry.sha256 for entry in KeyFile.load(path).keys} == {key_sha256(key) for key in keys}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "alice"}, "a key named 'alice' already"),
        ({"name": "a b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "b", "requests_per_minute": 0}, "requests_per_minute"),
        ({"name": "b", "requests_per_minute": float("nan")}, "requests_per_minute"),
        ({"name": "b", "requests_per_minute": float("inf")}, "requests_per_minute"),
        ({"name": "b", "requests_per_minute": 1, "burst": 0}, "burst"),
        ({"name": "b", "burst": 5}, "burst"),
        ({"name": "b", "role": "root"}, "role"),
    ],
)
def test_what_cannot_be_added_changes_nothing(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    path = tmp_path / "keys.json"
    add_key(path, "alice")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=told):
        add_key(path, **options)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": [{"name": "a"}]}', '{"keys": [], "more": 1}'])
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        add_key(path, "alice")
    assert path.read_text() == content


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="could not be written"):
        add_key(tmp_path / "file" / "keys.json", "alice")


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({"name": "a", "sha256": HASH}, {"name": "a", "sha256": "1" * 64}, "`name`.*repeated: a"),
        ({"name": "a", "sha256": HASH}, {"name": "b", "sha256": HASH}, "`sha256`.*repeated: 000"),
    ],
)
def test_every_name_and_every_key_is_there_once(
    tmp_path: Path, first: dict[str, str], second: dict[str, str], told: str
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [first, second]}))
    with pytest.raises(ConfigError, match=told):
        KeyFile.load(path)


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "sk-secret"])
def test_a_hash_is_64_small_hexadecimal_digits(digest: str) -> None:
    with pytest.raises(ConfigError, match="sha256"):
        KeyFile.parse({"keys": [{"name": "a", "sha256": digest}]}, "the test's file")
