"""One file per method: its configuration, its choice of survivors, its paper. This list is the registry's content."""

from __future__ import annotations

from compressors.methods import (
    block_influence,
    evolutionary_depth,
    flap,
    greedy_depth,
    hidden_slice,
    layer_chop,
    magnitude,
    modegpt_mlp,
    obs,
    policy_gradient,
    prunenet,
    random_units,
    sparsegpt,
    sparsellm,
    sparsellm_structured,
    taylor,
    wanda,
    wanda_sp,
    weight_magnitude,
)
from compressors.registry import Registry

REGISTRY = Registry(
    module.METHOD
    for module in (
        *(random_units, magnitude, wanda_sp, flap, taylor, obs, modegpt_mlp, prunenet, sparsellm_structured),
        *(policy_gradient, block_influence, greedy_depth, evolutionary_depth, layer_chop, hidden_slice),
        *(weight_magnitude, wanda, sparsegpt, sparsellm),
    )
)
