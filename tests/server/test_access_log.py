"""Has every request one true line, wherever it ended, and does no request wait for the disk or fail with it?"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_process import Serving, Start, eventually, simulated

from artifacts.errors import ConfigError
from server import access_log
from server.access_line import MAX_TEXT_CHARS, access_line, trace_id, usage_in
from server.access_log import AccessLog
from server.metrics import ObservedRequest
from server.pool import Address
from server.replicas import Replica

USAGE = b'"usage":{"prompt_tokens":5,"completion_tokens":7,"details":{"x":[1]}}'
COUNTS = {"prompt_tokens": 5, "completion_tokens": 7, "details": {"x": [1]}}
TAILS = [
    (b"", b'{"id":1,' + USAGE + b"}", COUNTS, "a whole answer"),
    (b"data: {" + USAGE + b"}\n\n", b"data: [DONE]\n\n", COUNTS, "a stream's last event but one"),
    (b"data: {" + USAGE[:20], USAGE[20:] + b"}\n\n", COUNTS, "cut anywhere"),
    (b"data: {" + USAGE[:3], USAGE[3:] + b"}\n\n", COUNTS, "cut in the name"),
    (b"", b'{"usage" : {}}', {}, "another spelling is not looked for"),
    (b"", b'{"usage": {"prompt_tokens": 1}, "x": "\xff"}', {"prompt_tokens": 1}, "a space, and bytes that are no text"),
    (b'{"usage":{"a":1}}', b'{"usage":null}', {}, "the last one counts"),
    (b"", b'{"text":"\\"usage\\":{\\"a\\":1}"}', {}, "generated text is not it"),
    (b"", b'{"usage":[1]}', {}, "not an object"),
    (b"", b'{"usage":{"a":', {}, "cut off"),
    (b"data: 1\n\n", b"data: [DONE]\n\n", {}, "none"),
]


@pytest.mark.parametrize(("before", "last", "usage", "what"), TAILS, ids=[what for *_, what in TAILS])
def test_usage_is_found_at_the_end(before: bytes, last: bytes, usage: dict[str, Any], what: str) -> None:
    assert usage_in(before, last) == usage, what


TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENTS = [
    (f"00-{TRACE}-b7ad6b7169203331-01", TRACE, "version 00"),
    (f"cc-{TRACE}-b7ad6b7169203331-01-more", TRACE, "a later version may say more"),
    (f"00-{TRACE.upper()}-b7ad6b7169203331-01", None, "capitals are not allowed"),
    (f"00-{'0' * 32}-b7ad6b7169203331-01", None, "zero is no trace"),
    (f"00-{TRACE[:-1]}-b7ad6b7169203331-01", None, "too short"),
    (TRACE, None, "no version"),
    ("", None, "nothing"),
]


@pytest.mark.parametrize(("parent", "found", "what"), PARENTS, ids=[what for *_, what in PARENTS])
def test_trace_ids(parent: str, found: str | None, what: str) -> None:
    assert trace_id([(b"host", b"h"), (b"traceparent", parent.encode())]) == found, what
    assert trace_id([]) is None


def test_a_line_says_what_was_noted() -> None:
    request = ObservedRequest("other", "dense", 200, began_s=10.0, first_byte_s=10.25, id=b"mine", path="/v1/x\n")
    request.model, request.key_name, request.queued_s = "m" * 1000, "team", 0.125
    request.replica = Replica.at(Address.of_url("http://user:secret@far:9/team/v1"))
    request.headers, request.tail = [(b"traceparent", PARENTS[0][0].encode())], (b"", b"{" + USAGE + b"}")
    line = access_line(request, 12.5)
    assert line.count(b"\n") == 1
    fields = json.loads(line)
    assert abs(fields.pop("time_unix_s") + 2.5 - time.time()) < 5
    assert fields == {
        "request_id": "mine",
        "trace_id": TRACE,
        "key": "team",
        "path": "/v1/x\n",
        "route": "other",
        "model": "m" * MAX_TEXT_CHARS,
        "variant": "dense",
        "replica": "http://far:9/team",
        "status": 200,
        "refusal": None,
        "streamed": False,
        "queued_s": 0.125,
        "ttft_s": 0.25,
        "duration_s": 2.5,
        "bytes_in": 0,
        "bytes_out": 0,
        "prompt_tokens": 5,
        "completion_tokens": 7,
    }


def test_the_messages_api_counts_under_other_names() -> None:
    request = ObservedRequest("/v1/messages", tail=(b"", b'{"usage":{"input_tokens":3,"output_tokens":"x"}}'))
    fields = json.loads(access_line(request, time.perf_counter()))
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (3, None)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "GATHER_S", 0.001)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AccessLog]:
    made = AccessLog(tmp_path / "a.log")
    yield made
    made.close()


def noted(log: AccessLog, *numbers: int) -> None:
    for number in numbers:
        log.note(ObservedRequest("other", id=str(number).encode()), 0.0)


def ids(*files: Path) -> list[int]:
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return [int(json.loads(line)["request_id"]) for line in lines]


def test_all_lines_come_in_their_order_and_the_end_waits_for_the_last(log: AccessLog, tmp_path: Path) -> None:
    noted(log, *range(5000))
    log.close()
    assert ids(tmp_path / "a.log") == list(range(5000))
    assert log.dropped == 0


def test_an_end_between_two_looks_is_noticed(log: AccessLog, tmp_path: Path) -> None:
    class Between(threading.Event):
        """Is set right after it was seen not to be."""

        def wait(self, timeout: float | None = None) -> bool:
            seen = super().wait(timeout)
            self.set()
            log._something.set()
            return seen

    log._ended = Between()
    noted(log, 1)
    log._writer.join(5)
    assert not log._writer.is_alive()
    assert ids(tmp_path / "a.log") == [1]


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_a_file_that_was_rotated_away_is_opened_anew(log: AccessLog, tmp_path: Path, how: str) -> None:
    path, old = tmp_path / "a.log", tmp_path / "a.log.1"
    noted(log, 1, 2)
    eventually(lambda: ids(path) == [1, 2], 5, "two lines are written")
    path.rename(old)
    if how == "removed":
        old.unlink()
    if how == "replaced":
        path.touch()
    noted(log, 3)
    eventually(lambda: ids(path) == [3], 5, "the third is in a new file")
    assert ids(old) == ([] if how == "removed" else [1, 2])
    assert log.dropped == 0


def test_a_full_disk_costs_lines_and_they_are_counted() -> None:
    log = AccessLog(Path("/dev/full"))
    noted(log, *range(100))
    eventually(lambda: log.dropped == 100, 5, "all are lost")
    log.close()


def test_a_torn_line_is_ended_before_the_next(log: AccessLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, room = os.write, [300]

    def write_while_there_is_room(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(file, data[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr(access_log.os, "write", write_while_there_is_room)
    noted(log, 1, 2, 3)
    eventually(lambda: log.dropped > 0, 5, "the disk is full")
    room[0] = 10_000
    noted(log, 4)
    path = tmp_path / "a.log"
    eventually(lambda: path.read_text().endswith("}\n"), 5, "the disk has room again")
    lines = path.read_text().splitlines()
    whole = [json.loads(line)["request_id"] for line in lines if line.endswith("}")]
    assert whole[-1] == "4"
    assert len(lines) == len(whole) + 1
    assert log.dropped == 4 - len(whole) > 0


def test_a_disk_that_hangs_holds_nobody_up_and_the_queue_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "MAX_WAITING_LINES", 1000)
    monkeypatch.setattr(access_log, "LAST_WRITE_S", 0.1)
    os.mkfifo(tmp_path / "pipe")
    ends = [os.open(tmp_path / "pipe", mode | os.O_NONBLOCK) for mode in (os.O_RDONLY, os.O_WRONLY)]
    with contextlib.suppress(BlockingIOError):
        while os.write(ends[1], b"x" * 4096):
            pass
    log = AccessLog(tmp_path / "pipe")
    noted(log, 0)
    eventually(lambda: not log._waiting, 5, "the writer has taken it and is stuck, because the pipe is full")
    began_s = time.monotonic()
    noted(log, *range(3000))
    assert time.monotonic() - began_s < 1
    assert log.dropped == 2000
    log.close()
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("name", ["missing/a.log", "."])
def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="could not be written"):
        AccessLog(tmp_path / name)


def lines_of(path: Path, count: int, holding: str) -> list[dict[str, Any]]:
    """All lines, as soon as `count` of them hold that text."""
    eventually(lambda: path.read_text().count(holding) >= count, 5, f"{count} lines")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_a_server_writes(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "requests.log"
    serving = start([simulated("dense")], access_log=str(path), aliases={"it": "dense"}).until_ready()
    chat = {"model": "it", "messages": [{"role": "user", "content": "a b c"}], "max_tokens": 4}
    sent: list[tuple[str, dict[str, Any]]] = [
        ("/v1/completions", {"model": "dense", "prompt": [1, 2, 3], "max_tokens": 5}),
        ("/v1/chat/completions", {**chat, "stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/chat/completions", {**chat, "stream": True}),
        ("/v1/completions", {"model": "nobody", "prompt": "x"}),
        ("/v1/elsewhere", {"model": "dense"}),
    ]
    answers = [serving.client.post(where, json=body, headers={"traceparent": PARENTS[0][0]}) for where, body in sent]
    serving.client.get("/v1/nothing")
    lines = [line for line in lines_of(path, len(sent) + 1, '"path":"/v1/') if line["path"].startswith("/v1/")]
    for answer, line in zip(answers, lines, strict=False):
        assert line["status"] == answer.status_code
        assert line["request_id"] == answer.headers["x-request-id"]
        assert (line["bytes_in"], line["bytes_out"]) == (len(answer.request.content), len(answer.content))
        assert line["trace_id"] == TRACE
        assert line["duration_s"] >= (line["ttft_s"] or 0) >= 0
    said = [[line[name] for name in ("model", "variant", "streamed", "refusal")] for line in lines]
    assert said == [
        ["dense", "dense", False, None],
        ["it", "dense", True, None],
        ["it", "dense", True, None],
        ["nobody", "_unknown", False, "model_not_found"],
        ["dense", "dense", False, None],
        [None, "_unknown", False, "not_found"],
    ]
    tokens = [(line["prompt_tokens"], line["completion_tokens"]) for line in lines]
    assert tokens == [(3, 5), (3, 4), *[(None, None)] * 4]
    assert [line["route"] for line in lines[-2:]] == ["other", "other"]
    assert lines[-1]["path"] == "/v1/nothing"


def test_a_client_that_left_is_in_the_log(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "requests.log"
    serving = start([simulated("slow", "--itl-ms", "1000")], access_log=str(path)).until_ready()
    body = b'{"model": "slow", "prompt": "x", "max_tokens": 60, "stream": true}'
    with socket.create_connection(("127.0.0.1", serving.port), timeout=10) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while b"data: " not in client.recv(1000):
            pass
    [line] = [line for line in lines_of(path, 1, '"status":499') if line["status"] == 499]
    assert line["bytes_out"] > 0
    assert line["completion_tokens"] is None


def test_a_full_disk_loses_no_request(start: Start) -> None:
    serving: Serving = start([simulated("dense")], access_log="/dev/full").until_ready()
    for _ in range(10):
        answer = serving.client.post("/v1/completions", json={"model": "dense", "prompt": "x", "max_tokens": 1})
        assert answer.status_code == 200
    name = "prunebench_access_log_dropped_lines_total"

    def dropped() -> float:
        [line] = [line for line in serving.client.get("/metrics").text.splitlines() if line.startswith(name + " ")]
        return float(line.rsplit(" ", 1)[1])

    eventually(lambda: dropped() >= 10, 5, "the lost lines are counted")
