"""What the command line offers by name, and how options that are small languages are read.

The lists stand here so that `--help` needs nobody's package; tests compare them with what the packages know.
"""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from artifacts.errors import ConfigError

if TYPE_CHECKING:
    from artifacts.variant import Unit
    from compressors.repair import Repair


class Method(StrEnum):
    """The names the registry knows; a test compares the two."""

    random = "random"
    magnitude = "magnitude"
    wanda_sp = "wanda_sp"
    flap = "flap"
    taylor = "taylor"
    modegpt_mlp = "modegpt_mlp"
    prunenet = "prunenet"
    obs = "obs"
    block_influence = "block_influence"
    greedy_kl = "greedy_kl"
    evolutionary_depth = "evolutionary_depth"
    layer_chop = "layer_chop"
    policy_gradient = "policy_gradient"
    hidden_slice = "hidden_slice"
    weight_magnitude = "weight_magnitude"
    wanda = "wanda"
    sparsegpt = "sparsegpt"
    sparsellm = "sparsellm"
    sparsellm_structured = "sparsellm_structured"


class Allocation(StrEnum):
    """How a budget is spread over layers; a test compares these with what the compressor knows."""

    uniform = "uniform"
    depth_increasing = "depth_increasing"
    influence_softmax = "influence_softmax"
    global_threshold = "global_threshold"
    dynamic_programme = "dynamic_programme"
    evolutionary = "evolutionary"
    learned = "learned"


class BudgetKind(StrEnum):
    """What --ratio is a share of."""

    units = "units"
    params = "params"
    kv_bytes = "kv_bytes"
    latency = "latency"


class RepairName(StrEnum):
    none = "none"
    ridge = "ridge"
    bias = "bias"


class RecoveryMethod(StrEnum):
    """The names of `compressors.recovery.methods`; a test compares the two."""

    lora = "lora"
    full = "full"
    distillation = "distillation"
    block_local = "block_local"


class Trainable(StrEnum):
    full = "full"
    lora = "lora"


class DeviceName(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


class KeyRole(StrEnum):
    """What an API key opens; a test compares these with the key file's."""

    ask = "ask"
    control = "control"


class EngineType(StrEnum):
    """What an engine may compute in."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Arrivals(StrEnum):
    """How an open loop's requests are spaced; a test compares these with the load tester's."""

    constant = "constant"
    poisson = "poisson"
    gamma = "gamma"


class TraceLayout(StrEnum):
    """The columns that a recorded trace has; a test compares these with the load tester's."""

    azure = "azure"
    mooncake = "mooncake"
    generic = "generic"


Folder = Annotated[Path, typer.Option(help="Folder to create; must not exist yet (an empty one is fine).")]
UnitNames = Annotated[
    str | None,
    typer.Option(
        help="ffn, kv, layers, attention_sublayers, ffn_sublayers, hidden or weights; 'ffn,kv' is both. "
        "Default: what the method is for."
    ),
]
PatternOption = Annotated[
    str | None,
    typer.Option(
        metavar="N:M", help="For methods that mask weights: n zeros in every m of a row. No engine gains speed."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method, see docs/methods.md; several times."),
]
Steps = Annotated[
    list[str] | None,
    typer.Option(metavar="METHOD:RATIO[:UNITS]", help="A further step on what is left; may be given several times."),
]
CalibrationText = Annotated[str | None, typer.Option(help="Text file or hub dataset. Not the text you evaluate on.")]
MultipleOf = Annotated[int | None, typer.Option(help="Round FFN widths to this. Default: 128 from width 1024 up.")]
Compensate = Annotated[
    bool | None,
    typer.Option("--compensate/--no-compensate", help="Ridge repair. Default: on when there is calibration text."),
]
RepairOption = Annotated[
    RepairName | None, typer.Option(help="Which repair: ridge refits consumers, bias adds FLAP's constant.")
]
AllocationOption = Annotated[
    Allocation, typer.Option(help="How widths may differ between layers: see docs/architecture.md.")
]
BudgetOption = Annotated[
    BudgetKind | None,
    typer.Option(help="What --ratio is a share of. Default: units for uniform, else params of the layers."),
]
LatencyTable = Annotated[Path | None, typer.Option(help="Measured seconds per half layer, for --budget latency.")]
MapStates = Annotated[
    bool,
    typer.Option("--map-states", help="Keep calibration hidden states in files beside OUT, not in memory."),
]

Together = Annotated[
    int,
    typer.Option(
        metavar="K",
        help="Prune K blocks in a row for what they output together. Holds 2K+2 blocks, and beside the two streams "
        "3K+2 more of calibration tokens x hidden size x 4 bytes (--map-states: in files); takes up to four times as "
        "long. For width methods with ridge repair.",
    ),
]


def chosen_repair(compensate: bool | None, repair: RepairName | None) -> Repair | None:
    """What the two options together say; None leaves it to the method. Raises ConfigError if they contradict."""
    if repair is None:
        return None if compensate is None else "ridge" if compensate else "none"
    if compensate is not None and compensate != (repair is not RepairName.none):
        raise ConfigError(
            f"--{'' if compensate else 'no-'}compensate and --repair {repair.value} contradict. Give one of the two."
        )
    return repair.value


def parse_units(text: str | None) -> tuple[Unit, ...] | None:
    """'ffn,kv' → ('ffn', 'kv'). Raises ConfigError for anything that is no unit."""
    from artifacts.variant import Unit

    if text is None:
        return None
    known: dict[str, Unit] = {name: name for name in get_args(Unit)}
    names = [part.strip() for part in text.split(",")]
    if len(set(names)) != len(names) or not known.keys() >= set(names):
        raise ConfigError(
            f"--units {text!r} is not a list of units. Allowed: {', '.join(known)}, and pairs as in 'ffn,kv'."
        )
    return tuple(known[name] for name in names)


def parse_widths(option: str, text: str | None) -> tuple[int, ...] | None:
    """'256,512' → (256, 512). Raises ConfigError for anything that is no list of whole numbers."""
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} {text!r} is not a list of whole numbers, as in 256,512.") from error


def parse_share(option: str, text: str | None) -> float | None:
    """'5%' or '0.05' → 0.05. Raises ConfigError for anything that is no share above 0."""
    if text is None:
        return None
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if number != text.strip() else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(f"{option} {text!r} is not a share above 0, as in 5% or 0.05.")
    return value


def parse_step(text: str) -> dict[str, Any]:
    """'greedy_kl:0.2:layers' → the fields in which a further step differs. Raises ConfigError for anything else."""
    method, _, rest = text.partition(":")
    ratio, _, units = rest.partition(":")
    try:
        return {"method": method, "ratio": float(ratio), "units": parse_units(units or None), "settings": ()}
    except ValueError as error:
        raise ConfigError(f"--then {text!r} is not METHOD:RATIO[:UNITS], as in greedy_kl:0.2:layers.") from error
