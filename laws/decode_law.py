"""Which engines must be measured so that a decode step falls apart into half layers, and what do they say?

With L layers all alike, a step takes `fixed + L * (kv + ffn)`. Changing one kind of half in all layers tells its widths
apart; leaving the FFN out everywhere gives its whole; leaving the attention out everywhere is no model that an engine
runs, so one layer keeps it. The first shape is measured again at the end; the difference is the machine's drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from scipy.optimize import isotonic_regression

from artifacts.errors import ConfigError
from artifacts.latency import DecodeShape, HalfUnit, LatencyEntry, ShapeTiming

_EIGHTHS = {"ffn": range(2, 9), "kv": range(1, 9)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The widths to measure, ascending; the last of each is the dense model's."""

    layers: int
    kv_groups: tuple[int, ...]
    ffn_channels: tuple[int, ...]

    def shape(
        self, *, kv: int | None = None, ffn: int | None = None, attention_layers: int | None = None
    ) -> DecodeShape:
        """All layers alike, full where nothing is said; attention only in the first `attention_layers`."""
        groups = self.kv_groups[-1] if kv is None else kv
        with_attention = self.layers if attention_layers is None else attention_layers
        return DecodeShape(
            kv_groups=(groups,) * with_attention + (0,) * (self.layers - with_attention),
            ffn_channels=(self.ffn_channels[-1] if ffn is None else ffn,) * self.layers,
        )


def default_widths(unit: HalfUnit, dense: int, multiple_of: int = 1) -> tuple[int, ...]:
    """Eighths of `dense`, rounded to whole multiples, ascending; the FFN's begin at a quarter."""
    rounded = {max(1, round(dense * eighth / 8 / multiple_of)) * multiple_of for eighth in _EIGHTHS[unit]}
    return tuple(sorted({width for width in rounded if width < dense} | {dense}))


def require_widths(unit: HalfUnit, widths: Sequence[int], dense: int) -> tuple[int, ...]:
    """Ascending, with the dense width. Raises ConfigError for widths that no layer can have."""
    wrong = [width for width in widths if not 1 <= width <= dense]
    if wrong:
        raise ConfigError(f"A width of {wrong[0]} units of {unit} was asked for; allowed are 1 to {dense}.")
    return tuple(sorted({*widths, dense}))


def shapes_to_measure(ladder: Ladder) -> tuple[DecodeShape, ...]:
    """The full shape first and last. Raises ConfigError for a single layer, whose halves cannot be told apart."""
    if ladder.layers < 2:
        raise ConfigError(
            "The model has one layer, whose attention cannot be told from the engine's own time. Two are needed."
        )
    ffn = [ladder.shape(ffn=width) for width in ladder.ffn_channels[:-1]]
    kv = [ladder.shape(kv=groups) for groups in ladder.kv_groups[:-1]]
    lacking = [ladder.shape(ffn=0), ladder.shape(attention_layers=1)]
    return (ladder.shape(), *lacking, *ffn, *kv, ladder.shape())


def uneven_shapes(ladder: Ladder, count: int) -> tuple[DecodeShape, ...]:
    """Any measured width or none in every half layer, drawn the same each time; the first layer has attention."""
    shapes = []
    for seed in range(count):
        draw = Random(seed)
        kv = [draw.choice((0, *ladder.kv_groups)) for _ in range(ladder.layers - 1)]
        ffn = [draw.choice((0, *ladder.ffn_channels)) for _ in range(ladder.layers)]
        shapes.append(DecodeShape(kv_groups=(draw.choice(ladder.kv_groups), *kv), ffn_channels=tuple(ffn)))
    return tuple(shapes)


def solve(ladder: Ladder, measured: Sequence[ShapeTiming]) -> tuple[float, tuple[LatencyEntry, ...]]:
    """Seconds that are paid once, and an entry per kind and width.

    Noise can make a narrower half slower, or a half or the engine itself cheaper than nothing. The attention's whole
    is therefore kept between nothing and all that is left without the FFN; then the entries of a kind are replaced by
    their isotonic regression (pool adjacent violators) and cut off at 0. Each keeps what it was.
    """
    times: dict[DecodeShape, list[float]] = {timing.shape: [] for timing in measured}
    for timing in measured:
        times[timing.shape].append(timing.seconds)
    step = {shape: fmean(seconds) for shape, seconds in times.items()}
    layers, full, without_ffn = ladder.layers, step[ladder.shape()], step[ladder.shape(ffn=0)]
    kv_full = (full - step[ladder.shape(attention_layers=1)]) / (layers - 1)
    kv_allowed = min(max(kv_full, 0.0), without_ffn / layers)
    kv = {groups: kv_full - (full - step[ladder.shape(kv=groups)]) / layers for groups in ladder.kv_groups}
    ffn = {width: (step[ladder.shape(ffn=width)] - without_ffn) / layers for width in ladder.ffn_channels}
    entries = (*_monotone("kv", kv, kv_allowed - kv_full), *_monotone("ffn", ffn, 0.0))
    return max(0.0, without_ffn - layers * kv_allowed), entries


def _monotone(unit: HalfUnit, seconds: Mapping[int, float], shift_s: float) -> list[LatencyEntry]:
    counts = sorted(seconds)
    pooled = isotonic_regression([seconds[count] + shift_s for count in counts]).x
    return [
        LatencyEntry(unit=unit, count=count, seconds=max(0.0, float(value)), unpooled_s=seconds[count])
        for count, value in zip(counts, pooled, strict=True)
    ]
