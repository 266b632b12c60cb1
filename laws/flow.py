"""Was the server in a steady state? Per arm of a run: the drift inside its windows, and both sides of Little's law."""

from __future__ import annotations

from statistics import fmean

from artifacts.document import Document
from artifacts.run import RunManifest, Steadiness


class FlowRow(Document):
    """One arm: L and lambda W on average over its blocks, the residual (L - lambda W) / L that is farthest from 0.

    `in_flight` is L, `arrivals_times_sojourn` is lambda W; null where no block measured them.
    """

    level: str
    model: str
    control: bool
    drifts: tuple[Steadiness, ...]
    in_flight: float | None
    arrivals_times_sojourn: float | None
    worst_residual: float | None


def flow_rows(label: str, run: RunManifest) -> tuple[FlowRow, ...]:
    """One row per arm, the control included; none for runs that recorded neither."""
    if not run.steadiness and not run.littles_law:
        return ()
    return tuple(_row(label, run, arm) for arm in range(len(run.arms)))


def _row(label: str, run: RunManifest, arm: int) -> FlowRow:
    flows = [flow for flow in run.littles_law if flow.arm == arm]
    residuals = [flow.residual for flow in flows]
    model = run.arms[arm].model
    return FlowRow(
        level=label,
        model=model,
        control=model in [summary.model for summary in run.arms[:arm]],
        drifts=tuple(entry for entry in run.steadiness if entry.arm == arm),
        in_flight=fmean(flow.in_flight for flow in flows) if flows else None,
        arrivals_times_sojourn=fmean(flow.arrivals_per_s * flow.sojourn_s for flow in flows) if flows else None,
        worst_residual=max(residuals, key=abs, default=None),
    )
