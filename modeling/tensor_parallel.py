"""On how many devices can layers of these shapes be split?

vLLM checks the model-wide maximum before it starts and each layer by a bare assertion while it loads, so a bad layer
would end an engine without a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from artifacts.errors import ConfigError


def require_divisible(shapes: Sequence[Mapping[str, int]], tensor_parallel: int) -> None:
    """Raises ConfigError naming the first layer that `tensor_parallel` devices cannot share evenly.

    Query heads and FFN channels are dealt out whole. KV heads are dealt out, or each is copied to several devices where
    they are fewer than the devices. A removed half of a layer (0) fits any number.
    """
    for index, shape in enumerate(shapes):
        for what, count, fits in _splits(shape, tensor_parallel):
            if not fits:
                raise ConfigError(
                    f"Layer {index} has {count} {what}, which {tensor_parallel} devices cannot share. "
                    f"Use a tensor-parallel size of {_sizes_that_fit(shapes, tensor_parallel)}, or prune to multiples "
                    f"of {tensor_parallel}."
                )


def _splits(shape: Mapping[str, int], devices: int) -> tuple[tuple[str, int, bool], ...]:
    queries, groups, width = shape["query_heads"], shape["kv_heads"], shape["ffn_width"]
    shared = not groups or groups % devices == 0 or devices % groups == 0
    return (
        ("query heads", queries, queries % devices == 0),
        ("KV heads", groups, shared),
        ("FFN channels", width, width % devices == 0),
    )


def _sizes_that_fit(shapes: Sequence[Mapping[str, int]], below: int) -> str:
    sizes = range(1, below)
    fitting = [n for n in sizes if all(fits for shape in shapes for _, _, fits in _splits(shape, n))]
    return " or ".join(map(str, fitting))
