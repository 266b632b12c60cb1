"""When is a worker given up, and what is counted as an answer? The clock and the worker are tables."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from server import liveness
from server.connection import UpstreamLost
from server.liveness import until_silent
from server.pool import Address, UpstreamPool

Answer = int | Exception | None


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Answer], float], tuple[str, int]]:
    """What `until_silent` says to these answers (None: none ever), the last again and again; how often it asked."""

    def run(answers: list[Answer], patience_s: float) -> tuple[str, int]:
        asked: list[str] = []

        async def fetch(pool: Any, method: str, path: str) -> tuple[int, bytes]:
            asked.append(f"{method} {path}")
            answer = answers[min(len(asked), len(answers)) - 1]
            if answer is None:
                await asyncio.Event().wait()
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, int)
            return answer, b""

        monkeypatch.setattr(liveness, "fetch", fetch)

        async def main() -> str:
            async with asyncio.timeout(5):
                return await until_silent(UpstreamPool(Address(socket_path="/none")), patience_s)

        reason = asyncio.run(main())
        assert set(asked) == {"GET /health"}
        return reason, len(asked)

    return run


Given = Callable[[list[Answer], float], tuple[str, int]]


@pytest.mark.parametrize("silence", [None, ConnectionRefusedError(), UpstreamLost()])
def test_silence_is_given_its_patience(given: Given, silence: Answer) -> None:
    began_s = time.monotonic()
    reason, _ = given([silence], 0.2)
    assert reason == "it did not answer for 0.2 s"
    assert 0.2 <= time.monotonic() - began_s < 2


def test_one_answer_in_between_begins_the_patience_anew(given: Given) -> None:
    reason, asked = given([None, 200, None, 404, None], 0.2)
    assert reason == "it did not answer for 0.2 s"
    assert asked > 5


def test_one_question_without_an_answer_is_not_yet_silence(given: Given) -> None:
    """A pause of this process looks like that."""
    assert given([None, 200, 503], 0.2) == ("it answered 503 when asked for its health", 3)


@pytest.mark.parametrize("status", [500, 503])
def test_a_worker_that_says_it_is_broken_is_believed_at_once(given: Given, status: int) -> None:
    assert given([200, status], 0.4) == (f"it answered {status} when asked for its health", 2)
