"""What does the gateway cost per streamed token and per request, and how much time does it add? And other proxies?

    python benchmarks/gateway_overhead.py [--vllm-router FILE] [--litellm FILE] [--repeats 5] [--render-only]

Every arm forwards to a simulated engine, and one client drives the arms in turn, in every repetition all of them. The
gateway is measured as it speaks to its own workers, over a Unix socket, and over TCP as it speaks to remote servers and
as the others must. The proxy has a core of its own; client and engine share another. The two options name the
executables of peers, which are left out without them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.keys import KeyEntry, KeyFile, key_sha256
from artifacts.provenance import collect_provenance
from benchmarks.pages import draw_page, made_with, page_parser, write_raw
from benchmarks.proxy_load import Measured, measure_arm
from server.pool import Address

ROOT = Path(__file__).resolve().parents[1]
STEM = Path(__file__).with_name("gateway_overhead_cpu_202611")
ENGINE_PORT, PROXY_PORT = 8765, 8766
SOCKET = "engine.sock"
UPSTREAM = f"http://127.0.0.1:{ENGINE_PORT}"
CLIENT_CORE, PROXY_CORE = 0, 1
OURS = "prunebench"
ITL_MS = 10
KEY = "sk-benchmark"
SERVE = (
    "import sys; from pathlib import Path; from artifacts.fleet import Fleet; from server.serve import serve; "
    f"serve(Fleet.load(Path(sys.argv[1])), '127.0.0.1', {PROXY_PORT}, lambda message: None)"
)
LITELLM = f"""
model_list:
  - model_name: m
    litellm_params: {{model: text-completion-openai/m, api_base: {UPSTREAM}/v1, api_key: none}}
