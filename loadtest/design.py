"""What will this comparison be able to show? Decided, and said, before anything is measured."""

from __future__ import annotations

from pathlib import Path

from artifacts.errors import ConfigError
from artifacts.run import Design, load_run
from loadtest.pairing import CONFIDENCE, SPEEDUPS, block_spread
from loadtest.power import assured_spread, minimum_detectable_effect, recommended_blocks

POWER = 0.95
ASSUMED_SPREAD = 0.1
"""A block's log-ratio on a small shared machine with windows of a second or two; a quiet GPU is far below."""
DEFAULT_BLOCKS = 8


def spread_of_run(folder: Path) -> tuple[float, str]:
    """The spread to plan with and where it is from: the upper limit of what the run's blocks showed.

    Of throughput; of the A/A control if the run had one, else of its first comparison. Raises ConfigError for a run
    without pairs.
    """
    comparisons = sorted(load_run(folder).comparisons, key=lambda c: not c.is_control)
    ratios = comparisons[0].block_ratios.get(SPEEDUPS[0], ()) if comparisons else ()
    shown = block_spread(ratios)
    if shown is None:
        raise ConfigError(f"{folder} paired fewer than two blocks. Give a run made with --against and more blocks.")
    kind = "A/A control" if comparisons[0].is_control else "comparison"
    return assured_spread(shown, len(ratios)), f"{kind} of {folder.name}: {shown:.2%} over {len(ratios)} blocks"


def plan_design(
    *, blocks: int | None, wanted: float | None, spread: float | None, pilot: Path | None, family: int
) -> Design:
    """`blocks`, or as many as `wanted` takes (an effect as a share), or 8. The spread is given, a pilot's, or assumed.

    Each of the `family` hypotheses is planned at the level of Holm's first step, (1 - confidence) / family, so that the
    power does not depend on the others. Raises ConfigError for what no number of blocks can show.
    """
    if spread is not None and pilot is not None:
        raise ConfigError("The spread is given twice: by --spread and by --pilot. Give one of the two.")
    value, source = (spread, "given") if spread is not None else (ASSUMED_SPREAD, "assumed")
    if pilot is not None:
        value, source = spread_of_run(pilot)
    if not value > 0:
        raise ConfigError(f"A spread of {value:g} is none of real blocks. Give one above 0, such as 3%.")
    alpha = (1 - CONFIDENCE) / family
    if blocks is None:
        blocks = DEFAULT_BLOCKS if wanted is None else recommended_blocks(wanted, value, alpha, POWER)
    return Design(
        blocks=blocks,
        spread=value,
        spread_source=source,
        confidence=CONFIDENCE,
        power=POWER,
        family=family,
        minimum_detectable=minimum_detectable_effect(value, blocks, alpha, POWER),
        wanted=wanted,
    )


def design_of_run(blocks: int, pilot: Path | None) -> Design:
    """Of one run by itself: the speed-ups of one level and model are its family."""
    return plan_design(blocks=blocks, wanted=None, spread=None, pilot=pilot, family=len(SPEEDUPS))


def describe(design: Design) -> str:
    """One sentence for people."""
    start = f"{design.blocks} blocks that spread by {design.spread:.1%} ({design.spread_source})"
    if design.minimum_detectable is None:
        return f"{start} show no effect of any size with {design.power:.0%} power: use more blocks."
    return f"{start} show an effect of {design.minimum_detectable:.1%} or more with {design.power:.0%} power."
