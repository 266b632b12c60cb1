"""Engine counters: found under either label, summed over engines, and never negative after a restart."""

from __future__ import annotations

import pytest

from loadtest.counters import counter_increase, engine_counters

PLAIN = """
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 10.0
vllm:prompt_tokens_total{engine="1",model_name="m"} 5.0
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
# TYPE vllm:request_success_total counter
vllm:request_success_total{finished_reason="stop",model_name="m"} 1.0
vllm:request_success_total{finished_reason="length",model_name="m"} 6.0
# TYPE http_requests_total counter
http_requests_total{handler="/v1/completions"} 99.0
"""

GATEWAY = """
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{model_name="/models/x",variant="dense"} 2.0
vllm:num_preemptions_total{model_name="/models/x",variant="pruned-30"} 4.0
"""


def test_counters_are_summed_over_all_other_labels() -> None:
    assert engine_counters(PLAIN) == {"m": {"vllm:prompt_tokens_total": 15.0, "vllm:request_success_total": 7.0}}


def test_a_gateways_variant_outranks_the_engines_own_name() -> None:
    assert engine_counters(GATEWAY) == {
        "dense": {"vllm:num_preemptions_total": 2.0},
        "pruned-30": {"vllm:num_preemptions_total": 4.0},
    }


@pytest.mark.parametrize(
    ("before", "after", "increase"),
    [
        pytest.param("10.0", "25.0", 15.0, id="an ordinary increase"),
        pytest.param("10.0", "10.0", 0.0, id="nothing happened"),
        pytest.param("10.0", "4.0", 4.0, id="the engine was restarted in between"),
    ],
)
def test_increase(before: str, after: str, increase: float) -> None:
    text = '# TYPE vllm:x_total counter\nvllm:x_total{{model_name="m"}} {}\n'
    found = counter_increase(text.format(before), text.format(after), ("m", "unknown"))
    assert found == {"m": {"vllm:x_total": increase}}


def test_a_model_that_appears_during_the_run_counts_from_zero() -> None:
    assert counter_increase("", GATEWAY, ("dense",)) == {"dense": {"vllm:num_preemptions_total": 2.0}}


@pytest.mark.parametrize(("before", "after"), [(None, PLAIN), (PLAIN, None), (None, None)])
def test_without_two_snapshots_there_is_no_increase(before: str | None, after: str | None) -> None:
    assert counter_increase(before, after, ("m",)) == {}
