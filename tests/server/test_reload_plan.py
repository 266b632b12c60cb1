"""Does a new fleet file touch exactly those variants whose engine would be run differently?"""

from __future__ import annotations

from typing import Any

import pytest

from artifacts.errors import ConfigError
from artifacts.fleet import Fleet
from server.reload import reload_plan

A = {"name": "a", "engine": "sim"}
B = {"name": "b", "model": "org/b"}
C = {"name": "c", "url": "http://far:1"}


def fleet(*variants: dict[str, Any], **settings: Any) -> Fleet:
    return Fleet.parse({"variants": variants, **settings}, "the test's fleet")


Case = tuple[Fleet, Fleet, dict[str, list[str]], str]
CASES: list[Case] = [
    (fleet(A, B, C), fleet(A, B, C), {"unaffected": ["a", "b", "c"]}, "the same file"),
    (fleet(A, B), fleet(B, A), {"unaffected": ["b", "a"]}, "another order"),
    (fleet(A), fleet(A, C), {"added": ["c"], "unaffected": ["a"]}, "one more"),
    (fleet(A, C), fleet(A), {"removed": ["c"], "unaffected": ["a"]}, "one less"),
    (fleet(A), fleet(C), {"added": ["c"], "removed": ["a"]}, "another one"),
    (fleet(A, B), fleet(A, {**B, "model": "org/b2"}), {"changed": ["b"], "unaffected": ["a"]}, "another model"),
    (fleet(A), fleet({**A, "engine_flags": ["--itl-ms", "2"]}), {"changed": ["a"]}, "other flags"),
    (fleet(C), fleet({**C, "url": ["http://far:1", "http://far:2"]}), {"changed": ["c"]}, "one more replica"),
    (fleet(B), fleet({**B, "max_in_flight": 3}), {"unaffected": ["b"]}, "a limit is the gateway's"),
    (fleet(B), fleet({**B, "kv_cache_bytes": 1 << 30}), {"unaffected": ["b"]}, "the default, said explicitly"),
    (fleet(B), fleet({**B, "kv_cache_bytes": 1 << 29}), {"changed": ["b"]}, "less cache"),
    (fleet(A, B, C), fleet(A, B, C, dtype="float32"), {"changed": ["b"], "unaffected": ["a", "c"]}, "vLLM's alone"),
    (fleet(A, B), fleet(A, B, kv_cache_bytes=7), {"changed": ["b"], "unaffected": ["a"]}, "the fleet's cache"),
    (
        fleet({**B, "kv_cache_bytes": 5}),
        fleet({**B, "kv_cache_bytes": 5}, kv_cache_bytes=7),
        {"unaffected": ["b"]},
        "overridden",
    ),
    (fleet(B), fleet(B, limits={"max_queued": 1}, timeouts={"queue_s": 1}), {"unaffected": ["b"]}, "patience"),
    (fleet(B), fleet(B, aliases={"x": "b"}, start_timeout_s=9), {"unaffected": ["b"]}, "a name"),
]


@pytest.mark.parametrize(("old", "new", "expected", "why"), CASES, ids=[why for *_, why in CASES])
def test_plan(old: Fleet, new: Fleet, expected: dict[str, list[str]], why: str) -> None:
    names = reload_plan(old, new).names
    assert {kind: found for kind, found in names.items() if found} == expected, why


def test_the_plan_carries_the_new_entries() -> None:
    plan = reload_plan(fleet(A, B), fleet(A, {**B, "model": "org/b2"}, C))
    assert [entry.model for entry in plan.changed] == ["org/b2"]
    assert [entry.urls for entry in plan.added] == [("http://far:1",)]
    assert str(plan) == "added: c; changed: b; unaffected: a"


FIXED: list[dict[str, Any]] = [{"layout": "swap"}, {"state_dir": "/x"}, {"keys_file": "/x"}, {"access_log": "/x"}]


@pytest.mark.parametrize("settings", FIXED, ids=[next(iter(setting)) for setting in FIXED])
def test_what_the_server_is_built_around_cannot_change(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} cannot change while the server runs"):
        reload_plan(fleet(A), fleet(A, **settings))
