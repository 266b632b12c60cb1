"""Does every panel show something true? A Prometheus watches a real fleet under load, one of whose workers is killed.

A clean load test comes first: its raw p99 is compared with the p99 of the engines' histograms over the same requests.
In a second one a worker is killed, and clients ask one variant for more than it takes. Then every query of every board
is asked, and which alerts fired is read.

`python -m benchmarks.dashboards_evidence --variants DIR` needs a folder with dense, ffn-50 and depth-25 (`make demo`
writes one) and Debian's prometheus; `--simulated` does without vLLM, and proves less.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.fleet import Fleet, VariantEntry
from artifacts.limits import Limits
from artifacts.provenance import collect_provenance
from artifacts.run import Level, RequestRecord, Workload, read_requests
from benchmarks.dashboard_agreement import agreement
from benchmarks.dashboard_answers import answers, ask, without_data
from benchmarks.dashboard_page import render
from benchmarks.pages import draw_page, page_parser, read_raw, write_raw
from dashboards.local_prometheus import Watch, prometheus
from loadtest.protocol import METRICS_ADDRESS_VARIABLE
from loadtest.runner import LoadTestRequest, run_load_test
from prunebench.demo_server import running_server

STEM = Path(__file__).with_name("dashboards_evidence_cpu_202611")
REFERENCE, KILLED, CROWDED = "dense", "depth-25", "elsewhere"
PRUNED = ("ffn-50", KILLED)
WORKLOAD = Workload(prompt_tokens=64, output_tokens=32)
CROWD = 12
SPAN_NAME = "span.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """`clean_s` and `faulty_s` are measured seconds per arm."""

    folder: Path
    variants: Path | None
    clean_s: float
    faulty_s: float
    blocks: int = 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fleet(trial: Trial, elsewhere: int) -> Fleet:
    """Three variants of our own, and a small one behind a URL that soon has enough."""
    own = tuple(_entry(name, trial.variants) for name in (REFERENCE, *PRUNED))
    url = f"http://127.0.0.1:{elsewhere}"
    return Fleet(
        variants=(*own, VariantEntry(name=CROWDED, url=url, max_in_flight=2)),
        max_model_len=512,
        limits=Limits(max_queued=4),
        state_dir=str(trial.folder / "state"),
        access_log=str(trial.folder / "access.log"),
    )


def _entry(name: str, variants: Path | None) -> VariantEntry:
    if variants is None:
        speed = "2" if name == REFERENCE else "1.2"
        return VariantEntry(name=name, engine="sim", engine_flags=("--ttft-ms", "5", "--itl-ms", speed))
    return VariantEntry(name=name, model=str((variants / name).resolve()), engine_flags=("--enable-mfu-metrics",))


@contextmanager
def simulator(port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "server.simulator", "--port", str(port), "--served-model-name", CROWDED]
    process = subprocess.Popen([*command, "--ttft-ms", "20", "--itl-ms", "5"])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def measure(trial: Trial) -> dict[str, Any]:
    """Serves, watches, loads, kills, asks. Ends everything it started."""
    trial.folder.mkdir(parents=True)
    ports = {name: free_port() for name in ("elsewhere", "prometheus", "load test")}
    address = f"127.0.0.1:{ports['load test']}"
    os.environ[METRICS_ADDRESS_VARIABLE] = address
    served = fleet(trial, ports["elsewhere"])
    served.save(trial.folder / "fleet.json")
    with simulator(ports["elsewhere"]), running_server(trial.folder / "fleet.json", trial.folder / "log", _say) as url:
        watch = Watch(url=url, port=ports["prometheus"], load_test=address, data=trial.folder / "tsdb")
        with prometheus(watch) as own_url:
            return _under_load(trial, url, own_url)


def _under_load(trial: Trial, url: str, own_url: str) -> dict[str, Any]:
    time.sleep(20)  # so that a first rate exists
    start_s = time.time()
    clean = trial.folder / "clean"
    run_load_test(_request(url, clean, trial.clean_s, trial.blocks), _say)
    time.sleep(12)  # two scrapes
    clean_end_s = time.time()
    begun = time.monotonic()
    threads = [threading.Thread(target=work) for work in (lambda: _kill_after(trial, 15), lambda: _crowd(url, 90))]
    for thread in threads:
        thread.start()
    run_load_test(_request(url, trial.folder / "faulty", trial.faulty_s, 2), _say)
    for thread in threads:
        thread.join()
    time.sleep(max(0.0, 60 - (time.monotonic() - begun)) + 12)
    span = {"start_s": start_s, "clean_end_s": clean_end_s, "end_s": time.time()}
    (trial.folder / SPAN_NAME).write_text(json.dumps(span))
    return asked(own_url, trial, span)


def asked(own_url: str, trial: Trial, span: Mapping[str, float]) -> dict[str, Any]:
    """Everything that is taken from Prometheus, and from the records of the load test without a fault."""
    records = read_requests(trial.folder / "clean" / "requests.parquet")
    start_s, end_s = span["start_s"], span["end_s"]
    return {
        "engine": "simulated" if trial.variants is None else "vllm-cpu",
        "seconds": round(end_s - start_s),
        "load": {"clean_s": trial.clean_s, "faulty_s": trial.faulty_s, **asked_load(), **_counts(records)},
        "panels": answers(own_url, start_s, end_s),
        "alerts": _fired(own_url, start_s, end_s),
        "agreement": agreement(own_url, records, start_s, span["clean_end_s"]) if trial.variants else [],
    }


def ask_again(trial: Trial) -> dict[str, Any]:
    """Puts today's questions to the data that an earlier run has kept."""
    span = json.loads((trial.folder / SPAN_NAME).read_text())
    with prometheus(Watch(url="http://127.0.0.1:9", port=free_port(), data=trial.folder / "tsdb")) as own_url:
        return asked(own_url, trial, span)


