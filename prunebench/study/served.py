"""What does a campaign's folder say about the speed of a cell? From its files alone, valid levels and the rest apart.

Beside what the load test measured stand what the engines said of their caches, and how near the roofline they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts.campaign import LevelResult, load_campaign
from artifacts.energy import ENERGY_RATIOS, Energy
from artifacts.hardware import Hardware
from artifacts.measures import TOTAL_MEASURES
from artifacts.run import ArmSummary, Comparison, Estimate, load_run
from artifacts.study import DENSE, ServingSpeed, SpeedAt
from artifacts.traffic import Workload
from loadtest.counters import cache_tokens
from loadtest.runner import METRICS_NAMES
from prunebench.study.ceilings import Row, capacity_row, reached_row, roofline_row
from prunebench.study.checkpoints import Checkpoint

VARIANT = "variant"
# Of the load test's measures, those that sizing a server needs; the ones with a paired ratio have an interval.
_QUANTITIES = (
    "output_tokens_per_s",
    "requests_per_s",
    *(f"{name}_p{p}_s" for name in ("ttft", "tpot", "e2e") for p in (50, 95)),
)
_STEP = "tpot_p50_s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What was measured side by side, and on what; `hardware` None leaves the roofline out."""

    base: Checkpoint
    made: Checkpoint
    hardware: Hardware | None = None


def speeds_of(speed: ServingSpeed, folder: Path, served: Served) -> list[SpeedAt]:
    """Of every level whose gates passed. Raises ConfigError for a folder without a campaign."""
    return [
        row for level in load_campaign(folder).levels if level.valid for row in _of_level(speed, level, folder, served)
    ]


def workload_of(speed: ServingSpeed) -> Workload:
    return Workload(prompt_tokens=speed.prompt_tokens, output_tokens=speed.output_tokens)


def left_out(speed: ServingSpeed, folder: Path) -> tuple[str, ...]:
    """The other levels, each with the gates that it failed."""
    return tuple(
        f"{_label(speed, level)}: {', '.join(gate.name for gate in level.failed_gates)}"
        for level in load_campaign(folder).levels
        if not level.valid
    )


def _label(speed: ServingSpeed, level: LevelResult) -> str:
    return level.level.label if speed.name == "serving" else f"{speed.name} {level.level.label}"


def _of_level(speed: ServingSpeed, level: LevelResult, folder: Path, served: Served) -> Iterator[SpeedAt]:
    label, run = _label(speed, level), load_run(folder / level.folder)
    measured = _measured(label, level.comparisons, run.arms)
    yield from measured
    yield from _energy(label, level.comparisons, run.energy)
    yield from (_uncertain(label, row) for row in _facts(speed, level, folder, served, measured))


def _facts(
    speed: ServingSpeed, level: LevelResult, folder: Path, served: Served, measured: Sequence[SpeedAt]
) -> Iterator[Row]:
    metrics = folder / level.folder / METRICS_NAMES[1]
    tokens = cache_tokens(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {}
    held = capacity_row(tokens, DENSE, VARIANT)
    if held is not None:
        yield held
    least = None
    if served.hardware is not None:
        least = roofline_row(workload_of(speed), level.level, served.hardware, served.base, served.made)
    if least is not None:
        yield least
        tpot = next((row for row in measured if row.quantity == _STEP), None)
        if tpot is not None and tpot.base_value and tpot.value:
            yield reached_row(least, (tpot.base_value, tpot.value))


def _uncertain(label: str, row: Row) -> SpeedAt:
    return SpeedAt(
        mode="serving",
        level=label,
        quantity=row.quantity,
        speedup=row.speedup,
        low=None,
        high=None,
        pairs=1,
        base_value=row.base_value,
        value=row.value,
        unit=row.unit,
    )


def _energy(label: str, comparisons: Sequence[Comparison], energy: Energy | None) -> list[SpeedAt]:
    """Joules per output token where meters were read, by kind of device; above 1 the variant needs less."""
    compared, control = _parted(comparisons)
    arms = reversed(energy.arms if energy else ())
    joules = {(arm.kind, arm.model): arm.joules_per_token for arm in arms}
    return [
        SpeedAt(
            mode="serving",
            level=label,
            quantity=f"joules_per_token_{kind}",
            speedup=estimate.value,
            low=estimate.low,
            high=estimate.high,
            pairs=estimate.n,
            base_value=joules.get((kind, DENSE)),
            value=joules.get((kind, VARIANT)),
            unit="J/token",
            **_control(control, name),
        )
        for kind, name in ENERGY_RATIOS.items()
        if (estimate := compared.ratios.get(name)) is not None
    ]


def _measured(label: str, comparisons: Sequence[Comparison], arms: Sequence[ArmSummary]) -> list[SpeedAt]:
    """By quantity. Where no block certifies a percentile, the ratio of the whole run's values stands without bounds."""
    compared, control = _parted(comparisons)
    summary = {arm.model: arm.measures for arm in reversed(arms)}
    blocks = max((estimate.n for estimate in compared.ratios.values()), default=0)
    found = []
    for quantity in _QUANTITIES:
        base_value, value = summary[DENSE].get(quantity), summary[VARIANT].get(quantity)
        if not base_value or not value:
            continue
        is_rate = quantity in TOTAL_MEASURES
        plain = Estimate(value=value / base_value if is_rate else base_value / value, n=blocks)
        name = f"speedup_{quantity if is_rate else quantity.removesuffix('_s')}"
        estimate = compared.ratios.get(name, plain)
        found.append(
            SpeedAt(
                mode="serving",
                level=label,
                quantity=quantity,
                speedup=estimate.value,
                low=estimate.low,
                high=estimate.high,
                pairs=estimate.n,
                base_value=base_value,
                value=value,
                unit=TOTAL_MEASURES[quantity][0] if is_rate else "s",
                **_control(control, name),
            )
        )
    return found


def _parted(comparisons: Sequence[Comparison]) -> tuple[Comparison, Comparison | None]:
    """The variant's comparison, and the dense model's with itself."""
    (compared,) = [comparison for comparison in comparisons if not comparison.is_control]
    return compared, next((comparison for comparison in comparisons if comparison.is_control), None)


def _control(control: Comparison | None, name: str) -> dict[str, float | None]:
    estimate = None if control is None else control.ratios.get(name)
    return {} if estimate is None else {"control_low": estimate.low, "control_high": estimate.high}
