"""What do the papers say that pruning costs? Each law as a pure function, with its equation and where it stands.

A law predicts a loss or an accuracy of a pruned model from what is known before it is built: the dense model's value
(`base`, L0), the ratio r, and the tokens of recovery training (D). All functions broadcast: with parameters of shape
(replicates, 1) they give (replicates, points), and complex parameters give derivatives (complex step).

What the papers do not say is an option here and no guess: in which unit v1 counts D (`Conditions.d_unit`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

MILLION = 1e6
BILLION = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a law is told about each point; arrays of one length.

    `base` is the dense model's loss in nats per token, or its accuracy; `tokens` are recovery tokens as they are read;
    `base_params` and `params` count the dense and the pruned model's parameters. `d_unit` tokens are one D.
    """

    base: Floats
    ratio: Floats
    tokens: Floats
    base_params: Floats
    params: Floats
    d_unit: float = MILLION

    @property
    def d(self) -> Floats:
        return self.tokens / self.d_unit

    def __len__(self) -> int:
        return len(self.ratio)

    def at(self, index: Array) -> Conditions:
        """The chosen points."""
        names = ("base", "ratio", "tokens", "base_params", "params")
        return replace(self, **{name: getattr(self, name)[index] for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """One form. `starts` are where a search begins; `neutral` holds the value of a parameter that data cannot tell.

    `log_terms` gives the columns that the parameters multiply in log space and the fixed rest, where the law is linear
    there. `defined` tells at which points the law says anything, `needs` how many different values of a condition
    tell its parameters apart at the least.
    """

    name: str
    equation: str
    source: str
    parameters: tuple[str, ...]
    value: Callable[[Sequence[Array], Conditions], Array]
    starts: tuple[tuple[float, ...], ...]
    log_terms: Callable[[Conditions], tuple[Floats, Floats]] | None = None
    neutral: Mapping[str, float] | None = None
    defined: Callable[[Conditions], Array] = lambda at: np.ones(len(at), dtype=bool)
    needs: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, parameters: Sequence[float] | Array, at: Conditions) -> Array:
        """Values at all points: shape (points,) for one set of parameters, (sets, points) for an array of them."""
        columns = np.asarray(parameters)
        values: Array = self.value([columns[..., i, None] for i in range(len(self.parameters))], at)
        return values.reshape((*columns.shape[:-1], len(at)))


def recovery_factor(at: Conditions) -> Floats:
    """1 + 1 / (D + 1): 2 without recovery, 1 with endless recovery."""
    return 1 + 1 / (at.d + 1)


def _v1(p: Sequence[Array], at: Conditions) -> Array:
    alpha, beta, gamma = p
    return np.asarray(at.base**alpha * (1 + at.ratio) ** beta * recovery_factor(at) ** gamma)


def _v1_terms(at: Conditions) -> tuple[Floats, Floats]:
    columns = (np.log(at.base), np.log1p(at.ratio), np.log(recovery_factor(at)))
    return np.column_stack(columns), np.zeros(len(at))


def _v2(p: Sequence[Array], at: Conditions) -> Array:
    log_p0, alpha = p
    return np.asarray(at.base * np.exp(log_p0) * (1 - at.ratio) ** alpha)


def _v2_terms(at: Conditions) -> tuple[Floats, Floats]:
    return np.column_stack((np.ones(len(at)), np.log1p(-at.ratio))), np.log(at.base)


def _linear(p: Sequence[Array], at: Conditions) -> Array:
    slope, gamma = p
    return at.base * (1 + slope * at.ratio) * recovery_factor(at) ** gamma


def _quadratic(p: Sequence[Array], at: Conditions) -> Array:
    slope, curvature, gamma = p
    return at.base * (1 + slope * at.ratio + curvature * at.ratio**2) * recovery_factor(at) ** gamma


def _p2(p: Sequence[Array], at: Conditions) -> Array:
    n_c, d_c, rest, alpha, beta, gamma, delta = p
    size = at.base_params / BILLION
    chinchilla = n_c / size**alpha + d_c / at.d**beta + rest
    return at.base + (1 / at.ratio) ** gamma * (1 / size) ** delta * chinchilla


def _sparse(p: Sequence[Array], at: Conditions) -> Array:
    a_s, b_s, c_s, b_n, a_d, b_d, rest = p
    of_size = (a_s * (1 - at.ratio) ** b_s + c_s) * (at.params / BILLION) ** -b_n
    return of_size + (a_d / at.d) ** b_d + rest


def _time_share(p: Sequence[Array], at: Conditions) -> Array:
    (share,) = p
    return at.base / (1 - share * at.ratio)


V1 = Law(
    name="v1",
    equation="L = L0^alpha (1 + r)^beta (1 + 1/(D + 1))^gamma",
    source="Compression Laws for Large Language Models (arXiv 2504.04342v1)",
    parameters=("alpha", "beta", "gamma"),
    value=_v1,
    starts=((1.0, 1.0, 0.0), (1.0, -1.0, 0.0)),
    log_terms=_v1_terms,
    neutral={"gamma": 0.0},
)
V2 = Law(
    name="v2",
    equation="L = L0 P0 (1 - r)^alpha; a loss L stands for the score 1 / L, which turns the signs of both round",
    source="Pruning Laws for Large Language Models (arXiv 2504.04342v2)",
    parameters=("log P0", "alpha"),
    value=_v2,
    starts=((0.0, -1.0), (0.0, 1.0)),
    log_terms=_v2_terms,
)
LINEAR = Law(
    name="linear",
    equation="L = L0 (1 + a r) (1 + 1/(D + 1))^gamma",
    source="for comparison",
    parameters=("a", "gamma"),
    value=_linear,
    starts=((1.0, 0.0), (-0.5, 0.0)),
    neutral={"gamma": 0.0},
)
QUADRATIC = Law(
    name="quadratic",
    equation="L = L0 (1 + a r + b r^2) (1 + 1/(D + 1))^gamma",
    source="for comparison",
    parameters=("a", "b", "gamma"),
    value=_quadratic,
    starts=((0.5, 1.0, 0.0), (-0.5, -0.1, 0.0)),
    neutral={"gamma": 0.0},
)
P2 = Law(
    name="P2",
    equation="L = L0 + (1/r)^gamma (1/N0)^delta (N_C/N0^alpha + D_C/D^beta + E), N0 in billions",
    source="P2 Law: Scaling Law for Post-Training After Model Pruning (arXiv 2411.10272)",
    parameters=("N_C", "D_C", "E", "alpha", "beta", "gamma", "delta"),
    value=_p2,
    starts=((0.5, 0.5, 0.2, 0.3, 0.3, -1.0, 0.1), (0.2, 1.0, 0.5, 0.5, 0.5, -2.0, 0.3)),
    defined=lambda at: (at.ratio > 0) & (at.tokens > 0),
    needs={"tokens": 3, "base_params": 3, "ratio": 2},
)
SPARSE = Law(
    name="sparse scaling",
    equation="L = (a_S (1 - S)^b_S + c_S) N^-b_N + (a_D/D)^b_D + c, N in billions of parameters that are left",
    source="Scaling Laws for Sparsely-Connected Foundation Models (arXiv 2309.08520)",
    parameters=("a_S", "b_S", "c_S", "b_N", "a_D", "b_D", "c"),
    value=_sparse,
    starts=((0.5, 1.0, 0.5, 0.3, 1.0, 0.3, 1.0), (1.0, 0.5, 0.2, 0.5, 2.0, 0.5, 0.5)),
    defined=lambda at: at.tokens > 0,
    needs={"tokens": 3, "ratio": 3, "params": 4},
)
TIME_SHARE = Law(
    name="time share",
    equation="speed-up = 1 / (1 - f r): the share f of a pass's time shrinks with r, the rest stays (Amdahl's law)",
    source="Amdahl, AFIPS 1967",
    parameters=("f",),
    value=_time_share,
    starts=((0.5,), (0.05,)),
)
LAWS: Mapping[str, Law] = {law.name: law for law in (V1, V2, LINEAR, QUADRATIC, P2, SPARSE)}
"""The laws of a loss or an accuracy, by name."""
