"""What a user asks of the compressor, and what follows from it before any model is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from artifacts.errors import ConfigError
from artifacts.variant import Unit
from compressors.budget import require_ratio
from compressors.methods import REGISTRY
from compressors.registry import Method

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionRequest:
    """What a user asks for.

    `units` None is the method's first kind; `compensate` None repairs when calibration text is given and the method
    prunes widths; `multiple_of` None is 128 for FFN widths of 1024 or more, else 1. `map_states` keeps the calibration
    hidden states in files beside the result instead of in memory; `keep_unfinished` leaves finished blocks behind on
    Ctrl-C, for the same request to go on from.
    """

    model: str
    out: Path
    method: str
    ratio: float
    units: tuple[Unit, ...] | None = None
    calibration: str | None = None
    calibration_tokens: int = 32768
    window_tokens: int = 256
    seed: int = 0
    multiple_of: int | None = None
    compensate: bool | None = None
    device: Device = "cpu"
    map_states: bool = False
    keep_unfinished: bool = True


def resolve_method(request: CompressionRequest) -> tuple[Method, tuple[Unit, ...]]:
    """The method and the units it is to prune. Raises ConfigError for a ratio, name, unit or missing text."""
    require_ratio(request.ratio)
    method = REGISTRY.named(request.method)
    units = method.units[:1] if request.units is None else tuple(dict.fromkeys(request.units))
    unfit = [unit for unit in units if unit not in method.units]
    if unfit or not units:
        raise ConfigError(
            f"Method {method.name} cannot prune {', '.join(unfit) or 'nothing'}. "
            f"Its units are {', '.join(method.units)}."
        )
    if method.needs_calibration and request.calibration is None:
        raise ConfigError(f"Method {method.name} needs calibration text. Give --calibration FILE or a hub dataset.")
    return method, units


def require_device(device: Device) -> None:
    """Raises ConfigError for a GPU that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but PyTorch sees no CUDA device here. Use --device cpu.")


def resolve_compensation(request: CompressionRequest, method: Method) -> bool:
    """Whether consumers are refitted. Raises ConfigError if that was asked for and cannot be."""
    prunes_widths = method.rank_width is not None
    if request.compensate is None:
        return prunes_widths and request.calibration is not None
    if request.compensate and not prunes_widths:
        raise ConfigError(f"Method {method.name} removes layers, which leaves nothing to refit. Use --no-compensate.")
    if request.compensate and request.calibration is None:
        raise ConfigError("Compensation needs calibration text. Give --calibration FILE or use --no-compensate.")
    return request.compensate
