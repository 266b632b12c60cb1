"""Which columns of a consumer can go when all the others may move to make up for it: optimal brain surgeon, exactly.

The repair's objective f(W) = ||Y - X W^T||^2 + lambda ||W - W_0||^2 (see `compensation`) is a quadratic with the
Hessian H = X^T X + lambda I around its optimum W* = (Y^T X + lambda W_0) H^-1. Forcing the columns S of W to zero while
the rest moves best costs

    tr(W_S ([H^-1]_SS)^-1 W_S^T),   W <- W - W_S ([H^-1]_SS)^-1 [H^-1]_S,:,   H^-1 <- H^-1 - [H^-1]_:,S (...) [H^-1]_S,:

(Hassibi and Stork's surgeon in blocks; ZipLM arXiv 2302.04089, SlimGPT 2412.18110, OSSCAR 2403.12983). Because the
removed columns of W_0 only add a constant, what is left after any sequence of removals is the ridge refit itself.

Rescoring everything after every removal would be bound by memory: W and H^-1 are read once per unit. Here each round
scores everything, takes a pool of the cheapest units and is exact and greedy inside the pool, where W matters only
through W_P^T W_P; then the round's removals are applied at once, to W directly and to H^-1 as a low-rank downdate that
is never written out: only the rows of a round's removals are needed again, and they are downdated on the way. That
costs fewer operations than writing out a triangle, and no second copy of the largest matrix. What is gone is dropped
from everything but H^-1 every `COMPACT_COLUMNS` columns. With a pool of all units the order is the plain greedy one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.compensation import factorise
from compressors.plan import Ranking
from compressors.statistics import require_finite

COMPACT_COLUMNS = 1024
# More rows of a consumer than these say little more about which columns can go.
MOST_ROWS = 1024
_EXACT_COLUMNS = 1024
_POOL_PER_BATCH = 2
_BATCH_COLUMNS = 128


@dataclass(frozen=True, slots=True)
class Quadratic:
    """`weights` [columns, rows] is the optimum, transposed; `inverse` [columns, columns] is H^-1."""

    weights: Tensor
    inverse: Tensor


def quadratic_of(base: Tensor, gram: Tensor, cross: Tensor | None, damping: float) -> Quadratic:
    """The quadratic of the weights `base` [rows, columns]; without `cross` the wanted output is `base` times the input.

    A column without signal can be had for nothing: its optimum is set to zero. Raises CompressionError if the products
    are not finite or cannot be factorised.
    """
    require_finite(gram) if cross is None else require_finite(gram, cross)
    factor, ridge = factorise(gram, damping)
    inverse = torch.cholesky_inverse(factor, out=factor)
    weights = base.T.to(gram).clone() if cross is None else inverse @ (cross + ridge * base.to(gram)).T
    weights[gram.diagonal() <= 0] = 0
    return Quadratic(weights.contiguous(), inverse)


def signed_sums(rows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """[sums, columns]: at most `most` sums of rows [rows, columns] with random signs, or the rows if they are no more.

    Any linear relation between columns is kept, and a column's squared norm on average: its standard deviation is
    sqrt(2 / sums) of it where it spreads over many rows. Signs come from the host: every device draws the same.
    """
    each = -(-len(rows) // most)
    if each <= 1:
        return rows
    signs = torch.randint(0, 2, (len(rows), 1), generator=generator).mul_(2).sub_(1).to(rows)
    sums = rows.new_zeros(-(-len(rows) // each), rows.shape[1])
    for first in range(each):
        part = rows[first::each]
        sums[: len(part)].addcmul_(part, signs[first::each])
    return sums


class Elimination:
    """Removes units of `width` columns one after the other. Owns and overwrites the quadratic it is given.

    `batch` units go between two looks at all units; None removes one by one up to 1024 columns, about 128 columns at a
    time above.
    """

    def __init__(self, quadratic: Quadratic, width: int, *, batch: int | None = None) -> None:
        self._weights, self._inverse, self._width = quadratic.weights, quadratic.inverse, width
        device, columns = self._weights.device, len(self._weights)
        self._base_columns = torch.arange(columns, device=device)
        self._units = torch.arange(columns // width, device=device)
        self._alive = torch.ones(len(self._units), dtype=torch.bool, device=device)
        self._inverse_blocks = diagonal_blocks(self._inverse, width).clone()
        self._identity = torch.eye(width, dtype=self._inverse.dtype, device=self._inverse.device)
        self._batch, self._pool = _round_sizes(len(self._units), width, batch)
        self._downdate = self._inverse.new_empty(columns, 0)
        self._removed = 0
        self.order: list[int] = []
        self.costs = torch.zeros(len(self._units), dtype=torch.float64)

    def remove(self, count: int) -> None:
        """Removes `count` more units, the cheapest first."""
        left = count
        self._reserve(count)
        while left > 0:
            left -= self._round(min(left, self._batch))

    def ranking(self) -> Ranking:
        """What was removed, then the rest by what it would cost next."""
        left, next_costs = self._survivors()
        costs = self.costs.clone()
        costs[left] = next_costs
        rest = sorted(left.tolist(), key=lambda unit: (float(costs[unit]), -unit))
        return Ranking(order=(*self.order, *rest), costs=costs)

    def survivors(self) -> tuple[Tensor, Tensor]:
        """Ascending base columns [kept] that are left and their optimal weights [rows, kept]."""
        columns = self._columns(self._alive.nonzero()[:, 0])
        return self._base_columns[columns], self._weights[columns].T

    def _survivors(self) -> tuple[Tensor, Tensor]:
        return self._units[self._alive].cpu(), self._all_costs()[self._alive].double().cpu()

    def _all_costs(self) -> Tensor:
        """[units] cost of each as the next removal; infinite for what is gone."""
        blocks = self._weights.view(len(self._alive), self._width, -1)
        costs = block_costs(_self_products(blocks), self._inverse_blocks)
        return torch.where(self._alive, costs, torch.inf)

    def _round(self, count: int) -> int:
        """Removes up to `count` units after one look at all."""
        costs = self._all_costs()
        pool = costs.topk(min(self._pool, int(self._alive.sum())), largest=False).indices.sort().values
        columns = self._columns(pool)
        weights = self._weights.index_select(0, columns)
        gone = self._gone.index_select(0, columns)
        base = self._base_columns[columns]
        inverse = self._inverse[base[:, None], base].addmm_(gone, gone.T, alpha=-1)
        picks, pick_costs = greedy_removal(weights @ weights.T, inverse, self._width, min(count, len(pool)))
        chosen = pool[picks]
        self._apply(chosen)
        self.order += self._units[chosen].tolist()
        self.costs[self._units[chosen].cpu()] = pick_costs.double().cpu()
        if len(self._alive) * self._width >= int(self._alive.sum()) * self._width + COMPACT_COLUMNS:
            self._compact()
        return len(picks)

    def _apply(self, chosen: Tensor) -> None:
        """Moves the survivors' weights to the optimum without `chosen` and takes note for the inverse."""
        columns, gone = self._columns(chosen), self._gone
        rows = self._inverse.index_select(0, self._base_columns[columns]).index_select(1, self._base_columns)
        rows.addmm_(gone.index_select(0, columns), gone.T, alpha=-1)
        factor = torch.linalg.cholesky(rows[:, columns])
        self._removed += len(columns)
        added = self._gone[:, len(gone.T) :]
        added.copy_(torch.linalg.solve_triangular(factor, rows, upper=False).T)
        scaled = torch.linalg.solve_triangular(factor, self._weights.index_select(0, columns), upper=False)
        self._weights.addmm_(added, scaled, alpha=-1)
        self._inverse_blocks -= _self_products(added.unflatten(0, (-1, self._width)))
        self._inverse_blocks[chosen] = self._identity
        self._alive[chosen] = False

    def _compact(self) -> None:
        """Drops what is gone, so that later rounds need not compute it."""
        kept = self._columns(self._alive.nonzero()[:, 0])
        self._base_columns = self._base_columns[kept]
        self._weights = self._weights.index_select(0, kept)
        self._downdate = _widened(self._gone.index_select(0, kept), self._downdate.shape[1])
        self._inverse_blocks = self._inverse_blocks[self._alive]
        self._units = self._units[self._alive]
        self._alive = self._alive[self._alive]

    @property
    def _gone(self) -> Tensor:
        """[columns, removed columns] F of the inverse's downdate F F^T."""
        return self._downdate[:, : self._removed]

    def _reserve(self, count: int) -> None:
        """Makes room for the downdate of `count` more units."""
        self._downdate = _widened(self._gone, self._removed + count * self._width)

    def _columns(self, units: Tensor) -> Tensor:
        return (units[:, None] * self._width + torch.arange(self._width, device=units.device)).flatten()


