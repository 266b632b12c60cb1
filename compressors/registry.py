"""What a pruning method is: a frozen configuration, what it can remove, and one pure function that ranks or chooses.

The registry is keyed by the type of the configuration, so a resolved configuration alone says which method made a
variant. A method sees evidence and returns a ranking or indices; it never changes a model. How many units a layer loses
is not its business: see `allocation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Literal

from torch import Tensor

from artifacts.errors import ConfigError
from artifacts.variant import Unit
from compressors.arch import UnitGroup
from compressors.depth import DepthEvidence
from compressors.mask_evidence import FfnEvidence, MatrixEvidence
from compressors.plan import Allocation, Ranking
from compressors.refinement import HalfEvidence, Refined
from compressors.statistics import ConsumerStatistics

# What a width method wants to know beside the weights. Each includes what stands before it:
# * "energy": sums and sums of squares of the consumer's inputs, over calibration tokens;
# * "gram": X^T X and Y^T X of the inputs and the wanted outputs;
# "gradients" stands alone: the language-model loss's gradient in `.grad` of every coupled weight of the dense model.
Need = Literal["nothing", "energy", "gram", "gradients"]

# What is looked at before anything is cut, which decides how much memory it takes: nothing, how the dense states turn,
# candidates against the dense model, the directions of its stream, rankings on it, refitted levels, or drawn masks.
Survey = Literal["none", "influence", "candidates", "basis", "rankings", "levels", "masks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthEvidence:
    """One kind of unit in one layer.

    `statistics` are the consumer's, None where the method needs nothing or gradients. `most_removed` is how far down
    the order will be followed at most: an iterated method may stop there. `random` is seeded by the run's seed, the
    layer and the unit.
    """

    group: UnitGroup
    statistics: ConsumerStatistics | None
    most_removed: int
    random: Random

    @property
    def required_statistics(self) -> ConsumerStatistics:
        """Raises ConfigError without calibration."""
        if self.statistics is None:
            raise ConfigError("This method needs calibration text. Give --calibration FILE or a hub dataset.")
        return self.statistics


WidthRanker = Callable[[Any, WidthEvidence], Ranking]
DepthSelector = Callable[[Any, DepthEvidence], Allocation]
BasisFinder = Callable[[Any, Iterator[Tensor]], Tensor]
MatrixMasker = Callable[[Any, MatrixEvidence], tuple[Tensor, ...]]
HalfRefiner = Callable[[Any, HalfEvidence], Refined]
FfnMasker = Callable[[Any, FfnEvidence], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """`rank_width(config, evidence)` orders the units of a layer; `select_depth(config, evidence)` removes
    layers, or halves of them, and says what is left; `find_basis(config, states)` orders directions of the residual
    stream [hidden, hidden] from the states [windows, tokens, hidden] in front of every half layer and the head;
    `mask_matrices(config, evidence)` gives matrices with a common input their zeros. A method has one of the four, or
    `learns` masks of units instead (`mask_learning`), its configuration saying how. One that masks weights may have
    `mask_ffn(config, evidence)` for the three matrices of an FFN (gate, up, down) together; one that ranks may have
    `refine(config, evidence)`, which chooses and refits a half as a whole where there is a ridge repair.

    The first of `units` is pruned when a user names none. `survey` says what the latter two look at, `candidates` how
    many of them are judged together, None for one per removal that is possible.
    """

    name: str
    config: Any
    units: tuple[Unit, ...]
    needs: Need
    paper: str
    rank_width: WidthRanker | None = None
    select_depth: DepthSelector | None = None
    find_basis: BasisFinder | None = None
    mask_matrices: MatrixMasker | None = None
    mask_ffn: FfnMasker | None = None
    learns: bool = False
    refine: HalfRefiner | None = None
    survey: Survey = "none"
    candidates: int | None = None

    @property
    def needs_calibration(self) -> bool:
        return self.needs != "nothing"

    @property
    def can_be_repaired(self) -> bool:
        """Whether matrices stay that a repair can refit: whole layers leave none, a refit would fill a mask."""
        return self.select_depth is None and not self.masks

    @property
    def masks(self) -> bool:
        """Whether single weights become zero and every shape stays."""
        return self.mask_matrices is not None

    @property
    def resolved_config(self) -> dict[str, Any]:
        return asdict(self.config)


class Registry:
    """Methods by the type of their configuration, and by name for the command line."""

    def __init__(self, methods: Iterable[Method]) -> None:
        self._by_config = {type(method.config): method for method in methods}

    def of(self, config: object) -> Method:
        return self._by_config[type(config)]

    def named(self, name: str) -> Method:
        """Raises ConfigError naming the known methods."""
        for method in self._by_config.values():
            if method.name == name:
                return method
        raise ConfigError(f"method {name!r} is unknown. Known methods are {', '.join(self.names)}.")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(method.name for method in self._by_config.values())
