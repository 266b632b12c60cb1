"""Is the ceiling printed before the load, only where it is known, and what was reached after it?"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ConfigError
from artifacts.lengths import TraceTokens
from artifacts.run import Level, Workload
from artifacts.variant import MANIFEST_NAME
from laws.hardware import cache_file
from laws.roofline import Hardware
from loadtest import campaign as campaigns
from loadtest.campaign import CampaignRequest
from prunebench import ceiling
from prunebench.ceiling import hardware_of, show_card, show_reached
from tests.laws.answers import campaign_folder
from tests.laws.conftest import make_run
from tests.manifests import small_manifest
from tests.nvml import POWER_CAP, VALUES, FakeNvml, without
from tests.prunebench.conftest import Verb

MACHINE = Hardware(name="the machine", memory_bytes_per_s=1000, flops_per_s=1e9, source="stated")
WORKLOAD = Workload(prompt_tokens=10, output_tokens=20)
LEVELS = (Level(concurrency=4),)


@pytest.fixture(autouse=True)
def _cache_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def url() -> Iterator[str]:
    """A server that lists `dense` and `small` with their manifests, and `hub`, about which it knows nothing."""
    served = make_run(LEVELS[0]).served
    page = json.dumps({"data": [*served.values(), {"id": "hub"}]}).encode()

    class Listing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    MACHINE.save(tmp_path / "machine.json")
    return tmp_path / "machine.json"


def test_the_card_names_sizes_bound_and_source(file: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_card(file, url, ("dense", "small"), LEVELS, WORKLOAD) == MACHINE
    said = capsys.readouterr().err
    assert "The ceiling by the machine, stated:" in said
    (dense,) = [line for line in said.splitlines() if " dense " in line]
    for part in ("concurrency 4", "400 B", "720 ms", "memory"):
        assert part in dense


def test_the_models_of_a_mix_are_each_told(file: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_card(file, url, ("dense=0.9,small=0.1", "hub"), LEVELS, WORKLOAD)
    said = capsys.readouterr().err
    assert " dense " in said and " small " in said
    assert "No ceiling for hub" in said


def test_an_unknown_mean_is_said(file: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    replayed = Workload(prompt_tokens=TraceTokens(), output_tokens=TraceTokens())
    show_card(file, url, ("dense",), LEVELS, replayed)
    assert "unknown, because the mean length" in capsys.readouterr().err


def test_without_hardware_nobody_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_card(None, "http://127.0.0.1:1", ("dense",), LEVELS, WORKLOAD) is None
    show_reached(None, (Path("nowhere"),))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("address", "shown"), [("http://127.0.0.1:1", True), ("http://gpu-1.example:1", False)])
def test_a_gpu_here_shows_its_cap_and_clocks(
    address: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = VALUES | {"nvmlDeviceGetMaxClockInfo": {1: 2100, 2: 3201}}
    monkeypatch.setattr(ceiling, "installed_nvml", lambda: FakeNvml((board, without(POWER_CAP))))
    show_card(None, address, ("dense",), LEVELS, WORKLOAD)
    first = "GPU 0: power cap 700 W, SM clock 1.98 GHz of 2.1 GHz, memory clock 3.2 GHz of 3.2 GHz."
    second = "GPU 1: power cap unknown, SM clock 1.98 GHz of unknown,"
    said = " ".join(capsys.readouterr().err.split())
    assert (first in said, second in said) == (shown, shown)


class Machine:
    def __init__(self, *gpus: str) -> None:
        self.gpus = gpus


@pytest.mark.parametrize(
    ("address", "gpus", "used"),
    [
        ("http://127.0.0.1:8000", (), True),
        ("http://localhost:8000", (), True),
        ("http://[::1]:8000", (), True),
        ("http://10.0.0.7:8000", (), False),
        ("http://server.example:8000", (), False),
        ("http://127.0.0.1:8000", ("a GPU",), False),
    ],
)
def test_what_was_measured_here_counts_for_servers_here(
    address: str, gpus: tuple[str, ...], used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceiling, "collect_provenance", lambda: Machine(*gpus))
    assert hardware_of(None, address) is None
    MACHINE.save(cache_file())
    assert hardware_of(None, address) == (MACHINE if used else None)


def test_a_given_file_counts_for_every_server(file: Path) -> None:
    assert hardware_of(file, "http://server.example:8000") == MACHINE


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"bad\.json"):
        hardware_of(tmp_path / "bad.json", "http://127.0.0.1:8000")


def test_compare_prints_the_card_first_and_what_was_reached_after(
    file: Path, url: str, tmp_path: Path, verb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from artifacts.campaign import load_campaign

    def save(name: str, run: Any) -> Path:
        run.save(tmp_path / name / "run.json")
        return tmp_path / name

    def pretend(request: CampaignRequest, progress: Any) -> Any:
        return load_campaign(campaign_folder(save, request.out.name, (4,)))

    monkeypatch.setattr(campaigns, "run_campaign", pretend)
    options = ["--model", "small", "--against", "dense", "--levels", "4", "--hardware", file]
    done = verb("compare", "--url", url, "--out", tmp_path / "c", *options)
    card, blocks, reached = (done.stderr.index(text) for text in ("The ceiling by", "8 blocks", "measured / ceiling"))
    assert card < blocks < reached
    assert "1800.0 %" in done.stderr


def test_hardware_is_measured_at_the_weights_size_and_kept(verb: Any, tmp_path: Path) -> None:
    manifest = small_manifest()
    heavy = manifest.footprint.model_copy(update={"weights_bytes": 4 << 20})
    manifest.model_copy(update={"footprint": heavy}).save(tmp_path / "v" / MANIFEST_NAME)
    done = verb("hardware", tmp_path / "v")
    kept = Hardware.load(cache_file())
    assert done.result == {"out": str(cache_file()), **kept.model_dump()}
    assert kept.memory_bytes_per_s > 1e8
    assert "4.0 MiB" in kept.source
    verb("hardware", tmp_path / "v", "--out", tmp_path / "other.json")
    assert Hardware.load(tmp_path / "other.json").name == kept.name


def test_a_gpu_that_is_not_there_cannot_be_measured(
    verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused = verb("hardware", tmp_path, "--device", "cuda", "--out", tmp_path / "gpu.json")
    assert refused.code == 2 and "sees no CUDA device" in refused.stderr
    assert not (tmp_path / "gpu.json").exists()
