"""How are single requests spread? The empirical distribution of TTFT and TPOT, thinned to what a picture can show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from artifacts.document import Document
from artifacts.measures import QUANTITIES
from artifacts.run import REQUESTS_NAME, RequestRecord, RunManifest, read_requests

DRAWN = ("ttft", "tpot")
_POINTS = 200
_OF = {name: of for name, _, of in QUANTITIES if name in DRAWN}


class Distribution(Document):
    """The share `shares[i]` of `samples` values is at most `values_s[i]`: exact there, left out in between."""

    samples: int
    values_s: tuple[float, ...]
    shares: tuple[float, ...]


def distribution_of(values: Sequence[float]) -> Distribution | None:
    """None without values. The smallest and the largest are always kept."""
    count = len(values)
    if not count:
        return None
    ordered = np.sort(np.asarray(values, dtype=float))
    kept = np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(int))
    return Distribution(
        samples=count,
        values_s=tuple(float(value) for value in ordered[kept]),
        shares=tuple(float(share) for share in (kept + 1) / count),
    )


def distributions_of(folder: Path, run: RunManifest) -> dict[str, dict[str, Distribution]]:
    """By model and quantity, over the successful requests that are no warm-up; a control is left out.

    Empty where the folder holds no request records. Raises LoadTestError if they are damaged.
    """
    if not (folder / REQUESTS_NAME).is_file():
        return {}
    counted = [r for r in read_requests(folder / REQUESTS_NAME, events=False) if r.ok and not r.warmup]
    first: dict[str, int] = {}
    for arm, summary in enumerate(run.arms):
        first.setdefault(summary.model, arm)
    return {model: _by_quantity([r for r in counted if r.arm == arm]) for model, arm in first.items()}


def _by_quantity(records: Sequence[RequestRecord]) -> dict[str, Distribution]:
    pooled = {name: distribution_of([value for r in records for value in of(r)]) for name, of in _OF.items()}
    return {name: found for name, found in pooled.items() if found is not None}
