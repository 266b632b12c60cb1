"""At which ratio does pruning lose as much as another checkpoint did? A search over one number, and how equal it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy import stats

from compressors.quality import Sums, standard_error_nats


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One ratio and what it loses, in nats a token."""

    ratio: float
    loss_nats: float


def nearest_try(
    loss_of: Callable[[float], float],
    wanted_nats: float,
    bounds: tuple[float, float],
    tolerance_nats: float,
    most: int,
) -> Try:
    """Halves `bounds` until a try is within the tolerance, `most` times at most, and gives the nearest of all tries.

    Taken for granted is that a higher ratio loses more.
    """
    low, high = bounds
    tries: list[Try] = []
    for _ in range(most):
        middle = (low + high) / 2
        tries.append(Try(ratio=middle, loss_nats=loss_of(middle)))
        distance = tries[-1].loss_nats - wanted_nats
        if abs(distance) <= tolerance_nats:
            break
        low, high = (low, middle) if distance > 0 else (middle, high)
    return min(tries, key=lambda each: abs(each.loss_nats - wanted_nats))


def mean_nats(window_nats: Sequence[float], window_tokens: Sequence[int]) -> float:
    """A token's mean loss from the sums of windows."""
    return sum(window_nats) / sum(window_tokens)


def difference_interval(
    first_nats: Sequence[float], second_nats: Sequence[float], window_tokens: Sequence[int]
) -> tuple[float, float, float]:
    """(first less second, low, high) in nats a token: what makes a window hard is hard for both, so windows are paired.

    95 %, by Student's t over windows and `standard_error_nats` of their differences. Raises ValueError for one window.
    """
    pairs = zip(first_nats, second_nats, window_tokens, strict=True)
    sums = [Sums(tokens=tokens, loss_nats=first - second) for first, second, tokens in pairs]
    error = standard_error_nats(sums)
    if error is None:
        raise ValueError("one window has no interval")
    value = sum(each.loss_nats for each in sums) / sum(window_tokens)
    half = float(stats.t.ppf(0.975, len(sums) - 1)) * error
    return value, value - half, value + half
