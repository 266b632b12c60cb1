"""Does a flood of output stay within bounds, and does it ever make the engine, or anybody's request, wait?"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from serving_process import Start, eventually, loaded, simulated

from server import engine_log
from server.engine_log import FILE_BYTES, FILES, TAIL_BYTES, EngineLog, RotatingFile, keep_newest

LINE = b"x" * 99 + b"\n"


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


WRITES = [
    ([300], {"log": 300}, "below the bound nothing moves"),
    ([1000], {"log": 1000}, "a full file is still one file"),
    ([600, 600], {"log": 600, "log.1": 600}, "what does not fit begins a new file"),
    ([600, 600, 600], {"log": 600, "log.1": 600, "log.2": 600}, "three files"),
    ([600, 600, 600, 600, 500], {"log": 500, "log.1": 600, "log.2": 600}, "never a fourth"),
    ([2500], {"log": 500, "log.1": 1000, "log.2": 1000}, "one write larger than a file is divided"),
    ([9500], {"log": 500, "log.1": 1000, "log.2": 1000}, "one larger than all of them leaves its end"),
]


@pytest.mark.parametrize(("writes", "expected", "why"), WRITES, ids=[why for *_, why in WRITES])
def test_files_are_bounded(tmp_path: Path, writes: list[int], expected: dict[str, int], why: str) -> None:
    file = RotatingFile(str(tmp_path / "log"), 1000, 3)
    for size in writes:
        file.write(b"x" * size)
    file.close()
    assert sizes(tmp_path) == expected, why


def test_files_are_in_order_and_a_new_engine_appends(tmp_path: Path) -> None:
    for number in range(2):
        file = RotatingFile(str(tmp_path / "log"), 10, 3)
        for letter in b"abc":
            file.write(b"%c%d" % (letter, number) * 2)
        file.close()
    found = [(tmp_path / name).read_bytes() for name in ("log.2", "log.1", "log")]
    assert found == [b"a0a0b0b0", b"c0c0a1a1", b"b1b1c1c1"]


def test_a_descriptor_that_follows_keeps_no_old_file_on_the_disk(tmp_path: Path) -> None:
    follower = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    file = RotatingFile(str(tmp_path / "log"), 10, 2, follower)
    for letter in b"abc":
        file.write(b"%c" % letter * 8)
    os.write(follower, b"!")
    file.close()
    os.close(follower)
    assert (tmp_path / "log").read_bytes() == b"cccccccc!"
    assert (tmp_path / "log.1").read_bytes() == b"bbbbbbbb"


def test_a_disk_that_takes_nothing_is_no_error(tmp_path: Path) -> None:
    file = RotatingFile(str(tmp_path / "missing" / "log"))
    file.write(b"lost")
    (tmp_path / "missing").mkdir()
    file.write(b"kept")
    file.close()
    assert (tmp_path / "missing" / "log").read_bytes() == b"kept"


def test_the_newest_are_kept() -> None:
    kept = bytearray()
    for number in range(100):
        keep_newest(kept, b"%02d" % number, 10)
        assert len(kept) <= 20
        assert kept.endswith(b"%02d" % number)
    assert len(kept) >= 10


class StuckFile(RotatingFile):
    """A disk on which every write hangs until the test ends."""

    def __init__(self) -> None:
        super().__init__(os.devnull)
        self.freed = threading.Event()
        self.written = bytearray()

    def write(self, data: bytes) -> None:
        self.freed.wait(30)
        self.written += data


def test_an_engine_does_not_wait_for_a_disk_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_log, "PENDING_BYTES", 64 << 10)
    source, engine = os.pipe()
    file = StuckFile()
    pipe = os.fdopen(source, "rb")
    log = EngineLog(pipe, file)
    flood = LINE * 40_000
    sent = 0
    began_s = time.monotonic()
    while sent < len(flood):
        sent += os.write(engine, flood[sent:])
    os.write(engine, b"RuntimeError: the reason\n")
    os.close(engine)
    words = log.last_words(within_s=10)
    assert time.monotonic() - began_s < 10
    assert words.endswith(b"RuntimeError: the reason\n")
    assert len(words) == TAIL_BYTES
    file.freed.set()
    log.close(within_s=10)
    assert file.written.endswith(b"RuntimeError: the reason\n")
    assert len(file.written) < 2 * (64 << 10) + engine_log.PIECE_BYTES
    pipe.close()


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # renamed at this moment
        return 0


def test_a_flooding_engine_fills_no_disk_and_serves_on(start: Start) -> None:
    """350 MiB of log, seven times what may be kept."""
    serving = start([simulated("flood", "--log-mib", "350"), simulated("other")]).until_ready()
    bodies = [{"model": name, "prompt": "x", "max_tokens": 4} for name in ("flood", "other")]
    with (
        loaded(serving, bodies[0], clients=1, pause_s=0) as flooded,
        loaded(serving, bodies[1], clients=1, pause_s=0) as others,
    ):
        eventually(lambda: (serving.log_dir / "flood.log.2").exists(), 60, "the log has been rotated twice")
        kept = []
        for _ in range(50):
            kept.append(sum(size_of(path) for path in serving.log_dir.glob("flood.log*")))
            serving.client.get("/health")
        eventually(lambda: min(len(flooded), len(others)) > 10, 30, "both have served")
    assert max(kept) <= FILE_BYTES * FILES
    assert set(flooded) == set(others) == {200}
    assert serving.states() == {"flood": "ready", "other": "ready"}
