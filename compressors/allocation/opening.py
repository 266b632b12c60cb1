"""From what a user asked for and the checkpoint's headers to the target that an allocation has to meet."""

from __future__ import annotations

from pathlib import Path

from artifacts.errors import ConfigError
from artifacts.latency import LatencyTable
from artifacts.variant import Unit
from compressors.allocation.space import Target, WidthSpace, require_target
from compressors.arch import WIDTH_UNITS
from compressors.costs import CostKind, CostModel, kv_byte_costs, latency_costs, parameter_costs
from compressors.headers import read_headers
from compressors.plan import LayerBudget
from compressors.source import Source

_FIRST_BLOCK = "model.layers.0."


def open_target(
    source: Source,
    kind: CostKind,
    ratio: float,
    units: tuple[Unit, ...],
    multiple_of: int,
    latency_table: Path | None,
) -> Target:
    """Raises ConfigError if the budget cannot be reached with these units, the table does not fit the model, or the
    layers of the model differ already."""
    base = source.dimensions
    if source.config.get("layer_shapes"):
        raise ConfigError(
            f"The layers of {source.name} differ already, so no share of a {kind} budget can be spread over them. "
            "Use --allocation uniform --budget units, or start from a model with equal layers."
        )
    space = WidthSpace(
        layers=base.layers,
        dense=LayerBudget(kv_groups=base.kv_heads, ffn_channels=base.ffn_width),
        units=tuple(unit for unit in WIDTH_UNITS if unit in units),
        multiple_of=multiple_of,
    )
    return require_target(space, _costs(source, kind, space, latency_table), ratio)


def _costs(source: Source, kind: CostKind, space: WidthSpace, latency_table: Path | None) -> CostModel:
    if kind == "params":
        headers = read_headers(source.folder)
        block = {
            name.removeprefix(_FIRST_BLOCK): tuple(header.shape)
            for name, header in headers.items()
            if name.startswith(_FIRST_BLOCK)
        }
        return parameter_costs(block, space.dense)
    if kind == "kv_bytes":
        groups = space.layers * space.dense.kv_groups
        return kv_byte_costs(source.footprint.kv_bytes_per_token // groups, space.dense)
    if latency_table is None:
        raise ConfigError("A budget in latency needs measurements. Give --latency-table FILE.")
    return latency_costs(LatencyTable.load(latency_table), space.dense)
