"""Running servers for the tests: one endpoint over simulators, and one over real vLLM."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving_process import ENGINE_HEALTH_S, ROOT, Serving, Start, launcher, simulated
from supervised import World, supervising

DENSE = ROOT / "prunebench" / "demo_model"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    yield from launcher(tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., World]:
    return supervising(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Two quick simulators, `dense` and `pruned`, behind one endpoint."""
    fleet = [simulated("dense"), simulated("pruned", "--itl-ms", "0.5")]
    for start in launcher(tmp_path_factory.mktemp("pair")):
        yield start(fleet, limits={"max_body_bytes": 1 << 16}).until_ready()


@pytest.fixture(scope="session")
def engine_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What vLLM serves on a CPU: the demo model, and variants with a quarter of its width gone, evenly and unevenly."""
    folder = tmp_path_factory.mktemp("variants")
    for name, allocation in (("pruned", "uniform"), ("uneven", "depth_increasing")):
        command = [sys.executable, "-m", "prunebench", "compress", str(DENSE), "--out", str(folder / name)]
        options = ["--method", "magnitude", "--ratio", "0.25", "--units", "ffn,kv", "--multiple-of", "16"]
        subprocess.run([*command, *options, "--allocation", allocation], check=True, cwd=ROOT)
    return {"dense": DENSE, "pruned": folder / "pruned", "uneven": folder / "uneven"}


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory, engine_models: dict[str, Path]) -> Iterator[Serving]:
    """One endpoint over three real vLLM engines: `dense`, `pruned` and `uneven`, whose layers differ."""
    flags = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    fleet = [
        {"name": name, "model": str(model.resolve()), "engine_flags": flags} for name, model in engine_models.items()
    ]
    folder = tmp_path_factory.mktemp("engines")
    for start in launcher(folder):
        settings = {
            "access_log": str(folder / "requests.log"),
            "dtype": "float32",
            "max_model_len": 512,
            "max_num_seqs": 16,
            "kv_cache_bytes": 128 << 20,
            "timeouts": {"health_s": ENGINE_HEALTH_S},
        }
        yield start(fleet, **settings).until_ready(within_s=400)


@pytest.fixture(params=["sim", pytest.param("vllm", marks=pytest.mark.engine)])
def endpoint(request: pytest.FixtureRequest) -> Serving:
    """The endpoint under test; one suite for the simulator and for vLLM."""
    serving: Serving = request.getfixturevalue("pair" if request.param == "sim" else "engines")
    return serving
