"""What did the engines count during the run? Differences of vLLM's Prometheus counters, per served model."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

PREFIX_HITS = "vllm:prefix_cache_hits_total"
PREFIX_QUERIES = "vllm:prefix_cache_queries_total"
PREEMPTIONS = "vllm:num_preemptions_total"
CACHE_INFO = "vllm:cache_config_info"

_Counts = dict[str, dict[str, float]]


def engine_counters(text: str) -> _Counts:
    """Per model, every `vllm:*_total` summed over its other labels.

    The model is the label `variant` (a gateway's, which outranks what the engine calls itself) or `model_name`.
    """
    counts: _Counts = {}
    for family in text_string_to_metric_families(text):
        if family.type != "counter" or not family.name.startswith("vllm:"):
            continue
        for sample in family.samples:
            model = sample.labels.get("variant") or sample.labels.get("model_name")
            if model is not None and sample.name.endswith("_total"):
                of_model = counts.setdefault(model, {})
                of_model[sample.name] = of_model.get(sample.name, 0.0) + sample.value
    return counts


def cache_tokens(text: str) -> dict[str, int]:
    """How many tokens each model's KV cache holds, for engines that say so."""
    held: dict[str, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples if family.name == CACHE_INFO else ():
            model = sample.labels.get("variant") or sample.labels.get("model_name")
            sizes = [sample.labels.get(name, "") for name in ("num_gpu_blocks", "block_size")]
            if model is not None and all(size.isdigit() for size in sizes):
                held[model] = int(sizes[0]) * int(sizes[1])
    return held


def counter_increase(before: str | None, after: str | None, models: tuple[str, ...]) -> _Counts:
    """`after` minus `before` for the models that both snapshots know; empty where there is no snapshot.

    A counter that fell belongs to an engine that was restarted: its new value is what is known to have been counted.
    """
    if before is None or after is None:
        return {}
    old, new = engine_counters(before), engine_counters(after)
    return {
        model: {
            name: value - earlier if value >= (earlier := old.get(model, {}).get(name, 0.0)) else value
            for name, value in new[model].items()
        }
        for model in models
        if model in new
    }
