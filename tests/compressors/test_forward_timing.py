"""Paired forward passes: whose turn it is, what a ratio is, and how the loss's own error is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_models import save_checkpoint

from artifacts.errors import ConfigError
from compressors.forward_timing import ForwardRequest, ForwardTimes, time_forward, time_pairs
from compressors.quality import EvaluationRequest, Sums, evaluate, standard_error_nats


class Acting:
    """A model that takes a known time on a clock of its own."""

    def __init__(self, name: str, seconds: float, stage: Stage) -> None:
        self._name, self._seconds, self._stage = name, seconds, stage

    def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> None:
        assert not use_cache
        self._stage.turns.append(self._name)
        # The machine gets slower all the time, for both.
        self._stage.now_s += self._seconds * 1.1 ** len(self._stage.turns)


class Stage:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.turns: list[str] = []

    def clock(self) -> float:
        return self.now_s


def test_turns_alternate_so_that_drift_cancels() -> None:
    stage = Stage()
    models = [Acting("base", 3.0, stage), Acting("variant", 2.0, stage)]
    times = time_pairs(models, torch.zeros(1, 4, dtype=torch.long), 4, clock=stage.clock)
    turns = ["variant", "base", "base", "variant", "variant", "base", "base", "variant", "variant", "base"]
    assert stage.turns == turns, "the first pair only warms up"
    assert len(times.base_s) == len(times.variant_s) == 4
    assert times.speedup == pytest.approx(1.5)
    assert times.interval[0] < 1.5 < times.interval[1]


def test_the_interval_is_students_on_the_log_scale() -> None:
    times = ForwardTimes(base_s=(2.0, 2.2, 1.9), variant_s=(1.0, 1.0, 1.0))
    low, high = times.interval
    expected = stats.ttest_1samp(np.log([2.0, 2.2, 1.9]), 0).confidence_interval(0.95)
    assert (np.log(low), np.log(high)) == pytest.approx((expected.low, expected.high))
    assert times.medians_s == (2.0, 1.0)


def test_checkpoints_are_timed_and_too_long_a_prompt_is_refused(tmp_path: Path) -> None:
    base, small = save_checkpoint(tmp_path / "base"), save_checkpoint(tmp_path / "small", num_hidden_layers=1)
    request = ForwardRequest(base=str(base), variant=str(small), tokens=64, pairs=3)
    times = time_forward(request)
    assert len(times.base_s) == 3 and min(times.base_s + times.variant_s) > 0
    with pytest.raises(ConfigError, match="reads 128 tokens at most, 2048 were asked"):
        time_forward(ForwardRequest(base=str(base), variant=str(small)))


def test_drawn_weights_need_only_the_configuration(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base")
    (base / "model.safetensors").unlink()
    times = time_forward(ForwardRequest(base=str(base), variant=str(base), tokens=16, pairs=2, drawn=True))
    assert len(times.variant_s) == 2


def test_the_losss_error_counts_windows_not_tokens() -> None:
    windows = [Sums(tokens=10, loss_nats=loss) for loss in (20.0, 30.0, 40.0, 10.0)]
    means = np.array([2.0, 3.0, 4.0, 1.0])
    assert standard_error_nats(windows) == pytest.approx(means.std(ddof=1) / np.sqrt(4))
    assert standard_error_nats(windows[:1]) is None
    longer = [*windows, Sums(tokens=40, loss_nats=100.0)]
    assert standard_error_nats(longer) == pytest.approx(
        np.sqrt(5 / 4 * sum((w.loss_nats - 2.5 * w.tokens) ** 2 for w in longer)) / 80
    )


def test_an_evaluation_states_its_error(model_folder: Path, text_file: Path) -> None:
    several = evaluate(EvaluationRequest(model=model_folder, text=text_file, length_tokens=16))
    assert several.standard_error_nats is not None and 0 < several.standard_error_nats < several.loss_nats
    one = evaluate(EvaluationRequest(model=model_folder, text=text_file, length_tokens=16, max_tokens=8))
    assert one.standard_error_nats is None
