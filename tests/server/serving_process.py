"""A `serve` in a process of its own, and what tests ask of it and of the processes below it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from artifacts.fleet import Fleet
from tests.plugin_path import plugin_path
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
ENGINE_HEALTH_S = 10.0

SERVE = """
import sys
from artifacts.errors import PrunebenchError
from artifacts.fleet import Fleet
from server.serve import serve
from pathlib import Path
try:
    source = Path(sys.argv[1])
    say = lambda m: print(m, file=sys.stderr)
    summary = serve(Fleet.load(source), "127.0.0.1", int(sys.argv[2]), say, source)
except PrunebenchError as error:
    sys.exit(f"error: {error}")
print(summary.model_dump_json())
"""


def eventually(true: Callable[[], Any], within_s: float, what: str) -> Any:
    """The first true result of `true`, asked again and again until the deadline."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        result = true()
        if result:
            return result
        time.sleep(0.01)
    raise AssertionError(f"not within {within_s} s: {what}")


@dataclass
class Serving:
    """A `serve` in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    log_dir: Path
    fleet_path: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=120)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def states(self) -> dict[str, str]:
        try:
            page = self.client.get("/ready").json()
        except httpx.TransportError:
            return {}
        return {name: variant["state"] for name, variant in page["variants"].items()}

    def until_ready(self, within_s: float = 20.0) -> Serving:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"serve ended: {self.process.communicate()[1]}")
            states = self.states().values()
            return bool(states) and set(states) == {"ready"}

        eventually(ready, within_s, "all variants ready")
        return self

    def worker_metric(self, name: str, variant: str) -> float:
        """The value that the worker of `variant` gives at this moment, through the endpoint's own page."""
        for family in text_string_to_metric_families(self.client.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and sample.labels.get("variant") == variant:
                    return sample.value
        raise AssertionError(f"{name} of {variant} is missing")

    def workers(self) -> dict[str, int]:
        """The engine's first process per variant: the child of each warden."""
        found = {}
        for warden in children_of(self.process.pid):
            for engine in children_of(warden):
                arguments = _read(f"/proc/{engine}/cmdline").split("\0")
                if "--served-model-name" in arguments:  # between fork and exec it is still its warden's
                    found[arguments[arguments.index("--served-model-name") + 1]] = engine
        return found

    def order(self, name: str, order: str) -> tuple[int, str]:
        """Status, and the state that the variant is in now or the error's code."""
        answer = self.client.post(f"/variants/{name}/{order}")
        fields = answer.json()
        return answer.status_code, fields["error"]["code"] if "error" in fields else fields["state"]

    def refleet(self, variants: list[dict[str, Any]], **fleet: Any) -> None:
        """Writes the fleet file anew; nobody reads it yet."""
        document = {"variants": variants, "state_dir": str(self.log_dir), **fleet}
        Fleet.parse(document, "the test's fleet").save(self.fleet_path)

    def stop(self, number: int = signal.SIGTERM, within_s: float = 60.0) -> dict[str, Any]:
        """Ends the server; returns its summary."""
        self.client.close()
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=within_s)
        assert self.process.returncode == 0, errors
        return dict(json.loads(output))


def argument_of(pid: int, flag: str) -> str | None:
    """What follows `flag` on the process's command line."""
    arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return arguments[arguments.index(flag) + 1] if flag in arguments else None


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def children_of(pid: int) -> list[int]:
    return [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]


def family_of(pid: int) -> list[int]:
    """The process and all below it, whichever of their threads made them; its first process comes first."""
    children = [
        int(child) for page in Path(f"/proc/{pid}/task").glob("*/children") for child in _read(str(page)).split()
    ]
    return [pid, *(member for child in children for member in family_of(child))]


def is_engine_core(pid: int) -> bool:
    return "EngineCore" in _read(f"/proc/{pid}/comm") + _read(f"/proc/{pid}/cmdline")


def _read(path: str) -> str:
    """Empty for a process that is gone."""
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def processes_with(text: str) -> list[int]:
    """Living processes whose command line holds `text`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                alive = text in (folder / "cmdline").read_text()
            except OSError:
                continue
            if alive:
                found.append(int(folder.name))
    return found


@contextlib.contextmanager
def loaded(serving: Serving, body: dict[str, Any], clients: int, pause_s: float) -> Iterator[list[int]]:
    """Clients that send `body` again and again while the block runs; the list of statuses they got."""
    statuses: list[int] = []
    stop = threading.Event()

    def send() -> None:
        with httpx.Client(base_url=serving.url, timeout=120) as client:
            while not stop.wait(pause_s):
                statuses.append(client.post("/v1/completions", json=body).status_code)

    callers = [threading.Thread(target=send) for _ in range(clients)]
    for caller in callers:
        caller.start()
    try:
        yield statuses
    finally:
        stop.set()
        for caller in callers:
            caller.join()


Start = Callable[..., Serving]


def launcher(folder: Path) -> Iterator[Start]:
    """A function that serves fleets; whatever it started is gone when the fixture ends."""
    running: list[Serving] = []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **plugin_path(folder)}

    def start(variants: list[dict[str, Any]], port: int | None = None, **fleet: Any) -> Serving:
        number = len(running)
        logs = folder / f"logs-{number}"
        document = Fleet.parse({"variants": variants, "state_dir": str(logs), **fleet}, "the test's fleet")
        path = folder / f"fleet-{number}.json"
        document.save(path)
        port = port or free_port()
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(path), str(port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        running.append(Serving(process, port, logs, path))
        return running[-1]

    yield start
    for serving in running:
        serving.client.close()
        if serving.process.poll() is None:
            serving.process.kill()
            sys.stderr.write(serving.process.communicate(timeout=30)[1])


def simulated(name: str, *flags: str) -> dict[str, Any]:
    return {"name": name, "engine": "sim", "engine_flags": list(flags)}
