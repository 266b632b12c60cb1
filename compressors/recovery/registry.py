"""What a recovery method is: a frozen configuration, its paper, and a generator of things to train.

A method yields `Stage`s; the trainer trains each before it asks for the next. What stands behind a `yield` therefore
runs when that stage's weights are final: adapters are merged there, and hidden states move on to the next layer. The
same holds when a killed run is continued: finished stages are filled from the saved state instead of trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import Tensor, nn

from artifacts.errors import ConfigError
from compressors.recovery.patient import Patient


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One thing to train. `loss(indices)` is the mean loss over the training windows with these indices, [batch] long.

    `windows` is how many there are to draw from, `total` the number of stages of the whole run. Names of `parameters`
    are unique over all stages.
    """

    name: str
    total: int
    windows: int
    parameters: dict[str, nn.Parameter]
    loss: Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryMethod:
    """`stages(config, patient)` yields what to train; `objective` says what the training loss is, with its unit.

    `rate_times_width(config)` over the model's hidden size is the peak learning rate when none is given: the rate that
    suits Adam falls with the width (Yang et al., arXiv 2203.03466).
    """

    name: str
    config: Any
    needs_teacher: bool
    objective: str
    paper: str
    rate_times_width: Callable[[Any], float]
    stages: Callable[[Any, Patient], Iterator[Stage]]

    def configured(self, hidden: int, **given: object) -> Any:
        """The configuration with everything that was given (not None) and a learning rate.

        Raises ConfigError for a knob that the method lacks.
        """
        wanted = {name: value for name, value in given.items() if value is not None}
        known = {field.name for field in fields(self.config)}
        foreign = sorted(wanted.keys() - known)
        if foreign:
            raise ConfigError(
                f"Recovery method {self.name} has no {foreign[0].replace('_', ' ')}. It has {', '.join(sorted(known))}."
            )
        config = replace(self.config, **wanted)
        if config.learning_rate is None:
            config = replace(config, learning_rate=self.rate_times_width(config) / hidden)
        return config


def resolved(config: Any) -> dict[str, Any]:
    """The configuration as it goes into `variant.json`."""
    return asdict(config)
