"""The training loop that all recovery methods share: AdamW, warm-up and cosine decay, clipping, held-out evaluation.

Each stage runs the whole schedule. After every stretch between two evaluations the state is saved, so a killed run
loses at most one stretch, and continues to the same bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from artifacts.errors import CompressionError
from artifacts.progress import Progress
from artifacts.recovery import CurvePoint
from compressors.quality import Sums, add_window
from compressors.recovery.registry import Stage
from compressors.recovery.state import StateFolder, TrainingState
from compressors.recovery.training_text import window_order

BETAS = (0.9, 0.95)
CLIP_NORM = 1.0
WARMUP_SHARE = 0.05
EVALUATIONS = 12
_MICRO_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """`tokens` and everything derived from it are per stage; the learning rate is the peak."""

    tokens: int
    batch_windows: int
    window_tokens: int
    learning_rate: float
    seed: int

    @property
    def step_tokens(self) -> int:
        return self.batch_windows * self.window_tokens

    @property
    def steps(self) -> int:
        """At least as many tokens as asked for, in whole steps."""
        return max(1, math.ceil(self.tokens / self.step_tokens))

    def rate(self, step: int) -> float:
        """Linear from above 0 to the peak, then half a cosine towards 0, which the step behind the last would have."""
        warmup = max(1, round(WARMUP_SHARE * self.steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step + 1 - warmup) / (self.steps + 1 - warmup)))

    def stops(self, stages: int) -> list[int]:
        """Steps after which a stage is evaluated, its last among them; fewer a stage where there are many stages."""
        count = min(self.steps, max(1, round(EVALUATIONS / stages)))
        return [round(self.steps * (index + 1) / count) for index in range(count)]


@dataclass(slots=True)
class Trainer:
    """Trains stages in order on one model. `state` is where to begin, and is kept up to date."""

    model: nn.Module
    held_out: tuple[Tensor, ...]
    schedule: Schedule
    folder: StateFolder
    state: TrainingState
    progress: Progress

    def train(self, stages: Iterator[Stage]) -> None:
        """Raises CompressionError if the training loss is not finite."""
        before = time.perf_counter() - self.state.elapsed_s
        for number, stage in enumerate(stages):
            self._fill(stage)
            if number >= self.state.stage:
                self._train_stage(number, stage, before)

    def held_out_loss(self) -> float:
        """Mean negative log likelihood of the held-out tokens, in nats."""
        sums, device = Sums(), next(self.model.parameters()).device
        with torch.no_grad():
            for window in self.held_out:
                add_window(sums, self.model, None, window.to(device))
        return sums.loss_nats / sums.tokens

    def _fill(self, stage: Stage) -> None:
        """Puts in what an earlier run had already learned."""
        with torch.no_grad():
            for name, parameter in stage.parameters.items():
                if name in self.state.parameters:
                    parameter.copy_(self.state.parameters[name])

    def _train_stage(self, number: int, stage: Stage, started_s: float) -> None:
        schedule, state = self.schedule, self.state
        if not state.points:
            self._add_point(number, stage, None)
        weights = list(stage.parameters.values())
        for weight in weights:
            weight.requires_grad_(True)
        optimizer = torch.optim.AdamW(weights, lr=schedule.learning_rate, betas=BETAS, weight_decay=0.0)
        if state.optimizer is not None:
            optimizer.load_state_dict(state.optimizer)
        order = window_order(stage.windows, schedule.batch_windows, schedule.seed, state.step)
        for stop in schedule.stops(stage.total):
            if stop <= state.step:
                continue
            losses = [self._step(number, stage, optimizer, next(order), step) for step in range(state.step, stop)]
            state.step = stop
            self._add_point(number, stage, math.fsum(losses) / len(losses))
            self._keep(number, stage, optimizer, time.perf_counter() - started_s)
        for weight in weights:
            weight.requires_grad_(False)

    def _step(self, number: int, stage: Stage, optimizer: torch.optim.Optimizer, batch: Tensor, step: int) -> float:
        """One update on the windows `batch`; returns their mean loss."""
        schedule = self.schedule
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for piece in batch.split(max(1, _MICRO_TOKENS // schedule.window_tokens)):
            loss = stage.loss(piece) * (len(piece) / len(batch))
            loss.backward()
            total += float(loss.detach())
        _require_finite(total, stage, step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        nn.utils.clip_grad_norm_(list(stage.parameters.values()), CLIP_NORM)
        optimizer.step()
        self.progress("train", number * schedule.steps + step + 1, stage.total * schedule.steps)
        return total

    def _add_point(self, number: int, stage: Stage, training_loss: float | None) -> None:
        schedule = self.schedule
        done = number * schedule.steps + self.state.step
        held_out_loss_nats = self.held_out_loss()
        if training_loss is not None:
            _require_finite(held_out_loss_nats, stage, self.state.step)
        self.state.points.append(
            CurvePoint(
                stage=stage.name,
                step=done,
                tokens=done * schedule.step_tokens,
                learning_rate=schedule.rate(max(0, self.state.step - 1)) if training_loss is not None else 0.0,
                training_loss=training_loss,
                held_out_loss_nats=held_out_loss_nats,
            )
        )

    def _keep(self, number: int, stage: Stage, optimizer: torch.optim.Optimizer, elapsed_s: float) -> None:
        """A finished stage is saved as the beginning of the next."""
        state, is_finished = self.state, self.state.step == self.schedule.steps
        state.parameters |= {name: weight.detach().cpu().clone() for name, weight in stage.parameters.items()}
        state.stage, state.step = (number + 1, 0) if is_finished else (number, state.step)
        state.optimizer = None if is_finished else optimizer.state_dict()
        state.elapsed_s = elapsed_s
        self.folder.save(state)


def _require_finite(loss: float, stage: Stage, step: int) -> None:
    """Asked of the held-out loss too: the last update can diverge without any training loss behind it."""
    if not math.isfinite(loss):
        raise CompressionError(
            f"Training diverged in {stage.name} at step {step}: its loss is {loss}. Lower --learning-rate."
        )
