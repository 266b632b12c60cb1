"""What the claims have in common: which points they rest on, said in words, and numbers with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from artifacts.study import NO_RECOVERY, CellRecord
from laws.claims.claim import Number
from laws.fits.bootstrap import expanded_interval
from laws.fits.fit import Fitted
from laws.forms import Array
from laws.studies.comparison import Analysis
from laws.studies.samples import Kind, Scope, cells_of, scopes_of

LEAST_RATIOS = 5
LEAST_REACH = 0.7
HIGHEST_RATIO = 0.9
_NEAR = 0.051

Key = TypeVar("Key")
Item = TypeVar("Item")


def law_scopes(analysis: Analysis, kind: Kind) -> tuple[Scope, ...]:
    """Scopes with enough ratios for a law, with recovery where there is any: the papers pool budgets."""
    scopes = scopes_of(analysis.study, kind)
    recovered = {(scope.name, scope.method) for scope in scopes if scope.recovery != NO_RECOVERY}
    fullest = [s for s in scopes if s.recovery != NO_RECOVERY or (s.name, s.method) not in recovered]
    return tuple(scope for scope in fullest if reaches_far(cells_of(analysis.study, scope)))


def reaches_far(cells: Iterable[CellRecord]) -> bool:
    ratios = {cell.ratio for cell in cells}
    return len(ratios) >= LEAST_RATIOS and max(ratios) >= LEAST_REACH


def is_highest(ratio: float) -> bool:
    """r = 0.9, as near as a method comes to it."""
    return abs(ratio - HIGHEST_RATIO) < _NEAR


def conditions_of(cells: Sequence[CellRecord]) -> str:
    """`27 cells: r 0.1 to 0.9; without recovery and 1 to 25 M tokens; models a, b`."""
    ratios = sorted({cell.ratio for cell in cells})
    budgets = sorted({cell.recovery_tokens for cell in cells if cell.recovery != NO_RECOVERY})
    bare = any(cell.recovery == NO_RECOVERY for cell in cells)
    span = f"{ratios[0]:g}" if len(ratios) == 1 else f"{ratios[0]:g} to {ratios[-1]:g}"
    parts = ["without recovery"] if bare else []
    if budgets:
        ends = dict.fromkeys(f"{tokens / 1e6:g}" for tokens in (budgets[0], budgets[-1]))
        parts.append(f"{' to '.join(ends)} M tokens of recovery")
    models = ", ".join(dict.fromkeys(cell.model for cell in cells))
    count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
    return f"{count}: r {span}; {' and '.join(parts)}; {models}"


def parameter_number(found: Fitted, parameter: str, name: str | None = None) -> Number:
    """The bootstrap's interval, or Student's where there were too few clusters for one."""
    it = found.fit.parameter(parameter)
    low, high = (it.t_low, it.t_high) if it.low is None else (it.low, it.high)
    return Number(name=name or parameter, value=it.value, low=low, high=high, n=found.fit.n)


def derived_number(name: str, found: Sequence[Fitted], of: Callable[[Sequence[Array]], Array]) -> Number:
    """A function of the parameters of several fits. Its interval comes from their bootstraps, taken as independent."""
    value = float(of([np.asarray(each.fit.values) for each in found]))
    count = min(len(each.spread) for each in found)
    low = high = None
    if count:
        replicates = of([each.sets[:count].T for each in found])
        ends = expanded_interval(replicates, min(each.fit.clusters for each in found))
        low, high = (float(end) for end in ends)
    return Number(name=name, value=value, low=low, high=high, n=sum(each.fit.n for each in found))


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """In the order in which keys first appear."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
