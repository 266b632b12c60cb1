"""How many units each layer keeps: the nominal ratio turned into whole units that exist and can be served."""

from __future__ import annotations

import math
from dataclasses import dataclass

from artifacts.errors import ConfigError
from artifacts.variant import Unit
from compressors.plan import Allocation, LayerBudget

WIDE_FFN = 1024
WIDE_MULTIPLE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Widths of the base model's layers; the same in each layer."""

    layers: int
    kv_heads: int
    ffn_width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What survives: `layers` layers, in each `kv_heads` KV groups and `ffn_width` FFN channels."""

    layers: int
    kv_heads: int
    ffn_width: int
    multiple_of: int


def uniform_allocation(budget: Budget, base: Dimensions, kept_layers: tuple[int, ...] | None = None) -> Allocation:
    """The same widths in every layer that stays; `kept_layers` None keeps the budgeted number from the front."""
    kept = range(budget.layers) if kept_layers is None else kept_layers
    width = LayerBudget(kv_groups=budget.kv_heads, ffn_channels=budget.ffn_width)
    absent = LayerBudget(kv_groups=0, ffn_channels=0)
    return tuple(width if index in kept else absent for index in range(base.layers))


def require_ratio(ratio: float) -> None:
    """Raises ConfigError unless 0 <= ratio < 1."""
    if not 0 <= ratio < 1:
        raise ConfigError(
            f"ratio is {ratio:g}; it must be at least 0 and below 1. Give the share to remove, like 0.25."
        )


def budget_for(ratio: float, units: tuple[Unit, ...], base: Dimensions, multiple_of: int | None) -> Budget:
    """The units kept when the share `ratio` of each kind in `units` goes.

    Raises ConfigError if nothing would be left of a kind, if the FFN width cannot be rounded to `multiple_of`, or if
    rounding leaves everything in place although the ratio is above 0.
    """
    require_ratio(ratio)
    multiple = default_multiple(base.ffn_width) if multiple_of is None else multiple_of
    budget = Budget(
        layers=_kept_whole(ratio, base.layers, "layer") if "layers" in units else base.layers,
        kv_heads=_kept_whole(ratio, base.kv_heads, "KV group") if "kv" in units else base.kv_heads,
        ffn_width=_kept_width(ratio, base.ffn_width, multiple) if "ffn" in units else base.ffn_width,
        multiple_of=multiple,
    )
    unchanged = (budget.layers, budget.kv_heads, budget.ffn_width) == (base.layers, base.kv_heads, base.ffn_width)
    if ratio > 0 and unchanged:
        raise ConfigError(
            f"ratio {ratio:g} rounds to no removed unit ({_census(units, base)}, multiple of {multiple}). "
            "Raise the ratio or lower --multiple-of."
        )
    return budget


def default_multiple(ffn_width: int) -> int:
    """128 for real sizes, where matrix kernels want aligned widths; 1 for tiny models."""
    return WIDE_MULTIPLE if ffn_width >= WIDE_FFN else 1


def _census(units: tuple[Unit, ...], base: Dimensions) -> str:
    counts = {
        "layers": f"{base.layers} layers",
        "kv": f"{base.kv_heads} KV groups",
        "ffn": f"FFN width {base.ffn_width}",
    }
    return ", ".join(counts[unit] for unit in units)


def _kept_whole(ratio: float, count: int, noun: str) -> int:
    kept = count - _rounded(ratio * count)
    if kept < 1:
        raise ConfigError(
            f"ratio {ratio:g} would leave no {noun} of {count}. The largest possible ratio is {(count - 1) / count:g}."
        )
    return kept


def _kept_width(ratio: float, width: int, multiple: int) -> int:
    """The multiple nearest to the asked width, at least one multiple; an untouched width may be any number."""
    if ratio == 0:
        return width
    if not 1 <= multiple <= width:
        raise ConfigError(
            f"FFN width {width} cannot be rounded to a multiple of {multiple}. Give --multiple-of from 1 to {width}."
        )
    nearest = _rounded((width - ratio * width) / multiple) * multiple
    return min(max(nearest, multiple), width // multiple * multiple)


def _rounded(value: float) -> int:
    """To the nearest whole number, halves up; the tiny slack absorbs binary fractions such as 0.7 * 10."""
    return math.floor(value + 0.5 + 1e-9)
