"""A powercap tree as the kernel shows it, whose counters a test moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import perf_counter

from artifacts.priority import served_first

RANGE_J = 262143.328


def zone(folder: Path, name: str, joules: float = 0.0, range_j: float = RANGE_J) -> Path:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{round(range_j * 1e6)}\n")
    set_joules(folder, joules)
    return folder


def set_joules(folder: Path, joules: float) -> None:
    """In one step, as a reader of the kernel's file sees it."""
    (folder / "new").write_text(f"{round(joules * 1e6)}\n")
    (folder / "new").replace(folder / "energy_uj")


@contextmanager
def drawing(folder: Path, watts: float, range_j: float = RANGE_J, each_s: float = 0.004) -> Iterator[None]:
    """Counts `watts` from 0 on, and around at `range_j`."""
    over, begun_s = Event(), perf_counter()

    def count() -> None:
        with served_first():  # on a busy machine the counter must not stand still
            while not over.wait(each_s):
                set_joules(folder, (perf_counter() - begun_s) * watts % range_j)

    thread = Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
