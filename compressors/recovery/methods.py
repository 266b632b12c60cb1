"""Which recovery methods there are: this list is what the command line offers."""

from __future__ import annotations

from artifacts.errors import ConfigError
from compressors.recovery import block_local, distillation, full, lora
from compressors.recovery.registry import RecoveryMethod

METHODS: dict[str, RecoveryMethod] = {
    method.name: method for method in (lora.METHOD, full.METHOD, distillation.METHOD, block_local.METHOD)
}


def method_named(name: str) -> RecoveryMethod:
    """Raises ConfigError naming the known methods."""
    if name not in METHODS:
        raise ConfigError(f"recovery method {name!r} is unknown. Known methods are {', '.join(METHODS)}.")
    return METHODS[name]
