"""Which numbers may a panel, a rule or an alert be made of, what does each mean, and who counts it?

The only place where a metric is named. Tests look every name up on pages captured from a gateway, from vLLM and from a
load test; a panel's description is put together from the definitions here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Source = Literal["gateway", "engine", "machine", "load test", "prometheus"]

_SUFFIX = re.compile(r"_(bucket|sum|count)$")


@dataclass(frozen=True, slots=True)
class Metric:
    """`name` is that of the samples; a histogram's are `name_bucket`, `name_sum` and `name_count`.

    Sources: the gateway itself; a vLLM engine; the machine's GPUs, read by the gateway; the load client; Prometheus.
    """

    name: str
    kind: Kind
    source: Source
    definition: str


def _gateway(name: str, kind: Kind, definition: str) -> Metric:
    return Metric(f"prunebench_{name}", kind, "gateway", definition)


def _engine(name: str, kind: Kind, definition: str) -> Metric:
    return Metric(f"vllm:{name}", kind, "engine", definition)


def _client(name: str, kind: Kind, definition: str) -> Metric:
    return Metric(f"prunebench_loadtest_{name}", kind, "load test", definition)


def _gpu(name: str, kind: Kind, definition: str) -> Metric:
    return Metric(f"prunebench_gpu_{name}", kind, "machine", definition)


UP = Metric("up", "gauge", "prometheus", "1 if the target's last scrape succeeded.")
ALERTS = Metric("ALERTS", "gauge", "prometheus", "1 for each alert that is pending or firing.")

REQUESTS = _gateway("requests_total", "counter", "requests ended, by HTTP status (499: the client left).")
REFUSALS = _gateway("refusals_total", "counter", "requests that the gateway refused or broke off, by error code.")
FIRST_BYTE = _gateway(
    "time_to_first_byte_seconds",
    "histogram",
    "request's arrival at the gateway to the first byte of the body; not streamed, that is all of it.",
)
DURATION = _gateway("request_duration_seconds", "histogram", "request's arrival to the last byte of its answer.")
QUEUE_WAIT = _gateway("queue_wait_seconds", "histogram", "how long requests waited that had to wait for a turn.")
IN_FLIGHT = _gateway("requests_in_flight", "gauge", "requests that a variant is answering now.")
QUEUED = _gateway("requests_queued", "gauge", "requests that wait in the gateway for their turn.")
STATE = _gateway("variant_state", "gauge", "1 for the state that a variant is in, 0 for the others.")
RESTARTS = _gateway("worker_restarts_total", "counter", "starts of a variant's worker after a crash.")
BODY_BYTES = _gateway("response_body_bytes_total", "counter", "bytes of bodies sent to clients.")
LOST_LINES = _gateway("access_log_dropped_lines_total", "counter", "requests without a line in the access log.")
REPLICA_UP = _gateway("replica_up", "gauge", "1 for a server behind a URL that gets requests.")
REPLICA_IN_FLIGHT = _gateway("replica_requests_in_flight", "gauge", "requests that a server behind a URL answers.")
EJECTIONS = _gateway("replica_ejections_total", "counter", "times that a server behind a URL was found unfit.")
BUILD = _gateway("build_info", "gauge", "1, labelled with the version of Prunebench and of Python.")
CPU_SECONDS = Metric("process_cpu_seconds_total", "counter", "gateway", "processor time of the process.")
RESIDENT_BYTES = Metric("process_resident_memory_bytes", "gauge", "gateway", "memory of the process.")
OPEN_FILES = Metric("process_open_fds", "gauge", "gateway", "open files and sockets of the process.")
MAX_FILES = Metric("process_max_fds", "gauge", "gateway", "how many of them the system allows.")

TTFT = _engine("time_to_first_token_seconds", "histogram", "TTFT: arrival in the engine to the first token.")
TPOT = _engine(
    "request_time_per_output_token_seconds",
    "histogram",
    "TPOT: (last - first token's time) / (output tokens - 1), one value per request.",
)
ITL = _engine(
    "inter_token_latency_seconds", "histogram", "ITL: gap between two outputs of one request, one value per gap."
)
E2E = _engine("e2e_request_latency_seconds", "histogram", "E2E: arrival in the engine to the last token.")
QUEUE_TIME = _engine("request_queue_time_seconds", "histogram", "time that a request waited in the engine.")
PREFILL_TIME = _engine("request_prefill_time_seconds", "histogram", "first scheduling to the first token.")
DECODE_TIME = _engine("request_decode_time_seconds", "histogram", "first token to the last.")
PROMPT_TOKENS = _engine("prompt_tokens_total", "counter", "prompt tokens processed.")
OUTPUT_TOKENS = _engine("generation_tokens_total", "counter", "output tokens generated.")
PROMPT_LENGTH = _engine("request_prompt_tokens", "histogram", "prompt tokens of a finished request.")
OUTPUT_LENGTH = _engine("request_generation_tokens", "histogram", "output tokens of a finished request.")
STEP_TOKENS = _engine("iteration_tokens_total", "histogram", "tokens in one step of the engine.")
RUNNING = _engine("num_requests_running", "gauge", "requests in the engine's batch.")
WAITING = _engine("num_requests_waiting", "gauge", "requests that the engine has not scheduled yet.")
KV_USAGE = _engine("kv_cache_usage_perc", "gauge", "share of the KV cache's blocks in use, 1 is full.")
PREEMPTIONS = _engine("num_preemptions_total", "counter", "requests thrown out of the batch to be computed again.")
PREFIX_QUERIES = _engine("prefix_cache_queries_total", "counter", "prompt tokens looked up in the prefix cache.")
PREFIX_HITS = _engine("prefix_cache_hits_total", "counter", "prompt tokens found there.")
FINISHED = _engine("request_success_total", "counter", "finished requests, by the reason of their end.")
SLEEPING = _engine("engine_sleep_state", "gauge", "1 for the sleep state (awake, weights offloaded, discarded).")
FLOPS = _engine("estimated_flops_per_gpu_total", "counter", "floating-point operations per device, by vLLM's model.")
READ_BYTES = _engine("estimated_read_bytes_per_gpu_total", "counter", "bytes read from memory, by vLLM's model.")
WRITE_BYTES = _engine("estimated_write_bytes_per_gpu_total", "counter", "bytes written to memory, by vLLM's model.")

GPU_POWER = _gpu("power_watts", "gauge", "power that the board draws.")
GPU_POWER_LIMIT = _gpu("power_limit_watts", "gauge", "the enforced power cap.")
GPU_ENERGY = _gpu("energy_joules_total", "counter", "energy since the driver was loaded (the board's own counter).")
GPU_SM_CLOCK = _gpu("sm_clock_hertz", "gauge", "clock of the streaming multiprocessors.")
GPU_MEMORY_CLOCK = _gpu("memory_clock_hertz", "gauge", "clock of the memory.")
GPU_TEMPERATURE = _gpu("temperature_celsius", "gauge", "temperature of the chip.")
GPU_MEMORY_USED = _gpu("memory_used_bytes", "gauge", "memory in use on the board.")
GPU_THROTTLED = _gpu("throttled", "gauge", "1 while the clocks are held down for the reason.")

OFFERED = _client("offered_requests_total", "counter", "requests whose scheduled time has come.")
ACHIEVED = _client("completed_requests_total", "counter", "requests answered in full, as the client saw it.")
FAILED = _client("failed_requests_total", "counter", "requests that failed, by kind.")
CLIENT_TOKENS = _client("output_tokens_total", "counter", "output tokens that reached the client.")
CLIENT_TTFT = _client("time_to_first_token_seconds", "histogram", "TTFT from the scheduled time to the first output.")
CLIENT_TPOT = _client("time_per_output_token_seconds", "histogram", "TPOT between the first and last output's arrival.")
CLIENT_E2E = _client("e2e_seconds", "histogram", "scheduled time to the last output.")
LATENESS = _client("send_lateness_seconds", "histogram", "scheduled time to the sending: the client's own delay.")
CLIENT_CPU = _client("process_cpu_share", "gauge", "processor time of the load client's process, in cores.")
WINDOW = _client("window_open", "gauge", "1 while an arm's measured window is open.")
PROGRESS = _client("progress_ratio", "gauge", "share of the planned run that is over.")

METRICS: dict[str, Metric] = {value.name: value for value in list(globals().values()) if isinstance(value, Metric)}

RECORDED = re.compile(r"^(variant|gateway):[a-z0-9_:]+$")
"""Names that the recording rules make: level, quantity, operation."""

_CALLED = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)\s*\{")


def named_in(expression: str) -> tuple[str, ...]:
    """Names of the samples in a PromQL expression, in order. Every selector of ours has braces, so this is exact."""
    return tuple(dict.fromkeys(_CALLED.findall(expression)))


def metrics_in(expression: str) -> tuple[Metric, ...]:
    """The metrics that the expression is made of. Raises KeyError for a name that is not in the table."""
    names = [name for name in named_in(expression) if not RECORDED.match(name)]
    return tuple(dict.fromkeys(METRICS[name] if name in METRICS else METRICS[_SUFFIX.sub("", name)] for name in names))
