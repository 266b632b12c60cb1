"""A thread served first, and children that are not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from artifacts.priority import served_first

ASK = "import os; print(os.sched_getscheduler(0))"


def policy() -> int:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


def test_the_class_is_taken_for_the_block_only() -> None:
    before = policy()
    with served_first() as allowed:
        if not allowed:
            pytest.skip("this user may not take the real-time class")
        assert policy() == os.SCHED_RR
        child = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
        assert int(child.stdout) == os.SCHED_OTHER
    assert policy() == before


def test_refusal_is_told_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError

    before = policy()
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with served_first() as allowed:
        assert allowed is False
    assert policy() == before
