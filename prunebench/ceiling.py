"""The ceiling card: what the hardware allows at most, printed before a load test, and how much of it was reached after.

The hardware's two numbers come from --hardware FILE or from what `prunebench hardware` measured on this machine. The
latter counts only for a server on this machine, and only where no GPU may be what serves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from artifacts.nvml import (
    MEMORY_CLOCK_HZ,
    MOST_MEMORY_CLOCK_HZ,
    MOST_SM_CLOCK_HZ,
    POWER_CAP_W,
    SM_CLOCK_HZ,
    Board,
    Question,
    boards_of,
    installed_nvml,
)
from artifacts.provenance import collect_provenance
from artifacts.run import Level, Workload, load_run
from artifacts.units import quantity
from artifacts.variant import load_variant
from laws.ceiling import card_table, ceiling_rows, mean_context_tokens, reached_table, served_manifests
from laws.hardware import cache_file, measure_cpu
from laws.roofline import Hardware
from loadtest.endpoint import Endpoint, is_local
from loadtest.mix import models_of
from loadtest.protocol import API_KEY_VARIABLE
from prunebench.console import note, show_table


def show_card(
    file: Path | None, url: str, arms: Sequence[str], levels: Iterable[Level], workload: Workload
) -> Hardware | None:
    """Prints the card; returns the hardware it is of, None where nothing is known about it.

    Of GPUs here the caps and clocks come first, known without any file.

    Raises ConfigError for a damaged file or manifest, LoadTestError if the server cannot be asked.
    """
    for line in board_lines(boards_of(installed_nvml()) if is_local(url) else ()):
        note(line)
    hardware = hardware_of(file, url)
    if hardware is None:
        return None
    models = models_of(arms)
    served = Endpoint(url, os.environ.get(API_KEY_VARIABLE)).models()
    variants = served_manifests({model: served[model] for model in models if model in served})
    note(f"The ceiling by {hardware.name}, {hardware.source}:")
    if mean_context_tokens(workload) is None:
        note("unknown, because the mean length of what is asked is.")
        return hardware
    show_table(card_table(variants, hardware, levels, workload))
    silent = [model for model in models if model not in variants]
    if silent:
        note(f"No ceiling for {', '.join(silent)}: the server does not say how large it is.")
    return hardware


def board_lines(boards: Iterable[Board]) -> list[str]:
    """What holds each GPU's speed down in any case: its power cap, and its clocks now and at most."""
    return [
        f"GPU {board.index}: power cap {_told(board, POWER_CAP_W, 'W')}, "
        f"SM clock {_told(board, SM_CLOCK_HZ, 'Hz')} of {_told(board, MOST_SM_CLOCK_HZ, 'Hz')}, "
        f"memory clock {_told(board, MEMORY_CLOCK_HZ, 'Hz')} of {_told(board, MOST_MEMORY_CLOCK_HZ, 'Hz')}."
        for board in boards
    ]


def _told(board: Board, question: Question, unit: str) -> str:
    value = board.number(question)
    return "unknown" if value is None else quantity(value, unit)


def show_reached(hardware: Hardware | None, folders: Iterable[Path]) -> None:
    """Prints what the runs reached of their ceilings, if there is anything to say."""
    if hardware is None:
        return
    runs = [load_run(folder) for folder in folders]
    rows = [row for run in runs for row in ceiling_rows(run, run.arms, served_manifests(run.served), hardware)]
    if rows:
        show_table(reached_table(rows))


def hardware_of(file: Path | None, url: str) -> Hardware | None:
    """The file's, or what was measured here if the server is here; None where neither is so."""
    if file is not None:
        return Hardware.load(file)
    known = cache_file()
    if not known.is_file() or not is_local(url) or collect_provenance().gpus:
        return None
    return Hardware.load(known)


def measure_hardware(variant: Path, out: Path | None, device: str) -> tuple[Path, Hardware]:
    """Measures the GPU, or this CPU with the working set of a variant's weights, and saves it; returns where, and what.

    Raises ConfigError for a GPU that is not there, CheckpointError for what is no variant.
    """
    if device == "cuda":
        from modeling.device_speed import measure_gpu

        hardware = measure_gpu()
    else:
        hardware = measure_cpu(load_variant(variant).footprint.weights_bytes)
    place = out or cache_file()
    hardware.save(place)
    return place, hardware
