"""Whole runs on a machine with meters: a compiled library in the driver's place, a powercap tree that wraps around.

Power is constant, so a token costs what its arm's speed says and no more: the energy ratio is the ratio of speeds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from truth_server import Behaviour, TruthServer

from artifacts import nvml as nvml_library
from artifacts.nvml import MOST_SM_CLOCK_HZ, boards_of, installed_nvml
from artifacts.run import Level, RunManifest, load_run, read_requests
from loadtest.endpoint import is_local, served_here
from loadtest.energy import summarise_energy
from loadtest.power_meters import POWERCAP_VARIABLE
from loadtest.runner import LoadTestRequest, run_load_test
from tests.powercap import drawing, zone

Serve = Callable[..., TruthServer]
Ask = Callable[..., LoadTestRequest]

GPU_WATTS = 500.0
CPU_WATTS = 40.0
WRAP_J = 25.0  # every 0.63 s


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("No C compiler is here to build the driver's stand-in.")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("driver.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / nvml_library.LIBRARY, source], check=True)
    return folder


@pytest.fixture(scope="module")
def metered(driver: Path, serve: Serve, ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run of two arms, the second at half the speed."""
    folder = tmp_path_factory.mktemp("metered")
    server = serve(models={"quick": Behaviour(0.01, 0.005), "slow": Behaviour(0.02, 0.01)})
    package = zone(folder / "powercap" / "intel-rapl:0", "package-0", range_j=WRAP_J)
    request = ask(
        server.url,
        folder / "run",
        models=("slow",),
        against="quick",
        level=Level(concurrency=3),
        duration_s=1.8,
        blocks=2,
        warmup_s=0.1,
    )
    with pytest.MonkeyPatch.context() as patch, drawing(package, CPU_WATTS, WRAP_J):
        patch.setenv("LD_LIBRARY_PATH", os.pathsep.join((str(driver), os.environ.get("LD_LIBRARY_PATH", ""))))
        patch.setenv(POWERCAP_VARIABLE, str(folder / "powercap"))
        run_load_test(request)
    yield folder / "run"


@pytest.fixture(scope="module")
def run(metered: Path) -> RunManifest:
    return load_run(metered)


def test_every_window_has_the_energy_of_each_device(run: RunManifest) -> None:
    assert run.energy is not None
    assert run.energy.meters == "read"
    assert [(w.arm, w.block) for w in run.energy.windows] == [(w.arm, w.block) for w in run.windows]
    for window in run.energy.windows:
        by_name = {device.device: device for device in window.devices}
        assert {name: (d.method, d.fault) for name, d in by_name.items()} == {
            "GPU 0": ("counter", None),
            "GPU 1": ("samples", None),
            "package-0": ("counter", None),
        }
        assert by_name["GPU 0"].joules == pytest.approx(300 * 0.9, rel=0.01)
        assert by_name["GPU 1"].joules == pytest.approx(200 * 0.9)
        assert by_name["package-0"].joules == pytest.approx(CPU_WATTS * 0.9, rel=0.05)  # written every 4 ms or later


def test_idle_power_and_the_cost_of_reading_are_told(run: RunManifest) -> None:
    assert run.energy is not None
    assert {d.device: d.joules for d in run.energy.idle} == pytest.approx(
        {"GPU 0": 600, "GPU 1": 400, "package-0": 2 * CPU_WATTS}, rel=0.05
    )
    assert run.energy.reading_p50_s is not None
    assert 0 < run.energy.reading_p50_s < 0.05


