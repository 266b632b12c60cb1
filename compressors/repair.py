"""What is done to a consumer after its columns were cut: nothing, new weights, or a constant."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from compressors.bias_repair import refit_bias
from compressors.compensation import refit_consumer
from compressors.statistics import ConsumerStatistics

# "ridge" refits the weights and needs products of inputs and wanted outputs; "bias" needs sums of inputs, and a
# checkpoint format whose consumers have biases.
Repair = Literal["none", "ridge", "bias"]


def repair_consumer(
    repair: Repair, consumer: nn.Linear, base: Tensor, statistics: ConsumerStatistics, columns: Tensor
) -> None:
    """Mends `consumer`, already cut down to `columns` of its former weights `base` [rows, base columns].

    Raises CompressionError if the statistics are not finite or the ridge's system cannot be solved.
    """
    if repair == "ridge":
        refit_consumer(consumer, statistics, columns)
    elif repair == "bias":
        refit_bias(consumer, base, statistics, columns)
