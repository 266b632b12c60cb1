"""The high-water mark counts what was held since it was restarted."""

from __future__ import annotations

import numpy as np

from compressors.peak_memory import peak_bytes, restart_peak

HELD_BYTES = 256 << 20


def hold(size_bytes: int) -> float:
    return float(np.ones(size_bytes // 8).sum())


def test_peak_sees_what_was_held_and_let_go() -> None:
    restart_peak()
    before = peak_bytes()
    hold(HELD_BYTES)
    assert peak_bytes() - before > 0.9 * HELD_BYTES


def test_peak_forgets_what_was_held_before_its_start() -> None:
    hold(HELD_BYTES)
    high = peak_bytes()
    restart_peak()
    assert peak_bytes() < high - 0.5 * HELD_BYTES
