"""A budget in a cost from the request to the manifest: refusals, records, and no second search after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_checkpoint

from artifacts.errors import ConfigError
from artifacts.latency import LatencyEntry, LatencyTable
from artifacts.variant import load_variant
from compressors import making
from compressors.allocation import dynamic_programme
from compressors.allocation.problem import Problem
from compressors.pipeline import compress
from compressors.plan import Allocation
from compressors.request import CompressionRequest
from compressors.task import resolve_task, work_key
from compressors.verify import verify_variant


@pytest.fixture
def asked(tmp_path: Path, text_file: Path) -> CompressionRequest:
    return CompressionRequest(
        model=str(save_checkpoint(tmp_path / "dense")),
        out=tmp_path / "variant",
        method="wanda_sp",
        ratio=0.3,
        units=("ffn", "kv"),
        calibration=str(text_file),
        calibration_tokens=256,
        window_tokens=16,
        allocation="dynamic_programme",
    )


def save_table(path: Path, slow: str, seconds: float = 1.0) -> Path:
    """One kind of half is slow, the other free; narrower is faster."""
    full = {"kv": 4, "ffn": 48}
    speeds = [
        (unit, count, seconds * count / full[unit] * (unit == slow)) for unit in full for count in (1, full[unit])
    ]
    entries = tuple(LatencyEntry(unit=unit, count=count, seconds=s) for unit, count, s in speeds)  # type: ignore[arg-type]
    LatencyTable(
        model="tiny", engine="none", hardware="none", batch=1, context_tokens=16, fixed_s=0.0, entries=entries
    ).save(path)
    return path


@pytest.mark.parametrize("kind", ["params", "kv_bytes"])
def test_the_manifest_holds_the_budget(asked: CompressionRequest, kind: Any) -> None:
    manifest = compress(replace(asked, budget=kind), verify=verify_variant)
    removed = {"params": manifest.ratios.params_blocks, "kv_bytes": manifest.ratios.kv_bytes_per_token}[kind]
    assert 0.3 <= removed < 0.36
    assert manifest.allocation is not None and manifest.allocation.budget == kind
    assert manifest.allocation.config["measured_tokens"] == 8192
    assert load_variant(asked.out) == manifest
    if kind == "kv_bytes":
        assert {layer.ffn_width for layer in manifest.layers} == {48}


@pytest.mark.parametrize("slow", ["kv", "ffn"])
def test_a_latency_budget_narrows_what_is_slow(asked: CompressionRequest, slow: str, tmp_path: Path) -> None:
    table = save_table(tmp_path / "table.json", slow)
    manifest = compress(
        replace(asked, budget="latency", latency_table=table, allocation="uniform"), verify=verify_variant
    )
    expected = {"kv": (2, 48), "ffn": (4, 33)}[slow]
    assert {(layer.kv_heads, layer.ffn_width) for layer in manifest.layers} == {expected}
    assert manifest.allocation is not None and len(manifest.allocation.latency_table_sha256 or "") == 64


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"allocation": "fairest"}, "allocation 'fairest' is unknown"),
        ({"budget": "units"}, "trades kinds of units"),
        ({"budget": "latency"}, "--budget latency and --latency-table FILE need each other"),
        ({"latency_table": Path("x.json")}, "need each other"),
        ({"budget": "latency", "latency_table": Path("x.json")}, "x.json does not exist"),
        ({"ratio": 0.99}, "The largest possible ratio is"),
        ({"budget": "kv_bytes", "units": ("ffn",)}, "The largest possible ratio is 0;"),
        ({"method": "magnitude", "calibration": None}, "Allocation dynamic_programme needs calibration text"),
        ({"method": "block_influence", "units": None}, "does not choose widths"),
    ],
)
def test_refused(asked: CompressionRequest, changes: dict[str, Any], fragment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compress(replace(asked, **changes), verify=verify_variant)
    assert fragment in str(caught.value)
    assert not asked.out.exists()


def test_a_kill_after_the_search_costs_no_second_one(
    asked: CompressionRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[Allocation] = []
    search = dynamic_programme.ALLOCATOR.allocate

    def noted(config: Any, problem: Problem) -> Allocation:
        searches.append(search(config, problem))
        return searches[-1]

    monkeypatch.setattr("compressors.request.allocator_named", lambda name: counted)
    counted = replace(dynamic_programme.ALLOCATOR, allocate=noted)
    prune = making.prune_blocks

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "prune_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compress(asked, verify=verify_variant)
    assert len(list(asked.out.parent.glob("variant.partial-*/allocation.json"))) == 1
    monkeypatch.setattr(making, "prune_blocks", prune)
    manifest = compress(asked, verify=verify_variant)
    assert len(searches) == 1
    assert [(layer.kv_groups, layer.ffn_channels) for layer in searches[0]] == [
        (layer.kv_heads, layer.ffn_width) for layer in manifest.layers
    ]


def test_another_table_is_another_request(asked: CompressionRequest, tmp_path: Path) -> None:
    """The workspace's key follows the table's content, not its name."""
    tables = [save_table(tmp_path / name, "ffn", s) for name, s in (("a", 1.0), ("b", 1.0), ("c", 2.0))]
    keys = [work_key(resolve_task(replace(asked, budget="latency", latency_table=table)), None) for table in tables]
    assert keys[0] == keys[1] != keys[2]