def test_joules_per_token_times_the_published_throughput_is_watts(run: RunManifest) -> None:
    assert run.energy is not None
    assert [(a.arm, a.kind, a.windows) for a in run.energy.arms] == [
        (0, "gpu", 2),
        (1, "gpu", 2),
        (0, "cpu", 2),
        (1, "cpu", 2),
    ]
    for arm in run.energy.arms:
        tokens_per_s = run.arms[arm.arm].measures["output_tokens_per_s"]
        assert tokens_per_s is not None and arm.joules_per_token is not None
        assert arm.joules_per_token * tokens_per_s == pytest.approx(arm.watts)
        assert arm.watts == pytest.approx({"gpu": GPU_WATTS, "cpu": CPU_WATTS}[arm.kind], rel=0.05)
        assert abs(arm.above_idle_joules_per_token or 0) < 0.05 * arm.joules_per_token


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_at_constant_power_the_energy_ratio_is_the_speeds(run: RunManifest, kind: str) -> None:
    (comparison,) = run.comparisons
    speeds = comparison.block_ratios["speedup_output_tokens_per_s"]
    assert comparison.block_ratios[f"energy_ratio_{kind}"] == pytest.approx(speeds, rel=0.06)
    assert comparison.ratios[f"energy_ratio_{kind}"].value == pytest.approx(0.5, rel=0.1)


def test_it_can_all_be_recomputed_from_what_was_written(metered: Path, run: RunManifest) -> None:
    records = read_requests(metered / "requests.parquet")
    assert summarise_energy(run.energy, ("quick", "slow"), records, run.windows) == run.energy


def test_the_boards_pass_their_gates(run: RunManifest) -> None:
    gates = {gate.name: gate for gate in run.gates}
    assert (gates["throttling"].observed, gates["power cap"].observed) == (0, 0)
    assert gates["throttling"].passed and gates["power cap"].passed


def test_a_run_here_without_meters_says_none_and_has_no_gates_of_them(
    serve: Serve, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POWERCAP_VARIABLE, str(tmp_path / "nowhere"))
    if installed_nvml() is not None:
        pytest.skip("This machine has a GPU.")
    server = serve(models={"a": Behaviour()})
    run = run_load_test(ask(server.url, tmp_path / "run", duration_s=0.4, blocks=1))
    assert run.energy is not None
    assert (run.energy.meters, run.energy.arms, run.energy.readings) == ("none", (), 0)
    assert not {"throttling", "power cap"} & {gate.name for gate in run.gates}


def test_the_library_is_called_as_its_header_says(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_library, "LIBRARY", str(driver / nvml_library.LIBRARY))
    first, second = boards_of(installed_nvml())
    assert (first.throttled(), second.throttled()) == (frozenset(), {"power_cap"})
    assert first.energy_joules() is not None and second.energy_joules() is None
    assert first.number(MOST_SM_CLOCK_HZ) == pytest.approx(1.98e9)
    assert first.memory_used_bytes() is None  # a driver's library without the function


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.1.2.3:8000/x", True),
        ("http://[::1]:8000", True),
        ("http://localhost:8000", True),
        ("http://10.0.0.7:8000", False),
        ("http://localhost.example:8000", False),
    ],
)
def test_this_machine_is_known_by_its_loopback(url: str, local: bool) -> None:
    assert is_local(url) == local
    assert served_here(url, {}, ("a",)) == local


@pytest.mark.parametrize(
    ("models", "here"),
    [
        (("dense",), True),
        (("beside",), True),
        (("away",), False),
        (("dense", "away"), False),
        (("canary",), False),
        (("stable",), True),
        (("unknown",), True),
    ],
)
def test_a_gateway_that_passes_requests_on_serves_elsewhere(models: tuple[str, ...], here: bool) -> None:
    served = {
        "dense": {"prunebench": {"engine": "vllm", "urls": []}},
        "beside": {"prunebench": {"engine": "remote", "urls": ["http://127.0.0.1:9000"]}},
        "away": {"prunebench": {"engine": "remote", "urls": ["http://127.0.0.1:9000", "http://gpu-1:8000"]}},
        "canary": {"prunebench": {"targets": [{"variant": "dense"}, {"variant": "away"}]}},
        "stable": {"prunebench": {"targets": [{"variant": "dense"}]}},
    }
    assert served_here("http://127.0.0.1:8000", served, models) == here