def asked_load() -> dict[str, Any]:
    return {"concurrency": 4, "workload": WORKLOAD.model_dump()}


def _counts(records: list[RequestRecord]) -> dict[str, int]:
    return {"clean_requests": len(records), "clean_failures": sum(not record.ok for record in records)}


def _request(url: str, out: Path, duration_s: float, blocks: int) -> LoadTestRequest:
    return LoadTestRequest(
        url=url,
        models=PRUNED,
        against=REFERENCE,
        level=Level(concurrency=4),
        workload=WORKLOAD,
        duration_s=duration_s,
        out=out,
        blocks=blocks,
        warmup_s=0.5,
    )


def _kill_after(trial: Trial, delay_s: float) -> None:
    """SIGKILL, as the kernel would when memory is short, to what the warden with the worker's log has started."""
    time.sleep(delay_s)
    log = str(trial.folder / "state" / f"{KILLED}.log").encode()
    for process in Path("/proc").glob("[0-9]*"):
        if log in _read(process / "cmdline").split(b"\0"):
            for child in _read(process / "task" / process.name / "children").split():
                os.kill(int(child), signal.SIGKILL)
                sys.stderr.write(f"killed the worker of {KILLED}\n")


def _read(path: Path) -> bytes:
    """Nothing of a process that has ended meanwhile."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _crowd(url: str, seconds: float) -> None:
    """More requests at a time than `CROWDED` takes and lets wait."""
    threads = [threading.Thread(target=_one_of_the_crowd, args=(url, time.monotonic() + seconds)) for _ in range(CROWD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _one_of_the_crowd(url: str, until_s: float) -> None:
    body = json.dumps({"model": CROWDED, "prompt": "a cat", "max_tokens": 24, "stream": True})
    while time.monotonic() < until_s:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        connection.getresponse().read()
        connection.close()
        time.sleep(0.1)


def _fired(url: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
    """Each alert that fired, for whom, and from when to when, in seconds since the start."""
    found = ask(url, "query_range", query='ALERTS{alertstate="firing"}', start=start_s, end=end_s, step=5)
    fired = []
    for one in found:
        labels = {name: one["metric"][name] for name in ("alertname", "variant", "reason") if name in one["metric"]}
        times_s = [float(at) - start_s for at, _ in one["values"]]
        fired.append({**labels, "from_s": round(times_s[0]), "to_s": round(times_s[-1])})
    return sorted(fired, key=lambda alert: (alert["alertname"], alert["from_s"]))


def _say(stage: str, done: float, total: float) -> None:
    if done == total:
        sys.stderr.write(f"{stage}: done\n")


def main(arguments: list[str]) -> None:
    parser = page_parser(__doc__)
    parser.add_argument("--variants", type=Path, help="folder with dense, ffn-50 and depth-25")
    parser.add_argument("--simulated", action="store_true", help="without vLLM")
    parser.add_argument("--clean-s", type=float, default=130, help="measured seconds per arm before the fault")
    parser.add_argument("--faulty-s", type=float, default=60, help="measured seconds per arm with it")
    parser.add_argument("--again", action="store_true", help="only ask what --keep has kept, with the boards of today")
    parser.add_argument("--keep", type=Path, help="keep logs, records and Prometheus' data in this new folder")
    options = parser.parse_args(arguments)
    if not options.render_only:
        _measure_and_write(options)
    draw_page(STEM, render)


def _measure_and_write(options: argparse.Namespace) -> None:
    variants = None if options.simulated else options.variants
    provenance = collect_provenance().model_dump(mode="json")
    with tempfile.TemporaryDirectory(prefix="prunebench-dashboards-") as folder:
        place = options.keep or Path(folder) / "trial"
        trial = Trial(folder=place, variants=variants, clean_s=options.clean_s, faulty_s=options.faulty_s)
        raw = ask_again(trial) if options.again else measure(trial)
    asked_at = provenance["commit"]
    if options.again:
        provenance = read_raw(STEM)["provenance"]
    if options.simulated:
        json.dump({"alerts": raw["alerts"], "without data": without_data(raw["panels"])}, sys.stdout, indent=1)
        sys.exit()
    write_raw(STEM, {**raw, "asked_at_commit": asked_at, "provenance": provenance})


if __name__ == "__main__":
    main(sys.argv[1:])
