"""Is a damaged folder found before an engine is started, and is its size in memory known?"""

from __future__ import annotations

import json
import struct
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from artifacts.errors import CheckpointError, ConfigError, ServingError
from server import checkpoint
from server.checkpoint import PLUGINS, checked, local_folder, require_plugin, weights_bytes
from server.memory import OVERHEAD_BYTES, Need, available_memory_bytes, require_fit


def shard(path: Path, elements: int = 6, extra: bytes = b"") -> Path:
    """A safetensors file with one bfloat16 tensor."""
    entry = {"dtype": "BF16", "shape": [2, elements // 2], "data_offsets": [0, 2 * elements]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(2 * elements) + extra)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    shard(tmp_path / "model-1.safetensors")
    shard(tmp_path / "model-2.safetensors", elements=10)
    return tmp_path


@pytest.mark.parametrize(("dtype", "size_bytes"), [("auto", 32), ("bfloat16", 32), ("half", 32), ("float32", 64)])
def test_weights_count_in_the_dtype_they_are_loaded_as(folder: Path, dtype: str, size_bytes: int) -> None:
    assert weights_bytes(folder, dtype) == size_bytes


def test_a_whole_folder_has_a_fingerprint_that_changes_with_a_byte(folder: Path) -> None:
    before = checked(folder)
    assert before.manifest is None
    assert len(before.fingerprint) == 12
    weights = folder / "model-1.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert checked(folder).fingerprint != before.fingerprint


DAMAGE = [
    (lambda data: data[:-3], "describes", "cut at the end"),
    (lambda data: data + b"x", "describes", "something appended"),
    (lambda data: b"garbage!" + data[8:], "longer than the file", "the header's length is garbage"),
    (lambda data: data[:8] + b"}" + data[9:], "not JSON", "the header is garbage"),
    (lambda data: b"", "not JSON", "empty"),
]


@pytest.mark.parametrize(("damage", "says", "what"), DAMAGE, ids=[what for *_, what in DAMAGE])
def test_a_damaged_shard_is_named(folder: Path, damage, says: str, what: str) -> None:  # type: ignore[no-untyped-def]
    broken = folder / "model-2.safetensors"
    broken.write_bytes(damage(broken.read_bytes()))
    with pytest.raises(CheckpointError, match=f"model-2.safetensors is damaged: .*{says}"):
        checked(folder)


@pytest.mark.parametrize(
    ("model_type", "known", "refused"),
    [("prunebench", False, True), ("prunebench", True, False), ("llama", False, False)],
    ids=["layers differ and no plug-in", "layers differ", "layers alike"],
)
def test_layers_that_differ_need_the_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, known: bool, refused: bool
) -> None:
    """Said before an engine needs half a minute to say that the architecture is unknown."""
    found = [EntryPoint("prunebench" if known else "other", "a:b", PLUGINS)]
    monkeypatch.setattr(checkpoint, "entry_points", lambda group: found if group == PLUGINS else [])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    if refused:
        with pytest.raises(ConfigError, match="finds no plug-in for them"):
            require_plugin(tmp_path)
    else:
        require_plugin(tmp_path)


def test_a_folder_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        checked(tmp_path)


NAMES = [
    ("org/model", True, "a hub id"),
    ("model", True, "a hub id of the old kind"),
    ("/no/such/folder", False, "an absolute path"),
    ("./no-such-folder", False, "a relative path"),
    ("~/no-such-folder", False, "a path at home"),
    ("a/b/c", False, "more than organisation and name"),
]


@pytest.mark.parametrize(("model", "hub", "what"), NAMES)
def test_a_missing_folder_is_not_taken_for_a_hub_id(model: str, hub: bool, what: str) -> None:
    if hub:
        assert local_folder(model) is None, what
    else:
        with pytest.raises(ConfigError, match="is not a folder"):
            local_folder(model)


def test_memory_is_counted_over_all_variants() -> None:
    needs = [Need("a", 10, 20), Need("b", 30, 40)]
    total_bytes = 100 + 2 * OVERHEAD_BYTES
    require_fit(needs, total_bytes)
    with pytest.raises(ServingError, match="'b' does not fit"):
        require_fit(needs, total_bytes - 1)
    with pytest.raises(ServingError, match="'a' does not fit"):
        require_fit(needs, 0)


CGROUPS = [
    (None, None, 4096_000, "no control group: what the kernel says"),
    ("max", "5", 4096_000, "no limit"),
    ("1000", "400", 600, "what the limit leaves"),
    ("99999999", "0", 4096_000, "a limit above what there is"),
]


@pytest.mark.parametrize(("limit", "used", "available_bytes", "why"), CGROUPS)
def test_available_memory(tmp_path: Path, limit: str | None, used: str, available_bytes: int, why: str) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   4000 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
    assert available_memory_bytes(tmp_path, tmp_path) == available_bytes, why
