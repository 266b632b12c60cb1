"""What a load test says of energy on the command line: its figures per token, and why there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from artifacts.energy import ArmEnergy, Energy, WindowEnergy
from artifacts.run import Level, RunManifest, Workload
from loadtest.runner import LoadTestRequest
from prunebench import loading
from prunebench.loading import measure_load, remarks
from tests.laws.conftest import make_run

ARM = ArmEnergy(
    arm=0,
    model="dense",
    kind="cpu",
    windows=8,
    windows_total=8,
    joules=100,
    output_tokens=400,
    watts=50,
    idle_watts=None,
    joules_per_token=0.25,
    above_idle_joules_per_token=None,
)
READ = Energy(meters="read", arms=(ARM,), windows=(WindowEnergy(arm=0, block=0, duration_s=2, devices=()),))


def run_with(energy: Energy | None) -> RunManifest:
    return make_run(Level(concurrency=1)).model_copy(update={"energy": energy})


@pytest.mark.parametrize(
    ("energy", "told"),
    [(None, 0), (READ, 0), (Energy(meters="none"), 0), (Energy(meters="remote"), 0), (Energy(meters="forbidden"), 1)],
)
def test_only_what_somebody_can_change_is_remarked(energy: Energy | None, told: int) -> None:
    said = [remark for remark in remarks(run_with(energy)) if "Energy was not read" in remark]
    assert len(said) == told
    assert all("Run as root" in remark for remark in said)


def test_joules_per_token_are_printed_and_windows_are_left_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "run_load_test", lambda *_: run_with(READ))
    work = Workload(prompt_tokens=10, output_tokens=20)
    request = LoadTestRequest(
        url="http://gpu-1.example:1",
        models=("small",),
        against=None,
        level=Level(concurrency=1),
        workload=work,
        duration_s=1,
        out=tmp_path / "run",
    )
    assert measure_load(request)
    printed: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["energy"] == {"meters": "read", "arms": [ARM.model_dump()]}
    assert {"arms", "comparisons", "mixed", "valid"} <= printed.keys()
