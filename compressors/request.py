"""What a user asks of the compressor, and what follows from it before any model is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from artifacts.errors import ConfigError
from artifacts.variant import Unit
from compressors.allocation import allocator_named
from compressors.allocation.learned import ALLOCATOR as LEARNED_ALLOCATOR
from compressors.allocation.problem import Allocator
from compressors.arch import WIDTH_UNITS
from compressors.budget import require_ratio
from compressors.costs import CostKind
from compressors.depth import DEPTH_UNITS
from compressors.masks import Pattern, parse_pattern
from compressors.methods import REGISTRY
from compressors.registry import Method
from compressors.repair import Repair
from compressors.settings import with_settings

Device = Literal["cpu", "cuda"]
# "units" removes the share of each kind of unit, the others the share of a cost.
BudgetKind = Literal["units"] | CostKind


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionRequest:
    """What a user asks for.

    `units` None is the method's first kind; `repair` None is ridge when calibration text is given and the method
    prunes widths; `multiple_of` None is 128 for FFN widths of 1024 or more, else 1. `ratio` is a share of what `budget`
    names; None is "units" for the uniform allocation and "params" for others. A method that masks single weights makes
    the share `ratio` of each matrix zero, with `pattern` n:m in every group of m. `map_states` keeps the calibration
    hidden states in files beside the result instead of in memory; `together` blocks in a row are pruned for what they
    output together. `keep_unfinished` leaves finished work behind on Ctrl-C, for the same request to go on from.
    `settings` are `name=value`, of the method's own in docs/methods.md.
    """

    model: str
    out: Path
    method: str
    ratio: float
    settings: tuple[str, ...] = ()
    units: tuple[Unit, ...] | None = None
    calibration: str | None = None
    calibration_tokens: int = 32768
    window_tokens: int = 256
    seed: int = 0
    multiple_of: int | None = None
    pattern: str | None = None
    repair: Repair | None = None
    allocation: str = "uniform"
    budget: BudgetKind | None = None
    latency_table: Path | None = None
    device: Device = "cpu"
    map_states: bool = False
    together: int = 1
    keep_unfinished: bool = True


def resolve_method(request: CompressionRequest) -> tuple[Method, tuple[Unit, ...]]:
    """The method and the units it is to prune. Raises ConfigError for a ratio, name, setting, unit or missing text."""
    require_ratio(request.ratio)
    method = with_settings(REGISTRY.named(request.method), request.settings)
    units = method.units[:1] if request.units is None else tuple(dict.fromkeys(request.units))
    unfit = [unit for unit in units if unit not in method.units]
    if unfit or not units:
        raise ConfigError(
            f"Method {method.name} cannot prune {', '.join(unfit) or 'nothing'}. "
            f"Its units are {', '.join(method.units)}."
        )
    if method.learns and set(units) & set(DEPTH_UNITS) and set(units) & set(WIDTH_UNITS):
        raise ConfigError(f"Method {method.name} learns widths or what goes whole, not both. Make one a --then step.")
    if method.needs_calibration and request.calibration is None:
        raise ConfigError(f"Method {method.name} needs calibration text. Give --calibration FILE or a hub dataset.")
    return method, units


def resolve_pattern(request: CompressionRequest, method: Method) -> Pattern | None:
    """Which weights a masking method makes zero; None for others. Raises ConfigError for what is no pattern of it."""
    if method.masks:
        return parse_pattern(request.pattern, request.ratio)
    if request.pattern is not None:
        raise ConfigError(f"Method {method.name} removes whole units. Leave --pattern out, or choose one that masks.")
    return None


def require_device(device: Device) -> None:
    """Raises ConfigError for a GPU that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but PyTorch sees no CUDA device here. Use --device cpu.")


def resolve_repair(request: CompressionRequest, method: Method, units: tuple[Unit, ...]) -> Repair:
    """What is done to cut consumers. Raises ConfigError if a repair was asked for and cannot be."""
    can_be_repaired = method.can_be_repaired and not set(units) & set(DEPTH_UNITS)
    if request.repair is None:
        return "ridge" if can_be_repaired and request.calibration is not None else "none"
    if request.repair != "none" and method.masks:
        raise ConfigError(f"Method {method.name} masks weights, which a repair would fill. Use --no-compensate.")
    if request.repair != "none" and not can_be_repaired:
        raise ConfigError(f"Method {method.name} removes layers, which leaves nothing to refit. Use --no-compensate.")
    if request.repair == "bias" and method.find_basis is not None:
        raise ConfigError(f"Method {method.name} can be repaired by ridge only. Use --repair ridge or none.")
    if request.repair != "none" and request.calibration is None:
        raise ConfigError("Compensation needs calibration text. Give --calibration FILE or use --no-compensate.")
    return request.repair


def require_together(request: CompressionRequest, method: Method, repair: Repair) -> None:
    """Raises ConfigError unless blocks can be pruned together: towards moved targets only a refit goes."""
    if request.together < 1:
        raise ConfigError(f"together is {request.together}, which is no number of blocks. Give 1 or more.")
    if request.together > 1 and (method.rank_width is None or repair != "ridge"):
        raise ConfigError(
            f"Method {method.name} with repair {repair} prunes each block by itself. "
            "Leave --together out, or take a width method with ridge repair."
        )


def _require_learning(allocator: Allocator, method: Method) -> None:
    """Raises ConfigError where an allocation wants rankings too early, or learnt ones of a method that learns none."""
    if method.learns and allocator.survey in ("rankings", "levels"):
        raise ConfigError(
            f"Method {method.name} learns under a budget, and allocation {allocator.name} wants rankings before there "
            "is one. Use --allocation learned, or uniform."
        )
    if allocator is LEARNED_ALLOCATOR and not method.learns:
        raise ConfigError(f"Method {method.name} learns no probabilities to allocate by. Use another --allocation.")


def resolve_allocation(
    request: CompressionRequest, method: Method, units: tuple[Unit, ...]
) -> tuple[Allocator, BudgetKind]:
    """How the budget is spread and what it is counted in. Raises ConfigError for what does not go together."""
    allocator = allocator_named(request.allocation)
    is_uniform = allocator.name == "uniform"
    kind: BudgetKind = request.budget or ("units" if is_uniform else "params")
    _require_learning(allocator, method)
    learns_widths = method.learns and not set(units) & set(DEPTH_UNITS)
    if method.rank_width is None and not learns_widths and (not is_uniform or kind != "units"):
        raise ConfigError(
            f"Method {method.name} does not choose widths, so there are none to allocate. "
            "Use --allocation uniform --budget units."
        )
    if kind == "units" and not is_uniform:
        raise ConfigError(
            f"Allocation {allocator.name} trades kinds of units, which a share of each forbids. "
            "Give --budget params, kv_bytes or latency."
        )
    if (kind == "latency") != (request.latency_table is not None):
        raise ConfigError("--budget latency and --latency-table FILE need each other. Give both or neither.")
    if allocator.needs_text and request.calibration is None:
        raise ConfigError(f"Allocation {allocator.name} needs calibration text. Give --calibration FILE or a dataset.")
    return allocator, kind
