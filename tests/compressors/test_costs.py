"""Costs are what the finished checkpoint weighs, and a latency table promises only what was measured."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from tiny_models import FAMILIES, build_model, save_checkpoint

from artifacts.errors import ConfigError
from artifacts.latency import LatencyEntry, LatencyTable
from artifacts.progress import silent
from compressors.allocation.opening import open_target
from compressors.costs import CostModel, kv_byte_costs, latency_costs, parameter_costs
from compressors.footprint import footprint_of_folder
from compressors.methods import REGISTRY
from compressors.plan import Allocation, LayerBudget
from compressors.resident import Collector, ResidentModel
from compressors.sequential import PruningJob
from compressors.source import open_source
from compressors.together import prune_blocks

DENSE = LayerBudget(kv_groups=4, ffn_channels=48)


def uneven(seed: int) -> Allocation:
    """Three layers, one of them without attention, one without FFN."""
    random = Random(seed)
    return (
        LayerBudget(kv_groups=random.randint(1, 4), ffn_channels=0),
        LayerBudget(kv_groups=0, ffn_channels=random.randint(1, 48)),
        LayerBudget(kv_groups=random.randint(1, 4), ffn_channels=random.randint(1, 48)),
    )


def block_shapes(model: object) -> dict[str, tuple[int, ...]]:
    layers = model.model.layers  # type: ignore[attr-defined]
    return {name: tuple(parameter.shape) for name, parameter in layers[0].named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_pruned_blocks(family: str) -> None:
    """Biases and norms too, and halves that are gone."""
    for seed in range(3):
        model, allocation = build_model(family), uneven(seed)
        costs = parameter_costs(block_shapes(model), DENSE)
        job = PruningJob(
            method=REGISTRY.named("magnitude"), units=("ffn", "kv"), allocation=allocation, repair="none", seed=0
        )
        pruned = Collector()
        with torch.inference_mode():
            prune_blocks(ResidentModel(model), job, None, pruned, silent)
        left = [parameter for layer in pruned.layers.values() for parameter in layer.module.parameters()]
        assert costs.of(allocation) == sum(parameter.numel() for parameter in left)


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_costs_are_the_footprint(family: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / family, family)
    source = open_source(str(folder))
    footprint = footprint_of_folder(folder, tied=bool(source.config["tie_word_embeddings"]))
    for kind, expected in (("params", footprint.params_blocks), ("kv_bytes", footprint.kv_bytes_per_token)):
        target = open_target(source, kind, 0.0, ("kv", "ffn"), 1, None)  # type: ignore[arg-type]
        assert target.costs.of((DENSE,) * 3) == expected


def test_kv_bytes_count_groups_alone() -> None:
    costs = kv_byte_costs(256, DENSE)
    narrow = LayerBudget(kv_groups=3, ffn_channels=7)
    assert costs.of((DENSE, narrow, LayerBudget(kv_groups=0, ffn_channels=48))) == 256 * 7
    assert costs.sees("kv") and not costs.sees("ffn")


def table_of(*entries: tuple[str, int, float], fixed_s: float = 0.5) -> LatencyTable:
    rows = tuple(LatencyEntry(unit=unit, count=count, seconds=s) for unit, count, s in entries)  # type: ignore[arg-type]
    return LatencyTable(
        model="tiny", engine="none", hardware="none", batch=1, context_tokens=16, fixed_s=fixed_s, entries=rows
    )


TABLE = table_of(("ffn", 16, 1.0), ("ffn", 48, 3.0), ("kv", 4, 2.0), ("kv", 1, 0.5))


@pytest.mark.parametrize(
    ("count", "seconds", "sentence"),
    [
        (48, 3.0, "measured"),
        (16, 1.0, "measured"),
        (32, 2.0, "half way between two measurements"),
        (20, 1.25, "an eighth of the way"),
        (3, 1.0, "narrower than all measured: no faster than the narrowest"),
        (0, 0.0, "an absent half takes no time"),
    ],
)
def test_interpolation(count: int, seconds: float, sentence: str) -> None:
    assert TABLE.seconds("ffn", count) == pytest.approx(seconds), sentence


def test_latency_adds_up() -> None:
    costs: CostModel = latency_costs(TABLE, DENSE)
    allocation = (DENSE, LayerBudget(kv_groups=1, ffn_channels=32), LayerBudget(kv_groups=0, ffn_channels=16))
    assert costs.of(allocation) == pytest.approx(0.5 + (2 + 3) + (0.5 + 2) + (0 + 1))


def test_a_table_must_reach_the_dense_widths() -> None:
    with pytest.raises(ConfigError, match="no entry for 48 units of ffn \\(widest: 16\\)"):
        latency_costs(table_of(("ffn", 16, 1.0), ("kv", 4, 2.0)), DENSE)
    with pytest.raises(ConfigError, match="widest: none"):
        latency_costs(table_of(("ffn", 48, 1.0)), DENSE)


def test_a_table_survives_its_file_and_refuses_repeats(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == TABLE
    with pytest.raises(ConfigError, match="given twice"):
        LatencyTable.parse({**TABLE.model_dump(), "entries": [TABLE.entries[0].model_dump()] * 2}, "table")
