"""What does the gateway cost, in CPU time per streamed token and per request, and how much time does it add?

Runs `serve` over one simulator, drives it directly (Unix socket) and through the gateway (TCP), and reads the gateway
process's CPU time from /proc. Ratios taken in one run, so a shared machine matters little; latencies do depend on it.

`python benchmarks/gateway_overhead.py` prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

from server.pool import Address, Exchange, UpstreamPool, fetch, request_bytes

ROOT = Path(__file__).resolve().parents[1]
STREAMS, TOKENS, ITL_MS = 64, 500, 10
PORT = 8765
FLEET = {"variants": [{"name": "m", "engine": "sim", "engine_flags": ["--ttft-ms", "1", "--itl-ms", str(ITL_MS)]}]}
SERVE = (
    "import sys; from pathlib import Path; from artifacts.fleet import Fleet; from server.serve import serve; "
    f"serve(Fleet.load(Path(sys.argv[1])), '127.0.0.1', {PORT}, lambda message: None)"
)


@dataclass
class Load:
    """What a client saw: seconds from sending to the first token, one per request; tokens and reads of all.

    More than one token per read means that something on the way was late: cost per token is then flattered.
    """

    ttft_s: list[float]
    tokens: int
    reads: int
    wall_s: float


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        fleet = Path(folder) / "fleet.json"
        fleet.write_text(json.dumps(FLEET))
        gateway = subprocess.Popen([sys.executable, "-c", SERVE, str(fleet)], cwd=ROOT)
        try:
            result = uvloop.run(measure(gateway.pid))
        finally:
            gateway.terminate()
            gateway.wait()
    sys.stdout.write(json.dumps(result) + "\n")


async def measure(pid: int) -> dict[str, float]:
    through = UpstreamPool(Address(host="127.0.0.1", port=PORT))
    await until_ready(through)
    direct = UpstreamPool(Address(socket_path=simulator_socket()))
    for pool in (direct, through):
        await load(pool, 8, 20, 1)
    idle = {name: await load(pool, 1, 1, 300) for name, pool in (("direct", direct), ("through", through))}
    before_s = cpu_s(pid)
    short = await load(through, 8, 1, 500)
    request_us = (cpu_s(pid) - before_s) / len(short.ttft_s) * 1e6
    unloaded = await load(direct, STREAMS, TOKENS, 2)
    before_s = cpu_s(pid)
    streams = await load(through, STREAMS, TOKENS, 2)
    spent_us = (cpu_s(pid) - before_s) * 1e6
    return {
        "cpu_us_per_request": round(request_us, 1),
        "cpu_us_per_token": round((spent_us - request_us * len(streams.ttft_s)) / streams.tokens, 2),
        "tokens_per_read": round(streams.tokens / streams.reads, 3),
        "tokens_per_s": round(streams.tokens / streams.wall_s, 1),
        "tokens_per_s_direct": round(unloaded.tokens / unloaded.wall_s, 1),
        "added_ttft_p50_ms_idle": round(p50_ms(idle["through"]) - p50_ms(idle["direct"]), 3),
        "added_ttft_p50_ms_loaded": round(p50_ms(streams) - p50_ms(unloaded), 3),
    }


async def until_ready(pool: UpstreamPool) -> None:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        try:
            if (await fetch(pool, "GET", "/ready"))[0] == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the gateway did not become ready")


async def load(pool: UpstreamPool, clients: int, tokens: int, requests: int) -> Load:
    """`clients` at the same time, each `requests` streams of `tokens` one after the other."""
    body = json.dumps({"model": "m", "prompt": "x", "max_tokens": tokens, "stream": True}).encode()
    request = request_bytes(pool.address, "POST", "/v1/completions", [], body)
    ttft_s: list[float] = []
    reads = 0

    async def client(number: int) -> None:
        nonlocal reads
        await asyncio.sleep(number * ITL_MS / 1e3 / clients)
        for _ in range(requests):
            exchange, sent_s = Exchange(pool), time.perf_counter()
            await exchange.start(request)
            await exchange.next_chunk()
            ttft_s.append(time.perf_counter() - sent_s)
            while await exchange.next_chunk():
                reads += 1
            exchange.finish()

    began_s = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return Load(ttft_s, clients * requests * tokens, reads + len(ttft_s), time.perf_counter() - began_s)


def p50_ms(seen: Load) -> float:
    return statistics.median(seen.ttft_s) * 1e3


def cpu_s(pid: int) -> float:
    """User and system time of the process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def simulator_socket() -> str:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            arguments = (folder / "cmdline").read_text().split("\0")
            if "server.simulator" in arguments and "-S" not in arguments:
                return arguments[arguments.index("--uds") + 1]
    raise SystemExit("the simulator was not found")


if __name__ == "__main__":
    main()
