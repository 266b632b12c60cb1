"""Makes half layers at many widths in one pass: the database that a search over allocations looks its levels up in.

Every level is ranked and repaired on the stream as the *base* allocation leaves it, so it is right for candidates near
the base and stale far from it; a search therefore rebuilds around the best it has found. Gram matrices live for one
half at a time: all its levels are solved from them before the pass goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from artifacts.progress import Progress, silent
from compressors.arch import WIDTH_UNITS, LayerView
from compressors.blocks import BlockModel
from compressors.levels import Half, LevelLibrary, with_own_half
from compressors.plan import Allocation
from compressors.sequential import PruningJob, cut_and_repair, rank_half
from compressors.streams import Streams

Counts = Mapping[Half, Sequence[int]]


@torch.inference_mode()
def build_levels(
    model: BlockModel,
    job: PruningJob,
    windows: Tensor | None,
    base: Allocation,
    counts: Counts,
    progress: Progress = silent,
) -> LevelLibrary:
    """Levels of the wanted counts, and of the base's own, by half layer.

    `windows` [N, T] of token ids may be None for a job that looks at no activations.
    """
    streams = None
    if windows is not None and job.wants_streams:
        streams = Streams(model, windows, keep_dense=job.wants_products)
    library = LevelLibrary()
    for index in range(len(model)):
        progress("levels", index, len(model))
        layer = model.load(index)
        for unit in WIDTH_UNITS:
            wanted = {*counts.get((index, unit), ()), base[index].count(unit)}
            _build_half(library, (index, unit), layer, job, streams, base[index].count(unit), wanted)
    progress("levels", len(model), len(model))
    return library


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
        consumer = own.group(unit).consumer
        library.consumers[half, count] = consumer.weight.detach()
        if consumer.bias is not None:
            library.biases[half, count] = consumer.bias.detach()
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
