"""OBS: the unit goes whose loss the others can best make up for, one after the other, each time counting the repair.

Selection and ridge repair share one objective, so the order found here is greedy for exactly what the repair will leave
(`second_order` has the mathematics). A unit that two others can replace costs nothing; of two twins only one is cheap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compressors.compensation import damping_share
from compressors.plan import Ranking, rank_by_score
from compressors.registry import Method, WidthEvidence
from compressors.second_order import Elimination, quadratic_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ObsConfig:
    """`batch` units go between two looks at all units; None decides by the width.

    `target` is what the survivors are to reproduce: the "dense" residual stream, as the repair does, or the layer's
    "own" output before the cut.
    """

    batch: int | None = None
    target: Literal["dense", "own"] = "dense"


def rank(config: ObsConfig, evidence: WidthEvidence) -> Ranking:
    """A cost is the growth of the repair's objective, in squared residual-stream units summed over all tokens."""
    group, statistics = evidence.group, evidence.required_statistics
    assert statistics.gram is not None
    if not bool(statistics.gram.diagonal().any()):
        return rank_by_score([0.0] * group.count)
    kept_columns = (group.count - evidence.most_removed) * group.columns_per_unit
    damping = damping_share(kept_columns, statistics.tokens)
    cross = statistics.cross if config.target == "dense" else None
    # No name for the quadratic: the elimination drops what is gone of the weights, and a name would keep them alive.
    elimination = Elimination(
        quadratic_of(group.consumer.weight.detach(), statistics.gram, cross, damping),
        group.columns_per_unit,
        batch=config.batch,
    )
    elimination.remove(evidence.most_removed)
    return elimination.ranking()


METHOD = Method(
    name="obs",
    config=ObsConfig(),
    units=("ffn", "kv"),
    needs="gram",
    paper="Hassibi and Stork's optimal brain surgeon in blocks: ZipLM (arXiv 2302.04089), SlimGPT (2412.18110), "
    "OSSCAR (2403.12983)",
    rank_width=rank,
)
