"""The training loop: its schedule, its arithmetic, what it records."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from recovery_cases import make_patient
from torch import Tensor, nn

from artifacts.errors import CompressionError, ConfigError
from artifacts.progress import silent
from artifacts.recovery import CurvePoint
from compressors.quality import Sums, add_window
from compressors.recovery import full, training
from compressors.recovery.patient import Patient
from compressors.recovery.registry import Stage
from compressors.recovery.state import StateFolder, TrainingState, working_state
from compressors.recovery.training import Schedule, Trainer

SCHEDULE = Schedule(tokens=320, batch_windows=2, window_tokens=16, learning_rate=0.01, seed=0)


@dataclass
class Bowl:
    """One weight whose loss on window i is (weight - i)^2: everything can be computed by hand."""

    weight: nn.Parameter
    seen: list[int]

    @classmethod
    def at(cls, value: float) -> Bowl:
        return cls(nn.Parameter(torch.tensor(value), requires_grad=False), [])

    def loss(self, indices: Tensor) -> Tensor:
        self.seen += indices.tolist()
        return (self.weight - indices).square().mean()

    def stages(self, count: int = 1, windows: int = 5) -> Iterator[Stage]:
        for number in range(count):
            yield Stage(name=f"s{number}", total=count, windows=windows, parameters={"w": self.weight}, loss=self.loss)


def trainer_for(patient: Patient, folder: Path, schedule: Schedule = SCHEDULE) -> Trainer:
    return Trainer(
        model=patient.student.view.model,
        held_out=(patient.windows[:1], patient.windows[1:2, :9]),
        schedule=schedule,
        folder=StateFolder(folder),
        state=TrainingState(),
        progress=silent,
    )


def test_steps_cover_the_asked_tokens() -> None:
    assert (SCHEDULE.step_tokens, SCHEDULE.steps) == (32, 10)
    assert replace(SCHEDULE, tokens=321).steps == 11
    assert replace(SCHEDULE, tokens=1).steps == 1


def test_rate_warms_up_to_the_peak_and_falls_like_half_a_cosine() -> None:
    schedule = replace(SCHEDULE, tokens=32 * 100)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert max(rates) == pytest.approx(0.01)
    assert all(a > b for a, b in pairwise(rates[4:]))
    assert rates[52] == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi * 48 / 96)))
    assert 0 < rates[-1] < 1e-4
    assert replace(SCHEDULE, tokens=1).rate(0) == 0.01


@pytest.mark.parametrize(("tokens", "stages", "count"), [(3200, 1, 12), (3200, 5, 2), (3200, 90, 1), (64, 1, 2)])
def test_evaluations_are_spread_and_end_with_the_last_step(tokens: int, stages: int, count: int) -> None:
    schedule = replace(SCHEDULE, tokens=tokens)
    stops = schedule.stops(stages)
    assert len(stops) == count and stops[-1] == schedule.steps
    assert len(set(stops)) == count and stops == sorted(stops) and stops[0] >= 1


def test_one_step_is_adamw_on_the_clipped_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam's first step is the rate times the gradient's sign, whatever the gradient: no decay, no momentum yet."""
    bowl = Bowl.at(100.0)
    clipped: list[float] = []
    original = nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda w, limit: (clipped.append(limit), original(w, limit))[1])
    trainer = trainer_for(make_patient(), tmp_path, replace(SCHEDULE, tokens=32))
    trainer.train(bowl.stages())
    assert float(bowl.weight) == pytest.approx(100 - 0.01, abs=1e-5)
    assert clipped == [1.0]


