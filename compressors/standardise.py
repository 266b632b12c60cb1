"""How costs of different layers become comparable when their currency is the layer's own."""

from __future__ import annotations

from torch import Tensor


def standardised(costs: Tensor) -> Tensor:
    """Costs [units] of one kind of unit in one layer, as standard deviations above their mean (FLAP, arXiv 2312.11983).

    Population deviation; all zero where all costs are equal. A ranking keeps its raw costs: sums over layers need them,
    one threshold over all layers needs these.
    """
    centred = costs - costs.mean()
    spread = centred.square().mean().sqrt()
    return centred / spread if float(spread) > 0 else centred