general_settings: {{master_key: {KEY}}}
"""


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to the engine; without `argv` the direct one. `once`: in the first repetition only, because it is slow."""

    name: str
    argv: tuple[str, ...] = ()
    once: bool = False


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--vllm-router", type=Path)
    parser.add_argument("--litellm", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if not options.render_only:
        provenance = collect_provenance().model_dump(mode="json")
        with tempfile.TemporaryDirectory() as folder:
            ways = list(arms(Path(folder), options.vllm_router, options.litellm))
            rows = measure(ways, options.repeats, Path(folder))
        write_raw(STEM, {"repeats": options.repeats, "rows": rows, "provenance": provenance})
    draw_page(STEM, render)


def arms(folder: Path, vllm_router: Path | None, litellm: Path | None) -> Iterator[Arm]:
    """Writes the files that they are configured with."""
    python = sys.executable
    yield Arm("direct")
    keys = folder / "keys.json"
    KeyFile(keys=(KeyEntry(name="benchmark", sha256=key_sha256(KEY)),)).save(keys)
    for name, url in ((OURS, f"unix:{folder / SOCKET}"), (f"{OURS} over TCP", UPSTREAM)):
        fleet = folder / f"{name}.json"
        fleet.write_text(json.dumps({"variants": [{"name": "m", "url": url}], "keys_file": str(keys)}))
        yield Arm(name, (python, "-c", SERVE, str(fleet)))
    for name in ("starlette-aiohttp", "fastapi-httpx"):
        yield Arm(name, (python, "-m", "benchmarks.peer_proxies", name, str(PROXY_PORT), UPSTREAM))
    if vllm_router is not None:
        at = ("--host", "127.0.0.1", "--port", str(PROXY_PORT), "--worker-urls", UPSTREAM)
        yield Arm("vllm-router", (str(vllm_router), *at, "--policy", "round_robin", "--log-level", "error"))
    if litellm is not None:
        config = folder / "litellm.yaml"
        config.write_text(LITELLM)
        argv = (str(litellm), "--config", str(config), "--port", str(PROXY_PORT), "--num_workers", "1")
        yield Arm("litellm", argv, once=True)


def measure(arms: list[Arm], repeats: int, folder: Path) -> list[dict[str, Any]]:
    """In every repetition each arm once, in turn; a proxy starts anew each time."""
    os.sched_setaffinity(0, {CLIENT_CORE})
    timing = ("--ttft-ms", "1", "--itl-ms", str(ITL_MS))
    engine = (sys.executable, "-m", "server.simulator", "--served-model-name", "m", *timing)
    rows = []
    with (
        running((*engine, "--port", str(ENGINE_PORT)), CLIENT_CORE),
        running((*engine, "--uds", str(folder / SOCKET)), CLIENT_CORE),
    ):
        for repeat in range(repeats):
            for arm in (arm for arm in arms if not (arm.once and repeat)):
                row = {"arm": arm.name, "repeat": repeat, **asdict(measured(arm))}
                sys.stderr.write(json.dumps(row) + "\n")
                rows.append(row)
    return rows


def measured(arm: Arm) -> Measured:
    if not arm.argv:
        return uvloop.run(measure_arm(Address(host="127.0.0.1", port=ENGINE_PORT), None, None))
    with running(arm.argv, PROXY_CORE) as pid:
        return uvloop.run(measure_arm(Address(host="127.0.0.1", port=PROXY_PORT), pid, KEY))


@contextmanager
def running(argv: tuple[str, ...], core: int) -> Iterator[int]:
    """A process on one core, in a group of its own that is ended afterwards; yields its id."""
    pinned = ("taskset", "-c", str(core), *argv)
    process = subprocess.Popen(pinned, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, 15)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        time.sleep(0.5)


def over(rows: list[dict[str, Any]], arm: str, name: str) -> list[float]:
    """A figure of every repetition, those that it did not finish left out."""
    return [row[name] for row in rows if row["arm"] == arm and row[name] is not None]


def ratios(rows: list[dict[str, Any]], arm: str, name: str) -> list[float]:
    """To the direct connection of the same repetition."""
    direct = {row["repeat"]: row[name] for row in rows if row["arm"] == "direct"}
    return [row[name] / direct[row["repeat"]] for row in rows if row["arm"] == arm and row[name] is not None]


def differences(rows: list[dict[str, Any]], arm: str, name: str) -> list[float]:
    direct = {row["repeat"]: row[name] for row in rows if row["arm"] == "direct"}
    return [row[name] - direct[row["repeat"]] for row in rows if row["arm"] == arm and row[name] is not None]


COLUMNS = ("cpu_us_per_token", "cpu_us_per_request", "ttft_idle_ms", "ttft_loaded_ms", "tokens_per_s")
TARGETS = {"cpu_us_per_token": 25.0, "cpu_us_per_request": 150.0, "ttft_idle_ms": 0.5, "tokens_per_s": 0.99}


def column(rows: list[dict[str, Any]], arm: str, name: str) -> list[float]:
    """As the page shows it: processor time as it is, latency added to direct, throughput as a share of direct."""
    if name.startswith("cpu_us"):
        return over(rows, arm, name)
    return ratios(rows, arm, name) if name == "tokens_per_s" else differences(rows, arm, name)


def reached(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """Per target, whether the gateway's median reaches it."""
    found = {name: statistics.median(column(rows, OURS, name)) for name in TARGETS}
    return {
        name: found[name] >= limit if name == "tokens_per_s" else found[name] <= limit
        for name, limit in TARGETS.items()
    }


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    rows = raw["rows"]
    names = list(dict.fromkeys(row["arm"] for row in rows))
    missed = [name for name, ok in reached(rows).items() if not ok]
    direct = {name: statistics.median(over(rows, "direct", name)) for name in COLUMNS[2:]}
    lines = [
        "# What the gateway costs",
        "",
        "*Question: is a token forwarded for 25 us of processor time, a request for 150 us, with 0.5 ms more to the "
        "first token and 1 % less throughput at most?* "
        + ("**Yes.**" if not missed else f"**Not all of it:** {', '.join(missed)}."),
        "",
        "| | CPU us per token | CPU us per request | TTFT p50 added, idle, ms | TTFT p50 added, 64 streams, ms | "
        "throughput, share of direct |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(f"| {arm} | " + " | ".join(_cell(column(rows, arm, name)) for name in COLUMNS) + " |" for arm in names[1:]),
        "",
        f"Directly, the first token takes {direct['ttft_idle_ms']:.3f} ms idle and {direct['ttft_loaded_ms']:.3f} ms "
        f"under load, and {direct['tokens_per_s']:,.0f} tokens/s arrive. Median [least, most] of {raw['repeats']} "
        "repetitions (LiteLLM: one); differences and shares are taken within a repetition. Load: 64 streams of 500 "
        f"tokens, one every {ITL_MS} ms and one write each, arrivals spread evenly; before it 800 requests and 64 "
        "short streams that do not count. A request is one with one token, 8 clients at a "
        "time. Processor time is that of the proxy's processes, user and system; per token it is what the streams took "
        "above their requests. prunebench reaches the engine as its own workers, over a Unix socket, all others over "
        "loopback TCP; prunebench and LiteLLM check a key, prunebench keeps its histograms. The proxy has one core, "
        "client and simulated engine share another.",
        "",
        f"Made with {made_with(raw['provenance'], ('uvicorn', 'fastapi'))}.",
    ]
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    if not values:
        return "did not finish"
    return f"{statistics.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


if __name__ == "__main__":
    main()
