"""From readings to joules: what a device used in a span, what an arm used, what a token cost, and beside which other.

Counters wrap around, go backwards and fall silent; readings are never quite at a window's edge. The mean power between
the first and the last reading is taken for the window's, so that joules per token times tokens/s is watts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from artifacts.energy import ENERGY_RATIOS, KINDS, ArmEnergy, DeviceEnergy, Energy, EnergyLog, Fault, Kind, WindowEnergy
from artifacts.measures import tokens_between
from artifacts.run import RequestRecord, Window
from loadtest.power_meters import Meter, Reading

MOST_WATTS = 5000.0
"""More than any one board or package draws: a counter that seems to have wrapped and used more was set back."""
LATE_SHARE = 0.1


def device_energy(meter: Meter, readings: Sequence[Reading], span_ns: tuple[int, int]) -> DeviceEnergy:
    """`readings` are all of one device in the span, in order, the first and last meant for its edges."""
    counted = any(reading.counter_j is not None for reading in readings)
    fault = _fault(readings, counted, span_ns)
    watts = None if fault else mean_watts(meter, readings, counted)
    if watts is None and fault is None:
        fault = "backwards"
    held = {reason for r in readings if r.state is not None for reason in r.state.throttled or ()}
    edges = tuple(r.state for r in (*readings[:1], *readings[-1:]) if r.state is not None)
    return DeviceEnergy(
        device=meter.device,
        kind=meter.kind,
        joules=None if watts is None else watts * (span_ns[1] - span_ns[0]) / 1e9,
        method="counter" if counted else "samples",
        fault=fault,
        edges=edges,
        throttled=tuple(sorted(held)),
    )


def mean_watts(meter: Meter, readings: Sequence[Reading], counted: bool) -> float | None:
    """Between the first and the last reading; None for a counter that went backwards."""
    pairs = list(itertools.pairwise(readings))
    joules = [used_joules(meter, a, b) if counted else _sampled_joules(a, b) for a, b in pairs]
    known = [value for value in joules if value is not None]
    return sum(known) / ((readings[-1].at_ns - readings[0].at_ns) / 1e9) if len(known) == len(joules) else None


def used_joules(meter: Meter, before: Reading, after: Reading) -> float | None:
    """By the counter, at most one wrap later; None where that would take more than MOST_WATTS, or it cannot wrap."""
    assert before.counter_j is not None and after.counter_j is not None
    used_j = after.counter_j - before.counter_j
    if used_j >= 0:
        return used_j
    wrapped_j = used_j + (meter.range_j or 0.0)
    return wrapped_j if 0 <= wrapped_j <= MOST_WATTS * (after.at_ns - before.at_ns) / 1e9 else None


def _sampled_joules(before: Reading, after: Reading) -> float:
    """The trapezium under two samples of power."""
    assert before.power_w is not None and after.power_w is not None
    return (before.power_w + after.power_w) / 2 * (after.at_ns - before.at_ns) / 1e9


def _fault(readings: Sequence[Reading], counted: bool, span_ns: tuple[int, int]) -> Fault | None:
    values = [r.counter_j if counted else r.power_w for r in readings]
    if len(values) < 2 or None in values:
        return "vanished"
    allowed_ns = LATE_SHARE * (span_ns[1] - span_ns[0])
    late_ns = (readings[0].at_ns - span_ns[0], readings[-1].at_ns - span_ns[1])
    return "late" if max(map(abs, late_ns)) > allowed_ns else None


def idle_watts(log: EnergyLog, kind: Kind) -> float | None:
    """Of all devices of the kind together; None where there is none, or one is not known."""
    return None if not log.idle_s else _over_s(_idle(log).joules_of(kind), log.idle_s)


def _idle(log: EnergyLog) -> WindowEnergy:
    return WindowEnergy(arm=0, block=0, duration_s=log.idle_s, devices=log.idle)


def _over_s(joules: float | None, duration_s: float) -> float | None:
    return None if joules is None else joules / duration_s


def summarise_energy(
    log: EnergyLog | None, arms: Sequence[str], records: Sequence[RequestRecord], windows: Sequence[Window]
) -> Energy | None:
    """What `run.json` says; None where nobody looked for meters."""
    if log is None:
        return None
    rows = (arm_energy(log, arm, model, kind, records, windows) for kind in KINDS for arm, model in enumerate(arms))
    read = {name: getattr(log, name) for name in EnergyLog.model_fields}
    return Energy(**read, arms=tuple(row for row in rows if row is not None))


def arm_energy(
    log: EnergyLog,
    arm: int,
    model: str,
    kind: Kind,
    records: Sequence[RequestRecord],
    windows: Sequence[Window],
) -> ArmEnergy | None:
    """Over the windows whose energy is known, their tokens alone; None where there is none."""
    mine = {w.block: w for w in windows if w.arm == arm}
    known = {w.block: joules for w in log.windows if w.arm == arm and (joules := w.joules_of(kind)) is not None}
    if not known:
        return None
    seconds = sum(mine[block].end_s - mine[block].start_s for block in known)
    tokens = sum(window_tokens(records, mine[block]) for block in known)
    joules, idle = sum(known.values()), idle_watts(log, kind)
    return ArmEnergy(
        arm=arm,
        model=model,
        kind=kind,
        windows=len(known),
        windows_total=len(mine),
        joules=joules,
        output_tokens=tokens,
        watts=joules / seconds,
        idle_watts=idle,
        joules_per_token=joules / tokens if tokens else None,
        above_idle_joules_per_token=(joules - idle * seconds) / tokens if tokens and idle is not None else None,
    )


def window_tokens(records: Iterable[RequestRecord], window: Window) -> float:
    """Output tokens in the window, whichever of the arm's requests they are of."""
    return sum(tokens_between(r, window.start_s, window.end_s) for r in records if r.arm == window.arm)


def tokens_per_joule(log: EnergyLog | None, records: Sequence[RequestRecord], window: Window) -> dict[str, float]:
    """One arm in one block, by ENERGY_RATIOS: as speeds are, so that pairs of it are paired like them."""
    measured = [w for w in (log.windows if log else ()) if (w.arm, w.block) == (window.arm, window.block)]
    tokens = window_tokens(records, window) if measured else 0.0
    of_kind = {name: joules for w in measured for kind, name in ENERGY_RATIOS.items() if (joules := w.joules_of(kind))}
    return {name: tokens / joules for name, joules in of_kind.items() if tokens}
