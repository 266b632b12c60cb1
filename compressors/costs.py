"""What an allocation costs in the currency of a budget: a sum over half layers, looked up by kind and width.

All layers of a base model are alike, so one table per kind of unit is the whole model. Parameters and KV bytes are
exact; latency comes from measurements on the target engine and is as additive as that engine is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from artifacts.latency import LatencyTable
from compressors.arch import WIDTH_UNITS, WidthUnit
from compressors.plan import Allocation, LayerBudget

CostKind = Literal["params", "kv_bytes", "latency"]

_HALF_OF = {"self_attn": "kv", "input_layernorm": "kv", "mlp": "ffn", "post_attention_layernorm": "ffn"}
# Of what a half holds, the tensors that shrink with its units; norms and output biases stay.
_SHRINKING = {
    "kv": ("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj.", "self_attn.o_proj.weight"),
    "ffn": ("mlp.gate_proj.", "mlp.up_proj.", "mlp.down_proj.weight"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """`halves` gives by kind of unit the cost of one half layer at 0, 1, ... all units; `fixed` is paid once."""

    kind: CostKind
    fixed: float
    halves: Mapping[WidthUnit, tuple[float, ...]]

    def half(self, unit: WidthUnit, count: int) -> float:
        return self.halves[unit][count]

    def of(self, allocation: Allocation) -> float:
        """Parameters of the blocks, bytes per token, or seconds per decode step."""
        return self.fixed + sum(self.halves[unit][layer.count(unit)] for layer in allocation for unit in WIDTH_UNITS)

    def sees(self, unit: WidthUnit) -> bool:
        """Whether narrowing this kind of half saves anything."""
        return min(self.halves[unit][1:]) < self.halves[unit][-1]


def parameter_costs(block: Mapping[str, tuple[int, ...]], dense: LayerBudget) -> CostModel:
    """Exact parameters of the blocks, norms and biases included, from the shapes of one block's tensors by name."""
    halves: dict[WidthUnit, tuple[float, ...]] = {}
    for unit in WIDTH_UNITS:
        mine = {name: math.prod(shape) for name, shape in block.items() if _HALF_OF[name.split(".")[0]] == unit}
        shrinking = sum(size for name, size in mine.items() if name.startswith(_SHRINKING[unit]))
        resting = sum(mine.values()) - shrinking
        full = dense.count(unit)
        halves[unit] = (0, *(shrinking // full * count + resting for count in range(1, full + 1)))
    return CostModel(kind="params", fixed=0, halves=halves)


def kv_byte_costs(bytes_per_group: int, dense: LayerBudget) -> CostModel:
    """Cached bytes per token: a key and a value per KV group, nothing for the FFN."""
    groups = tuple(bytes_per_group * count for count in range(dense.kv_groups + 1))
    return CostModel(kind="kv_bytes", fixed=0, halves={"kv": groups, "ffn": (0,) * (dense.ffn_channels + 1)})


def latency_costs(table: LatencyTable, dense: LayerBudget) -> CostModel:
    """Seconds per decode step. Raises ConfigError if the table does not reach the dense widths."""
    halves: dict[WidthUnit, tuple[float, ...]] = {
        unit: tuple(table.seconds(unit, count) for count in range(dense.count(unit), -1, -1))[::-1]
        for unit in WIDTH_UNITS
    }
    return CostModel(kind="latency", fixed=table.fixed_s, halves=halves)