def test_micro_batches_change_no_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven windows in pieces of two (the last of one) against all at once."""
    schedule = replace(SCHEDULE, batch_windows=7, tokens=16 * 7 * 4)
    weights: list[Tensor] = []
    for micro in (32, 16 * 7):
        monkeypatch.setattr(training, "_MICRO_TOKENS", micro)
        patient = make_patient()
        trainer_for(patient, tmp_path, schedule).train(full.stages(full.FullConfig(), patient))
        weights.append(patient.student.view.model.model.layers[0].mlp.down_proj.weight.clone())
        (tmp_path / "state.pt").unlink()
    assert torch.allclose(*weights, atol=1e-5)


def test_windows_come_in_the_seeded_order(tmp_path: Path) -> None:
    bowls = [Bowl.at(0.0), Bowl.at(0.0), Bowl.at(0.0)]
    for bowl, seed in zip(bowls, (0, 0, 1), strict=True):
        trainer_for(make_patient(), tmp_path, replace(SCHEDULE, seed=seed)).train(bowl.stages())
    assert bowls[0].seen == bowls[1].seen != bowls[2].seen
    assert len(bowls[0].seen) == 20 and sorted(bowls[0].seen[:5]) == [0, 1, 2, 3, 4]


def test_held_out_loss_weighs_tokens_not_windows(tmp_path: Path) -> None:
    patient = make_patient()
    sums = Sums()
    with torch.no_grad():
        for window in (patient.windows[:1], patient.windows[1:2, :9]):
            add_window(sums, patient.student.view.model, None, window)
    assert sums.tokens == 15 + 8
    assert trainer_for(patient, tmp_path).held_out_loss() == pytest.approx(sums.loss_nats / 23)


def test_curve_counts_tokens_over_all_stages(tmp_path: Path) -> None:
    bowl, calls = Bowl.at(50.0), []
    trainer = trainer_for(make_patient(), tmp_path)
    trainer.progress = lambda *call: calls.append(call)
    trainer.train(bowl.stages(count=3))
    points = trainer.state.points
    assert [(p.stage, p.step) for p in points] == [
        ("s0", 0),
        *((f"s{n}", n * 10 + stop) for n in range(3) for stop in SCHEDULE.stops(3)),
    ]
    assert [p.tokens for p in points] == [p.step * 32 for p in points]
    assert points[0].training_loss is None
    assert all(p.training_loss is not None and 1500 < p.training_loss < 2600 for p in points[1:])
    assert [done for _, done, _ in calls] == list(range(1, 31)) and calls[-1] == ("train", 30, 30)
    assert not bowl.weight.requires_grad


def test_training_lowers_the_held_out_loss_of_text_like_it(tmp_path: Path) -> None:
    patient = make_patient()
    learned = replace(patient, windows=patient.windows[:2])
    trainer = trainer_for(learned, tmp_path, replace(SCHEDULE, tokens=32 * 40))
    trainer.train(full.stages(full.FullConfig(), learned))
    points = trainer.state.points
    assert points[-1].held_out_loss_nats < 0.5 * points[0].held_out_loss_nats
    assert points[-1].training_loss is not None and points[1].training_loss is not None
    assert points[-1].training_loss < points[1].training_loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_is_said(value: float, tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=r"diverged in s0 at step 0.* Lower --learning-rate"):
        trainer_for(make_patient(), tmp_path).train(Bowl.at(value).stages())


def test_divergence_of_the_last_update_is_said_and_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No training loss comes behind it; the held-out loss does."""
    losses = iter((4.0, math.nan))
    monkeypatch.setattr(Trainer, "held_out_loss", lambda _: next(losses))
    trainer = trainer_for(make_patient(), tmp_path, replace(SCHEDULE, tokens=32))
    with pytest.raises(CompressionError, match="its loss is nan"):
        trainer.train(Bowl.at(3.0).stages())
    assert not trainer.folder.was_saved


def state_with(stage: int) -> TrainingState:
    point = CurvePoint(stage="full", step=1, tokens=32, learning_rate=0.1, training_loss=None, held_out_loss_nats=4.0)
    return TrainingState(stage=stage, step=2, parameters={"w": torch.ones(3)}, points=[point], elapsed_s=1.5)


def test_state_survives_the_disk(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    assert folder.load() == TrainingState()
    folder.save(state_with(1))
    loaded = folder.load()
    assert (loaded.stage, loaded.step, loaded.elapsed_s) == (1, 2, 1.5)
    assert torch.equal(loaded.parameters["w"], torch.ones(3)) and loaded.points == state_with(1).points
    folder.clear()
    assert folder.load() == TrainingState()


def test_damaged_state_is_named(tmp_path: Path) -> None:
    StateFolder(tmp_path).save(state_with(0))
    saved = tmp_path / "state.pt"
    saved.write_bytes(saved.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"state\.pt is damaged. Remove its folder"):
        StateFolder(tmp_path).load()


def test_working_folder_goes_when_done_and_stays_when_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), working_state(out, {"seed": 0}) as folder:
        folder.save(state_with(1))
        raise RuntimeError("interrupted")
    assert [path.name[:12] for path in tmp_path.iterdir()] == ["out.partial-"]
    with working_state(out, {"seed": 1}) as other:
        assert other.load().stage == 0, "another request starts anew"
    with working_state(out, {"seed": 0}) as folder:
        assert folder.load().stage == 1
        with pytest.raises(ConfigError, match="by another process"), working_state(out, {"seed": 0}):
            pass
    assert list(tmp_path.iterdir()) == []
