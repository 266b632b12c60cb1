"""Small plans for tests that look at what a plan plays."""

from __future__ import annotations

from typing import Any

from loadtest.plan import Plan


def small_plan(arms: tuple[str, ...] = ("a", "b"), **changes: Any) -> Plan:
    """Two arms, four blocks of 0.75 s; keyword arguments replace values."""
    values: dict[str, Any] = {
        "url": "http://h:1",
        "arms": arms,
        "level": {"concurrency": 2},
        "workload": {"prompt_tokens": 20, "output_tokens": 8, "seed": 5},
        "blocks": 4,
        "window_s": 0.5,
        "lead_in_s": 0.25,
        "timeout_s": 9,
        "nonce": 77,
    }
    return Plan.parse(values | changes, "the test")


def workload(**changes: Any) -> dict[str, Any]:
    return {"workload": {"prompt_tokens": 20, "output_tokens": 8, "seed": 5} | changes}


def trace(times_s: list[float], prompts: list[int], outputs: list[int], **more: Any) -> dict[str, Any]:
    """What a plan holds of a trace."""
    return {"source": {"path": "t"}, "times_s": times_s, "prompt_tokens": prompts, "output_tokens": outputs} | more
