"""Is a key found in whatever form it is sent, nothing else taken for one, and does the ring follow its file?"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from artifacts.errors import ConfigError, ServingError
from artifacts.keys import KeyFile, add_key
from server.keys import Headers, Keyring, presented_key

K = b"sk-0123456789"


def auth(value: bytes) -> tuple[bytes, bytes]:
    return (b"authorization", value)


def own(value: bytes) -> tuple[bytes, bytes]:
    return (b"x-api-key", value)


PRESENTED: list[tuple[Headers, bytes | str | None]] = [
    ([], None),
    ([(b"content-type", K)], None),
    ([auth(b"Bearer " + K)], K),
    ([auth(b"bearer " + K)], K),
    ([auth(b"BEARER   " + K + b" ")], K),
    ([own(K)], K),
    ([own(b" " + K)], K),
    ([own(b"\xff\xfe")], b"\xff\xfe"),
    ([auth(b"Bearer \xc3\xa4")], b"\xc3\xa4"),
    ([auth(b"Bearer " + K), own(K)], K),
    ([auth(b"Bearer " + K), auth(b"Bearer " + K)], K),
    ([auth(b"Bearer a b")], b"a b"),
    ([auth(b"Bearer ")], None),
    ([auth(b"Bearer")], None),
    ([own(b"")], None),
    ([auth(K)], "missing_api_key"),
    ([auth(b"Basic " + K)], "missing_api_key"),
    ([auth(b"")], "missing_api_key"),
    ([auth(b"Bearer\t" + K)], "missing_api_key"),
    ([auth(b"Bearer " + K), auth(b"Bearer x")], "invalid_api_key"),
    ([auth(b"Bearer " + K), own(b"x")], "invalid_api_key"),
    ([own(b"x"), own(K)], "invalid_api_key"),
    ([own(K), own(b"")], "invalid_api_key"),
    ([auth(b"Basic x"), own(K)], "missing_api_key"),
]


@pytest.mark.parametrize(("headers", "found"), PRESENTED, ids=[repr(headers) for headers, _ in PRESENTED])
def test_which_key_is_presented(headers: Headers, found: bytes | str | None) -> None:
    if not isinstance(found, str):
        assert presented_key(headers) == found
        return
    with pytest.raises(ServingError) as refused:
        presented_key(headers)
    assert (refused.value.status, refused.value.code) == (401, found)


@dataclass
class Ring:
    """A ring over a file, with a clock that stands."""

    path: Path
    now_s: float = 100.0
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ring = Keyring(self.path, self.told.append, lambda: self.now_s)

    def owner(self, key: str | bytes) -> str | None:
        """Whose key it is."""
        sent = key.encode() if isinstance(key, str) else key
        try:
            return self.ring.identify([auth(b"Bearer " + sent)]).entry.name
        except ServingError as error:
            assert (error.status, error.code) == (401, "invalid_api_key" if sent else "missing_api_key")
            return None

    def later(self, seconds: float = 1.0) -> None:
        self.now_s += seconds


def test_every_key_is_its_owners_and_nothing_else_is_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = {name: add_key(path, name) for name in ("alice", "bob", "carol")}
    ring = Ring(path)
    assert {name: ring.owner(key) for name, key in keys.items()} == {name: name for name in keys}
    key = keys["alice"]
    hashed = KeyFile.load(path).keys[0].sha256
    near = [key[:-1], key + "x", key.swapcase(), key[1:], "", hashed, bytes.fromhex(hashed), b"\xff" * 4096]
    assert [ring.owner(wrong) for wrong in near] == [None] * len(near)


def test_a_hash_that_begins_alike_is_not_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "alice")
    (entry,) = KeyFile.load(path).keys
    last = "0" if entry.sha256[-1] != "0" else "1"
    KeyFile(keys=(entry.model_copy(update={"sha256": entry.sha256[:-1] + last}),)).save(path)
    assert Ring(path).owner(key) is None


def test_a_file_that_is_not_there_or_damaged_keeps_the_server_from_starting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        Ring(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"keys": [')
    with pytest.raises(ConfigError, match="cannot be read"):
        Ring(tmp_path / "half.json")


def test_an_empty_ring_lets_nobody_in(tmp_path: Path) -> None:
    KeyFile().save(tmp_path / "keys.json")
    assert Ring(tmp_path / "keys.json").owner("x") is None


def test_a_new_key_opens_within_a_second_and_a_removed_one_no_longer(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    alice = add_key(path, "alice")
    ring = Ring(path)
    bob = add_key(path, "bob")
    ring.later(0.99)
    assert (ring.owner(alice), ring.owner(bob)) == ("alice", None)
    ring.later(0.01)
    assert (ring.owner(alice), ring.owner(bob)) == ("alice", "bob")
    file = KeyFile.load(path)
    file.model_copy(update={"keys": file.keys[1:]}).save(path)
    ring.later()
    assert (ring.owner(alice), ring.owner(bob)) == (None, "bob")
    assert len(ring.told) == 2


def test_the_file_is_looked_at_once_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "alice")
    ring, looks = Ring(path), list[Path]()
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **named: (looks.append(self), stat(self, **named))[1])
    for _ in range(40):
        ring.later(0.125)
        assert ring.owner(key) == "alice"
    assert len(looks) == 5


@pytest.mark.parametrize("damage", ["", "{", '{"keys": [{"name": 1}]}', None], ids=["empty", "cut", "wrong", "gone"])
def test_a_damaged_file_keeps_the_old_ring_and_says_so_once(tmp_path: Path, damage: str | None) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "alice")
    whole = path.read_text()
    ring = Ring(path)
    path.unlink()
    if damage is not None:
        path.write_text(damage)
    for _ in range(5):
        ring.later()
        assert ring.owner(key) == "alice"
    assert len(ring.told) == 1
    assert ring.told[0].startswith(f"the API keys stay as they were: {path}")
    path.write_text(whole)
    ring.later()
    assert ring.owner(key) == "alice"
    assert ring.told[1:] == [f"1 API keys from {path}"]


def test_a_file_of_the_same_size_written_in_place_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "alice")
    ring = Ring(path)
    with path.open("r+") as stream:
        stream.write(path.read_text().replace("alice", "clara"))
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    ring.later()
    assert ring.owner(key) == "clara"


def test_a_reload_forgives_no_used_rate_but_a_changed_rate_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "alice", requests_per_minute=60, burst=2)
    ring = Ring(path)
    headers = [auth(b"Bearer " + key.encode())]
    bucket = ring.ring.identify(headers).bucket
    assert bucket is not None
    bucket.take(ring.now_s)
    add_key(path, "bob")
    ring.later()
    assert ring.ring.identify(headers).bucket is bucket
    file = KeyFile.load(path)
    faster = file.keys[0].model_copy(update={"requests_per_minute": 120.0})
    file.model_copy(update={"keys": (faster, file.keys[1])}).save(path)
    ring.later()
    fresh = ring.ring.identify(headers).bucket
    assert fresh is not None
    assert (fresh is bucket, fresh.per_minute, fresh.remaining) == (False, 120.0, 2)
    assert len(ring.ring) == 2
