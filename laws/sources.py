"""What lies in the folders of a report? Runs, comparisons, searches and sweeps, told apart by the file they hold.

A comparison and a sweep bring the runs inside them along, so that their levels stand beside those of single runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from artifacts.campaign import CAMPAIGN_NAME, Campaign
from artifacts.capacity import SEARCH_NAME, CapacitySearch
from artifacts.errors import ConfigError
from artifacts.run import RUN_NAME, RunManifest, load_run
from artifacts.sweep import SWEEP_NAME, Sweep
from laws.replay import compare_command, loadtest_command, search_command, sweep_command


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcedRun:
    """A run, where it lies, how the report calls it, which of the folders it came with, whether its numbers count.

    `compared`: it belongs to a comparison, whose verdicts call its level by its bare label.
    A sweep also uses levels that overload the server: it judges its runs by the load client's gates alone.
    """

    folder: Path
    name: str
    source: str
    manifest: RunManifest
    valid: bool
    compared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """`looked_at` are runs of searches that tell what was served; they are no levels of their own."""

    runs: tuple[SourcedRun, ...] = ()
    campaigns: tuple[Campaign, ...] = ()
    searches: tuple[CapacitySearch, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    looked_at: tuple[RunManifest, ...] = ()
    commands: tuple[str, ...] = ()

    def __add__(self, other: Sources) -> Sources:
        return Sources(
            runs=self.runs + other.runs,
            campaigns=self.campaigns + other.campaigns,
            searches=self.searches + other.searches,
            sweeps=self.sweeps + other.sweeps,
            looked_at=self.looked_at + other.looked_at,
            commands=self.commands + other.commands,
        )


def read_sources(folders: list[Path]) -> Sources:
    """Raises ConfigError if a folder holds none of the four, or what it holds is damaged."""
    found = Sources()
    for folder in folders:
        found += _read(folder)
    return found


def _read(folder: Path) -> Sources:
    for name, read in _READERS.items():
        if (folder / name).is_file():
            return read(folder)
    raise ConfigError(
        f"{folder} holds no {', '.join(_READERS)}. Give folders that `prunebench loadtest`, `compare`, `search` or "
        "`sweep` wrote with --out."
    )


def _of_run(folder: Path) -> Sources:
    run = load_run(folder)
    sourced = SourcedRun(folder=folder, name=folder.name, source=folder.name, manifest=run, valid=run.valid)
    return Sources(runs=(sourced,), commands=(loadtest_command(folder.name, run),))


def _of_campaign(folder: Path) -> Sources:
    campaign = Campaign.load(folder / CAMPAIGN_NAME)
    runs = tuple(_inside(folder, level.folder, level.valid, compared=True) for level in campaign.levels)
    command = compare_command(folder.name, campaign, runs[0].manifest)
    return Sources(runs=runs, campaigns=(campaign,), commands=(command,))


def _of_sweep(folder: Path) -> Sources:
    sweep = Sweep.load(folder / SWEEP_NAME)
    runs = tuple(_inside(folder, point.folder, point.valid) for point in sweep.variants[0].points)
    return Sources(runs=runs, sweeps=(sweep,), commands=(sweep_command(folder.name, sweep),))


def _of_search(folder: Path) -> Sources:
    search = CapacitySearch.load(folder / SEARCH_NAME)
    first = [variant.levels[0].looks[0].folder for variant in search.variants if variant.levels]
    looked_at = tuple(load_run(folder / place) for place in first if (folder / place / RUN_NAME).is_file())
    return Sources(searches=(search,), looked_at=looked_at, commands=(search_command(folder.name, search),))


def _inside(folder: Path, place: str, valid: bool, compared: bool = False) -> SourcedRun:
    return SourcedRun(
        folder=folder / place,
        name=f"{folder.name}/{place}",
        source=folder.name,
        manifest=load_run(folder / place),
        valid=valid,
        compared=compared,
    )


_READERS = {RUN_NAME: _of_run, CAMPAIGN_NAME: _of_campaign, SEARCH_NAME: _of_search, SWEEP_NAME: _of_sweep}
