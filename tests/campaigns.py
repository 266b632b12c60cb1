"""Hand-made runs with block ratios, for what is concluded from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from artifacts.provenance import collect_provenance
from artifacts.run import ArmSummary, Comparison, Gate, Level, RunManifest, Workload
from loadtest.pairing import SPEEDUPS, estimate_ratio

WORKLOAD = Workload(prompt_tokens=16, output_tokens=8)
PROVENANCE = collect_provenance()


def comparison(model: str, ratios: Sequence[float]) -> Comparison:
    """All measures have the same ratios."""
    blocks = tuple(float(r) for r in ratios)
    return Comparison(
        model=model,
        against="dense",
        ratios=dict.fromkeys(SPEEDUPS, estimate_ratio(blocks)),
        block_ratios=dict.fromkeys(SPEEDUPS, blocks),
    )


def make_run(
    *, model: Sequence[float], control: Sequence[float] | None, streams: int = 4, passed: bool = True, **changes: Any
) -> RunManifest:
    """`model` and `control` are block ratios of the variant `small` and of the reference to itself."""
    pairs = [comparison("small", model)] + ([] if control is None else [comparison("dense", control)])
    names = ["dense", *(pair.model for pair in pairs)]
    arms = [
        ArmSummary(
            model=name, fingerprint="f", requests=9, failures=0, failures_by_kind={}, output_tokens=9, measures={}
        )
        for name in names
    ]
    values: dict[str, Any] = {
        "url": "http://127.0.0.1:1",
        "models": tuple(names[1:]),
        "against": "dense",
        "level": Level(concurrency=streams),
        "workload": WORKLOAD,
        "duration_s": 1.0 * len(model),
        "blocks": len(model),
        "warmup_s": 0.1,
        "gates": (Gate(name="g", observed=1, limit=0, unit="", passed=passed, cause="C.", remedy="R."),),
        "arms": tuple(arms),
        "comparisons": tuple(pairs),
        "provenance": PROVENANCE,
    }
    return RunManifest(**(values | changes))
