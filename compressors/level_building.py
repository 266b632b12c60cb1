"""Makes half layers at many widths in one pass: the database that a search over allocations looks its levels up in.

Every level is ranked and repaired on the stream as the *base* allocation leaves it, so it is right for candidates near
the base and stale far from it; a search therefore rebuilds around the best it has found. Gram matrices live for one
half at a time: all its levels are solved from them before the pass goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artifacts.progress import Progress, silent
from compressors.arch import WIDTH_UNITS, Half, LayerView, unit_columns
from compressors.blocks import BlockModel
from compressors.level_store import level_bytes, store_for
from compressors.levels import LevelLibrary, with_own_half
from compressors.plan import Allocation, LayerBudget
from compressors.sequential import PruningJob, cut_and_repair, rank_half
from compressors.streams import Streams
from modeling.pruned_config import head_width

Counts = Mapping[Half, Sequence[int]]


@torch.inference_mode()
def build_levels(
    model: BlockModel,
    job: PruningJob,
    windows: Tensor | None,
    base: Allocation,
    counts: Counts,
    progress: Progress = silent,
    folder: Path | None = None,
) -> LevelLibrary:
    """Levels of the wanted counts, and of the base's own, by half layer.

    `windows` [N, T] of token ids may be None for a job that looks at no activations. Levels that memory is not to hold
    go to `folder`, where whatever is there is removed. None keeps them in memory.
    """
    streams = None
    if windows is not None and job.wants_streams:
        streams = Streams(model, windows, keep_dense=job.wants_products)
    library = LevelLibrary(store=store_for(_size_bytes(model.config, counts, job.dtype), folder, job.dtype))
    for index in range(len(model)):
        progress("levels", index, len(model))
        _build_block(library, index, model.load(index), job, streams, base[index], counts)
    progress("levels", len(model), len(model))
    return library


def _size_bytes(config: Any, counts: Counts, dtype: torch.dtype) -> int:
    columns = unit_columns(config.num_attention_heads, config.num_key_value_heads, head_width(config))
    return level_bytes(counts, columns, config.hidden_size, dtype)


def _build_block(
    library: LevelLibrary,
    index: int,
    layer: LayerView,
    job: PruningJob,
    streams: Streams | None,
    base: LayerBudget,
    counts: Counts,
) -> None:
    for unit in WIDTH_UNITS:
        wanted = {*counts.get((index, unit), ()), base.count(unit)}
        _build_half(library, (index, unit), layer, job, streams, base.count(unit), wanted)


def _build_half(
    library: LevelLibrary,
    half: Half,
    layer: LayerView,
    job: PruningJob,
    streams: Streams | None,
    base_count: int,
    wanted: set[int],
) -> None:
    index, unit = half
    full = layer.count(unit)
    cut = sorted(wanted - {0, full})
    if not cut:
        _pass(layer, half, streams, absent=base_count == 0)
        return
    statistics = None if streams is None else streams.observe(index, layer, unit)
    library.rankings[half] = rank_half(index, layer, unit, job, statistics, full - cut[0])
    for count in cut if job.repair != "none" else ():
        own = with_own_half(layer, unit)
        cut_and_repair(own.group(unit), library.rankings[half].kept(count), statistics, job)
        library.store.keep(half, count, own.group(unit).consumer)
    if streams is not None:
        streams.pruned.move(index, library.at(index, layer, unit, base_count), unit)


def _pass(layer: LayerView, half: Half, streams: Streams | None, *, absent: bool) -> None:
    """Moves the streams behind a half of which no level is wanted."""
    index, unit = half
    if streams is None:
        return
    if absent:
        streams.skip(index, layer, unit)
    else:
        streams.advance(index, layer, unit)