def greedy_removal(products: Tensor, inverse: Tensor, width: int, count: int) -> tuple[list[int], Tensor]:
    """The `count` units that go first when the cheapest goes at each step, and what each cost at its turn.

    `products` [columns, columns] is W^T W and `inverse` the inverse Hessian of the same columns; both are overwritten.
    """
    alive = torch.ones(len(products) // width, dtype=torch.bool, device=products.device)
    identity = torch.eye(width, dtype=inverse.dtype, device=inverse.device)
    picks: list[int] = []
    spent: list[Tensor] = []
    for _ in range(count):
        costs = block_costs(diagonal_blocks(products, width), diagonal_blocks(inverse, width))
        costs = torch.where(alive, costs, torch.inf)
        pick = int(costs.argmin())
        picks.append(pick)
        spent.append(costs[pick])
        alive[pick] = False
        _eliminate(products, inverse, slice(pick * width, (pick + 1) * width), identity)
    return picks, torch.stack(spent)


def _eliminate(products: Tensor, inverse: Tensor, gone: slice, identity: Tensor) -> None:
    """Both matrices after the block `gone` was forced to zero; its own inverse becomes the identity, to be harmless."""
    rows = inverse[gone].clone()
    moves = _solve(rows[:, gone], rows)
    half = products[:, gone] - 0.5 * moves.T @ products[gone, gone]
    products.addmm_(half, moves, alpha=-1)
    products.addmm_(moves.T, half.T, alpha=-1)
    inverse.addmm_(rows.T, moves, alpha=-1)
    inverse[gone, gone] = identity


def diagonal_blocks(matrix: Tensor, width: int) -> Tensor:
    """[units, width, width] view of the blocks on the diagonal."""
    units = len(matrix) // width
    return matrix.view(units, width, units, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def block_costs(products: Tensor, inverse: Tensor) -> Tensor:
    """[units] tr(M_u ([H^-1]_uu)^-1) of blocks M_u = W_u^T W_u [units, width, width]."""
    return _solve(inverse, products).diagonal(dim1=-2, dim2=-1).sum(dim=-1)


def _solve(blocks: Tensor, right: Tensor) -> Tensor:
    """`blocks^-1 right`; blocks of one column are divided by, which is many times quicker."""
    return right / blocks if blocks.shape[-1] == 1 else torch.linalg.solve(blocks, right)


def _widened(matrix: Tensor, columns: int) -> Tensor:
    """[rows, columns] that begins with `matrix`; the rest is yet to be written and costs no memory until then."""
    room = matrix.new_empty(len(matrix), columns)
    room[:, : matrix.shape[1]] = matrix
    return room


def _self_products(blocks: Tensor) -> Tensor:
    """[units, width, width] B B^T of [units, width, values]."""
    if blocks.shape[1] == 1:
        return torch.linalg.vector_norm(blocks, dim=2, keepdim=True).square()
    return blocks @ blocks.transpose(1, 2)


def _round_sizes(units: int, width: int, batch: int | None) -> tuple[int, int]:
    """Units removed per round, and units in its pool."""
    if batch is None:
        batch = round_columns(units * width, width) // width
    return batch, min(batch * _POOL_PER_BATCH, units)


def round_columns(columns: int, width: int) -> int:
    """Columns removed per round where nobody says otherwise: all of few, else about 128."""
    return columns if columns <= _EXACT_COLUMNS else max(width, _BATCH_COLUMNS // width * width)
