"""Levels in files are the levels in memory, bit for bit; only one base's are kept, and nothing of them stays behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from live_tensors import LiveTensors
from test_allocation_search import DENSE, QUICK, problem_of
from tiny_models import build_model, save_checkpoint
from torch import nn

from artifacts.errors import CheckpointError
from compressors.allocation import dynamic_programme, evolutionary
from compressors.allocation.problem import Problem
from compressors.arch import LayerView
from compressors.divergence import DivergenceBench
from compressors.level_building import build_levels
from compressors.level_store import FolderLevels, LevelStore, MemoryLevels, level_bytes, store_for
from compressors.levels import LevelLibrary, with_own_half
from compressors.pipeline import compress
from compressors.plan import Allocation
from compressors.request import CompressionRequest
from compressors.sequential import cut_and_repair
from compressors.surgery import keep_units
from compressors.verify import verify_variant
from compressors.workspace import Workspace

Search = Callable[[Problem], Allocation]
SEARCHES: dict[str, Search] = {
    "dynamic_programme": lambda problem: dynamic_programme.allocate(dynamic_programme.ALLOCATOR.config, problem),
    "evolutionary": lambda problem: evolutionary.allocate(QUICK, problem),
}


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LevelStore:
    kind = torch.bfloat16
    return MemoryLevels(kind) if request.param == "memory" else FolderLevels(tmp_path / "levels", kind)


def consumer(bias: bool, seed: int = 0) -> nn.Linear:
    """Rounded to bfloat16, as repaired consumers are."""
    torch.manual_seed(seed)
    linear = nn.Linear(7, 5, bias=bias).requires_grad_(False)
    for parameter in linear.parameters():
        parameter.copy_(parameter.bfloat16().float())
    return linear


@pytest.mark.parametrize("bias", [False, True])
def test_what_is_kept_is_found_with_the_same_bits(store: LevelStore, bias: bool) -> None:
    first, second = consumer(bias), consumer(bias, seed=1)
    store.keep((0, "ffn"), 7, first)
    store.keep((0, "kv"), 7, second)
    for half, wanted in (((0, "ffn"), first), ((0, "kv"), second)):
        found = store.find(half, 7)  # type: ignore[arg-type]
        assert found is not None and found.weight.dtype == torch.bfloat16
        assert torch.equal(found.weight.float(), wanted.weight)
        assert (found.bias is None) == (not bias)
        assert found.bias is None or torch.equal(found.bias.float(), wanted.bias)
    assert store.find((0, "ffn"), 6) is None and store.find((1, "ffn"), 7) is None
    store.drop()
    assert store.find((0, "ffn"), 7) is None
    store.keep((0, "ffn"), 7, first)
    assert store.find((0, "ffn"), 7) is not None


def test_files_hold_nothing_in_memory_and_go_with_their_folder(tmp_path: Path) -> None:
    (tmp_path / "levels").mkdir()
    (tmp_path / "levels" / "0000-ffn-7.safetensors").write_bytes(b"left by a killed search")
    with LiveTensors() as live:
        linear = consumer(bias=True)
        before = live.live_bytes
        files = FolderLevels(tmp_path / "levels")
        assert files.find((0, "ffn"), 7) is None
        files.keep((0, "ffn"), 7, linear)
        assert live.live_bytes == before
        assert files.find((0, "ffn"), 7) is not None
        assert live.live_bytes == before
        memory = MemoryLevels(torch.bfloat16)
        memory.keep((0, "ffn"), 7, linear)
        assert live.live_bytes == before + 2 * (7 * 5 + 5)
    files.drop()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_level_is_refused(tmp_path: Path) -> None:
    files = FolderLevels(tmp_path)
    files.keep((0, "ffn"), 7, consumer(bias=False))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="is truncated"):
        files.find((0, "ffn"), 7)


def test_the_bound_decides_where_levels_wait(tmp_path: Path) -> None:
    counts = {(0, "kv"): (1, 3), (1, "ffn"): (10,)}
    size = level_bytes(counts, {"kv": 64, "ffn": 1}, 32, torch.bfloat16)  # type: ignore[arg-type]
    assert size == 2 * 32 * (64 + 192 + 10)
    limit = 1 << 32
    assert isinstance(store_for(limit, tmp_path / "a", torch.bfloat16), MemoryLevels)
    assert isinstance(store_for(limit + 1, tmp_path / "a", torch.bfloat16), FolderLevels)
    assert isinstance(store_for(limit + 1, None, torch.bfloat16), MemoryLevels)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("family", ["llama", "llama-biased"])
def test_a_search_finds_the_same_from_files(
    name: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same allocation, and every divergence on the way there."""
    judged: list[list[float]] = []
    divergences = DivergenceBench.divergences

    def noting(self: DivergenceBench, candidates: Sequence[Allocation], *rest: Any) -> list[float]:
        judged.append(divergences(self, candidates, *rest))
        return judged[-1]

    monkeypatch.setattr(DivergenceBench, "divergences", noting)
    problem = problem_of(build_model(family), 0.2, ("kv", "ffn"))
    in_memory = SEARCHES[name](problem)
    noted, judged[:] = list(judged), []
    monkeypatch.setattr("compressors.level_store.MEMORY_BYTES", 0)
    written = files_written(monkeypatch)
    assert SEARCHES[name](replace(problem, folder=tmp_path / "levels")) == in_memory
    assert judged == noted and len(written) > 10
    assert list(tmp_path.iterdir()) == [], "a search drops its levels"


