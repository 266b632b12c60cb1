"""OBS: the unit goes whose loss the others can best make up for, one after the other, each time counting the repair.

Selection and ridge repair share one objective, so the order found here is greedy for exactly what the repair will leave
(`second_order` has the mathematics). A unit that two others can replace costs nothing; of two twins only one is cheap.

A cost is a squared norm over the consumer's rows; the order knows nothing else of them. Where there are more than
`most_rows`, random signed sums of them stand in for the choice. The repair always fits every row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compressors.compensation import damping_share
from compressors.plan import Ranking, rank_by_score
from compressors.registry import Method, WidthEvidence
from compressors.second_order import MOST_ROWS, Elimination, quadratic_of, signed_sums


@dataclass(frozen=True, slots=True, kw_only=True)
class ObsConfig:
    """`batch` units go between two looks at all units; None decides by the width.

    `target` is what the survivors are to reproduce: the "dense" residual stream, as the repair does, or the layer's
    "own" output before the cut. At most `most_rows` sums of the consumer's rows decide, every row if there are no more.
    """

    batch: int | None = None
    target: Literal["dense", "own"] = "dense"
    most_rows: int = MOST_ROWS


def rank(config: ObsConfig, evidence: WidthEvidence) -> Ranking:
    """A cost is the growth of the repair's objective, in squared residual-stream units summed over all tokens."""
    group, statistics = evidence.group, evidence.required_statistics
    assert statistics.gram is not None
    if not bool(statistics.gram.diagonal().any()):
        return rank_by_score([0.0] * group.count)
    kept_columns = (group.count - evidence.most_removed) * group.columns_per_unit
    damping = damping_share(kept_columns, statistics.tokens)
    summed = _row_sums(config.most_rows, evidence)
    cross = None if config.target == "own" or statistics.cross is None else summed(statistics.cross)
    # No name for the quadratic: the elimination drops what is gone of the weights, and a name would keep them alive.
    elimination = Elimination(
        quadratic_of(summed(group.consumer.weight.detach()), statistics.gram, cross, damping),
        group.columns_per_unit,
        batch=config.batch,
    )
    elimination.remove(evidence.most_removed)
    return elimination.ranking()


def _row_sums(most: int, evidence: WidthEvidence) -> Callable[[Tensor], Tensor]:
    """The same sums of whatever has the consumer's rows."""
    seed = evidence.random.getrandbits(32)
    return lambda rows: signed_sums(rows, most, torch.Generator().manual_seed(seed))


METHOD = Method(
    name="obs",
    config=ObsConfig(),
    units=("ffn", "kv"),
    needs="gram",
    paper="Hassibi and Stork's optimal brain surgeon in blocks: ZipLM (arXiv 2302.04089), SlimGPT (2412.18110), "
    "OSSCAR (2403.12983)",
    rank_width=rank,
)
