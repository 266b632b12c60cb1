"""The verb `key`: the key is on the last line of stdout, once, and nowhere else; bad input is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.keys import KeyFile, key_sha256
from tests.prunebench.conftest import Verb


def test_a_key_is_printed_once_and_its_hash_kept(verb: Verb, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = verb("key", "alice", "--requests-per-minute", "600", "--burst", "20", "--file", path)
    second = verb("key", "ops", "--role", "control", "--file", path)
    made = [outcome.result["key"] for outcome in (first, second)]
    assert [(outcome.code, outcome.stderr) for outcome in (first, second)] == [(0, ""), (0, "")]
    assert first.result == {"name": "alice", "role": "ask", "file": str(path), "key": made[0]}
    assert second.result["role"] == "control"
    entries = KeyFile.load(path).keys
    assert [entry.sha256 for entry in entries] == [key_sha256(key) for key in made]
    assert [(entry.requests_per_minute, entry.burst) for entry in entries] == [(600, 20), (None, None)]
    assert not any(key in path.read_text() for key in made)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("alice",), "has a key named 'alice' already. Choose another name"),
        (("a/b",), "the new key is not a valid KeyEntry: name"),
        (("bob", "--requests-per-minute", "-1"), "requests_per_minute"),
        (("bob", "--burst", "3"), "`burst` belongs to `requests_per_minute`"),
        (("bob", "--role", "root"), "root"),
    ],
)
def test_bad_input_is_one_sentence_and_no_key(
    verb: Verb, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    path = tmp_path / "keys.json"
    verb("key", "alice", "--file", path)
    before = path.read_bytes()
    outcome = verb("key", *arguments, "--file", path)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert told in outcome.stderr
    assert path.read_bytes() == before
