"""Running servers for the tests: one endpoint over simulators, and one over real vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_process import ROOT, Serving, Start, launcher, simulated

MODELS = ROOT / "../shared/data/models"
CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    yield from launcher(tmp_path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Two quick simulators, `dense` and `pruned`, behind one endpoint."""
    fleet = [simulated("dense"), simulated("pruned", "--itl-ms", "0.5")]
    for start in launcher(tmp_path_factory.mktemp("pair")):
        yield start(fleet, max_body_bytes=1 << 16).until_ready()


@pytest.fixture(scope="session")
def engine_models() -> tuple[Path, Path]:
    """Two checkpoints that vLLM can serve on a CPU: the dense one and the other one."""
    folder = MODELS / "stories260K-hd32"
    if not folder.is_dir():
        pytest.skip("the shared test models are not here")
    return folder, folder


@pytest.fixture(scope="session")
def engine_pair(tmp_path_factory: pytest.TempPathFactory, engine_models: tuple[Path, Path]) -> Iterator[Serving]:
    """The same endpoint over two real vLLM engines."""
    flags = ["--chat-template", CHAT_TEMPLATE]
    fleet = [
        {"name": name, "model": str(model.resolve()), "engine_flags": flags}
        for name, model in zip(("dense", "pruned"), engine_models, strict=True)
    ]
    for start in launcher(tmp_path_factory.mktemp("engines")):
        settings = {"dtype": "float32", "max_model_len": 512, "max_num_seqs": 16, "kv_cache_bytes": 128 << 20}
        yield start(fleet, **settings).until_ready(within_s=400)


@pytest.fixture(params=["sim", pytest.param("vllm", marks=pytest.mark.engine)])
def endpoint(request: pytest.FixtureRequest) -> Serving:
    """The endpoint under test; one suite for the simulator and for vLLM."""
    serving: Serving = request.getfixturevalue("pair" if request.param == "sim" else "engine_pair")
    return serving
