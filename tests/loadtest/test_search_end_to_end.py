"""A search through Locust against the simulator, whose streams bound its capacity to a known rate."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from queueing import Queue

from artifacts.capacity import SearchPolicy
from artifacts.errors import LoadTestError
from artifacts.run import Workload, load_run
from artifacts.slo import parse_slo
from loadtest.endpoint import Endpoint
from loadtest.saturation import SearchRequest, search_capacity
from tests.ports import free_port

QUEUE = Queue(streams=4, ttft_s=0.02, itl_s=0.004, tokens=20)
"""41.7 requests/s at most."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    port = free_port()
    speed = ["--ttft-ms", "20", "--itl-ms", "4", "--max-streams", "4"]
    command = [sys.executable, "-m", "server.simulator", "--port", str(port), "--served-model-name", "m", *speed]
    with subprocess.Popen(command) as process:
        try:
            wait_until_served(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_until_served(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            Endpoint(url).models()
            return
        except LoadTestError:
            continue
    raise AssertionError(f"the simulator ended with {process.returncode}")


def test_the_rate_found_is_below_the_capacity_and_the_missed_one_above(url: str, tmp_path: Path) -> None:
    """26 is met, 78 is missed by its pilot, 26 is confirmed: as few looks as a search can have."""
    shares: list[float] = []
    request = SearchRequest(
        url=url,
        models=("m",),
        slo=parse_slo("ttft_p80<150ms"),
        workload=Workload(prompt_tokens=8, output_tokens=QUEUE.tokens),
        out=tmp_path / "out",
        look_s=2.0,
        policy=SearchPolicy(start_rate_per_s=26, growth=3, precision=3),
        warmup_s=0.3,
        timeout_s=10.0,
    )
    (variant,) = search_capacity(request, lambda _, done, total: shares.append(done / total)).variants
    assert variant.rate_per_s is not None
    assert variant.missed_per_s is not None
    assert 26 <= variant.rate_per_s <= QUEUE.capacity_per_s < variant.missed_per_s <= 78
    assert (variant.confirmed, variant.limited_by) == (True, "server")
    assert variant.goodput_per_s == pytest.approx(variant.rate_per_s, rel=0.35)
    assert shares[-1] == 1
    confirmed = load_run(tmp_path / "out" / variant.levels[-1].looks[-1].folder)
    assert confirmed.level.rate_per_s == variant.rate_per_s
