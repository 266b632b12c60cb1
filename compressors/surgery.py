"""The only code that changes a tensor's shape or takes half a layer out.

Slicing copies the surviving rows and columns bit for bit. A kind of unit of which everything survives is not touched.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressors.arch import LayerView, UnitGroup, WidthUnit


def keep_units(group: UnitGroup, kept: tuple[int, ...]) -> None:
    """Removes all other units: rows of every producer (and of its bias), columns of the consumer."""
    if len(kept) == group.count:
        return
    columns = unit_slots(kept, group.columns_per_unit)
    for producer in group.producers:
        _keep_rows(producer.linear, unit_slots(kept, producer.rows_per_unit))
    _keep_columns(group.consumer, columns)


def remove_half(layer: LayerView, unit: WidthUnit) -> None:
    """Takes out the attention or the FFN with the norm in front of it; the residual stream passes."""
    half, norm = ("self_attn", "input_layernorm") if unit == "kv" else ("mlp", "post_attention_layernorm")
    setattr(layer.module, half, None)
    setattr(layer.module, norm, None)


def unit_slots(kept: tuple[int, ...], slots_per_unit: int) -> Tensor:
    """Row or column numbers of the units, [len(kept) * slots_per_unit]."""
    starts = torch.tensor(kept, dtype=torch.long) * slots_per_unit
    return (starts[:, None] + torch.arange(slots_per_unit)).flatten()


def _keep_rows(linear: nn.Linear, rows: Tensor) -> None:
    linear.weight = _sliced(linear.weight, rows, 0)
    if linear.bias is not None:
        linear.bias = _sliced(linear.bias, rows, 0)
    linear.out_features = len(rows)


def _keep_columns(linear: nn.Linear, columns: Tensor) -> None:
    linear.weight = _sliced(linear.weight, columns, 1)
    linear.in_features = len(columns)


def _sliced(parameter: Tensor, slots: Tensor, dim: int) -> nn.Parameter:
    kept = parameter.detach().index_select(dim, slots.to(parameter.device)).contiguous()
    return nn.Parameter(kept, requires_grad=False)
