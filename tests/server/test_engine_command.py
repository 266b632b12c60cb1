"""Is the engine started with the settings the fleet asks for, on every supported version and device?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ConfigError
from artifacts.fleet import Fleet
from server.engines import EngineCommand, EngineJob, Machine, engine_command, this_machine

GPU_26 = Machine((0, 26), "gpu")
GPU_31 = Machine((0, 31), "gpu")
GPU_33 = Machine((0, 33), "gpu")
CPU_26 = Machine((0, 26), "cpu")
CPU_32 = Machine((0, 32), "cpu")


def command(machine: Machine, entry: dict[str, Any] | None = None, **fleet: Any) -> EngineCommand:
    variant = {"name": "dense", "model": "org/model", **(entry or {})}
    parsed = Fleet.parse({"variants": [variant], **fleet}, "the test's fleet")
    return engine_command(EngineJob(parsed.variants[0], parsed, "/run/dense.sock", "abc123"), machine)


def option(made: EngineCommand, flag: str) -> str | None:
    """The value after `flag`; "" for a switch at the end; None if absent."""
    if flag not in made.argv:
        return None
    after = made.argv[made.argv.index(flag) + 1 :]
    return after[0] if after else ""


VALUES = [
    (GPU_26, {}, "--model", "org/model", "the model goes to the engine as it was given"),
    (GPU_26, {}, "--served-model-name", "dense", "the name is the variant's, not the model's"),
    (GPU_26, {}, "--uds", "/run/dense.sock", "never a network port: the engine's admin routes have no key"),
    (GPU_26, {}, "--dtype", "auto", "the default of the fleet"),
    (GPU_26, {"dtype": "bfloat16"}, "--dtype", "bfloat16", "the fleet's dtype"),
    (GPU_26, {}, "--max-model-len", None, "absent unless asked: the model's own length"),
    (GPU_26, {"max_model_len": 512}, "--max-model-len", "512", "as asked"),
    (GPU_26, {"max_num_seqs": 7}, "--max-num-seqs", "7", "as asked"),
    (GPU_26, {"kv_cache_bytes": 12345}, "--kv-cache-memory-bytes", "12345", "a GPU takes exact bytes"),
    (CPU_32, {"kv_cache_bytes": 12345}, "--kv-cache-memory-bytes", "12345", "so does a recent CPU build"),
    (CPU_26, {"kv_cache_bytes": 12345}, "--kv-cache-memory-bytes", None, "an old CPU build takes the environment"),
    (GPU_26, {}, "--gpu-memory-utilization", "0.01", "or a second engine would find too little memory free to start"),
    (CPU_32, {}, "--gpu-memory-utilization", None, "on a CPU the cache's bytes are all that counts"),
    (GPU_26, {}, "--custom-histogram-buckets", None, "0.26 does not know the flag"),
    (GPU_31, {}, "--custom-histogram-buckets", None, "nor does 0.31, and an engine refuses to start with it"),
    (GPU_26, {}, "--fingerprint-value", "abc123", "every version stamps the checkpoint's fingerprint"),
    (GPU_26, {}, "--fingerprint-mode", "custom", "which needs the mode"),
]


@pytest.mark.parametrize(("machine", "fleet", "flag", "value", "why"), VALUES, ids=lambda v: None)
def test_option(machine: Machine, fleet: dict[str, Any], flag: str, value: str | None, why: str) -> None:
    assert option(command(machine, **fleet), flag) == value, why


SWITCHES = [
    (CPU_32, {}, "--enforce-eager", True, "compilation doubles the start on a CPU"),
    (GPU_33, {}, "--enforce-eager", False, "a GPU wants its graphs"),
    (GPU_33, {}, "--no-enable-prefix-caching", True, "a warm prefix cache fakes speed"),
    (GPU_33, {"prefix_caching": True}, "--enable-prefix-caching", True, "unless it is asked for"),
    (GPU_33, {"prefix_caching": True}, "--no-enable-prefix-caching", False, "and then not forbidden"),
    (GPU_33, {}, "--disable-uvicorn-access-log", True, "one log line per request costs"),
]


@pytest.mark.parametrize(("machine", "fleet", "flag", "there", "why"), SWITCHES, ids=lambda v: None)
def test_switch(machine: Machine, fleet: dict[str, Any], flag: str, there: bool, why: str) -> None:
    assert (flag in command(machine, **fleet).argv) == there, why


ENVIRONMENT = [
    (CPU_26, 1, "1", "less than a GiB is rounded up, never down to nothing"),
    (CPU_26, 1 << 30, "1", "a whole GiB stays"),
    (CPU_26, (1 << 30) + 1, "2", "a byte more is a GiB more"),
    (CPU_32, 1 << 30, None, "the flag is exact, the variable would override it"),
    (GPU_26, 1 << 30, None, "means nothing on a GPU"),
]


@pytest.mark.parametrize(("machine", "kv_cache_bytes", "value", "why"), ENVIRONMENT)
def test_cpu_cache_space(machine: Machine, kv_cache_bytes: int, value: str | None, why: str) -> None:
    env = command(machine, kv_cache_bytes=kv_cache_bytes).env
    assert env.get("VLLM_CPU_KVCACHE_SPACE") == value, why


def test_an_entry_overrides_the_fleets_cache() -> None:
    assert option(command(GPU_33, {"kv_cache_bytes": 99}, kv_cache_bytes=1), "--kv-cache-memory-bytes") == "99"


def test_engine_flags_come_last_so_that_they_win() -> None:
    assert command(GPU_33, {"engine_flags": ["--dtype", "float16"]}).argv[-2:] == ("--dtype", "float16")


def test_histogram_buckets_start_below_a_millisecond_and_rise() -> None:
    flag = option(command(GPU_33), "--custom-histogram-buckets")
    assert flag is not None
    for family, bounds in json.loads(flag).items():
        assert bounds == sorted(set(bounds)), family
    assert json.loads(flag)["inter_token_latency"][0] < 0.001


def test_a_local_model_is_never_looked_up_on_the_hub(tmp_path: Path) -> None:
    assert command(CPU_32, {"model": str(tmp_path)}).env["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in command(CPU_32).env


def test_output_is_unbuffered_and_usage_is_not_reported() -> None:
    assert command(GPU_26).env == {"PYTHONUNBUFFERED": "1", "VLLM_NO_USAGE_STATS": "1"}


def test_a_missing_engine_is_named() -> None:
    with pytest.raises(ConfigError, match=r"Install prunebench\[cpu\]"):
        command(Machine(None, "cpu"))


def test_the_simulator_needs_no_vllm() -> None:
    made = command(Machine(None, "cpu"), {"model": None, "engine": "sim", "engine_flags": ["--itl-ms", "2"]})
    assert made.argv[1:3] == ("-m", "server.simulator")
    assert made.argv[-2:] == ("--itl-ms", "2")
    assert made.env == {}


def test_this_machine_is_found_without_importing_vllm() -> None:
    assert this_machine().device in {"cpu", "gpu"}


@pytest.mark.parametrize(
    ("cores", "threads", "why"),
    [(1, "1", "there is only one"), (2, "1", "one is left for everything else"), (16, "15", "one is left")],
)
def test_cpu_engines_share_all_cores_instead_of_binding_to_the_same_ones(cores: int, threads: str, why: str) -> None:
    env = command(replace(CPU_32, cores=cores)).env
    assert (env["VLLM_CPU_OMP_THREADS_BIND"], env["OMP_NUM_THREADS"]) == ("nobind", threads), why
