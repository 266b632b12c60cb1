"""Which variant does an alias mean? The one that it stands for, or in turn those over which it splits requests."""

from __future__ import annotations

from collections.abc import Mapping


class Split:
    """Takes targets in turn by share: after n requests a target of share s has had about n x s, spread evenly.

    Smooth weighted round robin: every target gains its share per request, the one with most is taken and pays the sum.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        self.shares = dict(shares)
        self._sum = sum(self.shares.values())
        self._credit = dict.fromkeys(self.shares, 0.0)

    def next(self) -> str:
        for name, share in self.shares.items():
            self._credit[name] += share
        chosen = max(self._credit, key=self._credit.__getitem__)
        self._credit[chosen] -= self._sum
        return chosen


def splits_of(aliases: Mapping[str, str | Mapping[str, float]]) -> dict[str, Split]:
    """By alias; a plain name is a split with one target."""
    return {alias: Split({target: 1.0} if isinstance(target, str) else target) for alias, target in aliases.items()}
