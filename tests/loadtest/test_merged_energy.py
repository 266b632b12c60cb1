"""Several client processes, one machine: one of them reads its meters, and what it read is the run's."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.energy import EnergyLog, WindowEnergy
from artifacts.run import Window, write_requests
from loadtest.plan import Outcome
from loadtest.player import merged
from loadtest.protocol import OUTCOME_NAME, RECORDS_NAME, part_name
from tests.loadtest.plans import small_plan

LOG = EnergyLog(meters="read", windows=(WindowEnergy(arm=0, block=0, duration_s=0.5, devices=()),), readings=7)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [((LOG, None), LOG), ((None, None), None), ((EnergyLog(meters="remote"), None), EnergyLog(meters="remote"))],
)
def test_what_one_process_read_is_the_runs(
    tmp_path: Path, parts: tuple[EnergyLog | None, ...], expected: EnergyLog | None
) -> None:
    for number, log in enumerate(parts):
        windows = (Window(arm=0, block=0, start_s=0, end_s=0.5),)
        outcome = Outcome(windows=windows, client_cpu_s=0.1, served_first=True, energy=log)
        outcome.save(tmp_path / part_name(OUTCOME_NAME, number))
        write_requests(tmp_path / part_name(RECORDS_NAME, number), [])
    _, outcome = merged(small_plan(client_processes=len(parts)), tmp_path)
    assert outcome.energy == expected


def test_an_outcome_from_before_meters_is_read(tmp_path: Path) -> None:
    (tmp_path / "outcome.json").write_text('{"windows": [], "client_cpu_s": 0.1, "served_first": true}')
    assert Outcome.load(tmp_path / "outcome.json").energy is None