def files_written(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """All files of levels that are kept from now on."""
    written: list[Path] = []
    keep = FolderLevels.keep

    def noting(self: FolderLevels, half: Any, count: int, linear: nn.Linear) -> None:
        keep(self, half, count, linear)
        written.append(self._path(half, count))

    monkeypatch.setattr(FolderLevels, "keep", noting)
    return written


def test_levels_of_the_former_base_are_gone_before_the_next_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressors.level_store.MEMORY_BYTES", 0)
    at_start: list[int] = []
    build = build_levels

    def noting(*arguments: Any, **options: Any) -> LevelLibrary:
        at_start.append(len(list((tmp_path / "levels").glob("*"))))
        return build(*arguments, **options)

    monkeypatch.setattr("compressors.allocation.evolutionary.build_levels", noting)
    evolutionary.allocate(QUICK, replace(problem_of(build_model(), 0.2, ("kv", "ffn")), folder=tmp_path / "levels"))
    assert len(at_start) >= 3 and set(at_start) == {0}


def test_levels_in_files_are_not_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays behind a build is the model and the rankings; in memory it is all levels as well."""
    problem = problem_of(build_model(), 0.2, ("kv", "ffn"))
    base, grid = problem.target.space.dense_allocation, evolutionary.levels(QUICK, problem.target)
    held: dict[str, int] = {}
    for place, bound in (("memory", 1 << 32), ("files", 0)):
        monkeypatch.setattr("compressors.level_store.MEMORY_BYTES", bound)
        with LiveTensors() as live:
            library = build_levels(problem.model, problem.job, problem.windows, base, grid, folder=tmp_path / "levels")
            held[place] = live.live_bytes
            library.drop()
            dropped = live.live_bytes  # what else the model's tensors take, which operations here came across
    full = {"kv": DENSE.kv_groups, "ffn": DENSE.ffn_channels}
    repaired = {half: [count for count in counts if count < full[half[1]]] for half, counts in grid.items()}
    assert held["memory"] - held["files"] == level_bytes(repaired, {"kv": 64, "ffn": 1}, 64, torch.float32)
    assert dropped <= held["files"]


def test_a_level_shares_what_it_does_not_change() -> None:
    """Cutting and repairing one half copies what is left of it and nothing else, and the layer stays as it was."""
    job = problem_of(build_model(), 0.1).job
    with LiveTensors() as live:
        layer = LayerView(build_model("llama-biased").model.layers[0])
        before = {name: parameter.clone() for name, parameter in layer.module.named_parameters()}
        whole = live.live_bytes
        own = with_own_half(layer, "ffn")
        assert live.live_bytes == whole
        keep_units(own.group("ffn"), tuple(range(12)))
        assert live.live_bytes == whole + 4 * (3 * 12 * 64 + 2 * 12)
    again = with_own_half(layer, "ffn")
    cut_and_repair(again.group("ffn"), tuple(range(5)), None, job)
    again.group("ffn").consumer.bias.data = torch.zeros(64)
    assert all(torch.equal(parameter, before[name]) for name, parameter in layer.module.named_parameters())


def test_a_compression_with_levels_in_files_has_the_same_bytes(
    tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = CompressionRequest(
        model=str(save_checkpoint(tmp_path / "dense", dtype=torch.bfloat16)),
        out=tmp_path / "out" / "memory",
        method="wanda_sp",
        ratio=0.2,
        units=("ffn", "kv"),
        allocation="dynamic_programme",
        calibration=str(text_file),
        calibration_tokens=256,
        window_tokens=16,
    )
    asked.out.parent.mkdir()
    plain = compress(asked, verify=verify_variant)
    monkeypatch.setattr("compressors.level_store.MEMORY_BYTES", 0)
    written = files_written(monkeypatch)
    filed = compress(replace(asked, out=asked.out.with_name("files")), verify=verify_variant)
    assert filed.checksums == plain.checksums
    assert written and all(path.parent.name == "levels" for path in written)
    assert sorted(path.name for path in asked.out.parent.iterdir()) == ["files", "memory"]


def test_the_next_attempt_clears_what_a_killed_search_left(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "variant.partial-0")
    workspace.prepare()
    FolderLevels(workspace.levels).keep((0, "ffn"), 7, consumer(bias=False))
    assert not workspace.is_started, "levels alone are nothing to go on from"
    workspace.prepare()
    assert list(workspace.levels.iterdir()) == []
