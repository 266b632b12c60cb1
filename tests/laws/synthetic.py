"""Studies made of laws: what the truth is, is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from artifacts.provenance import Provenance
from artifacts.study import AccuracyOn, CellRecord, LossOn, SpeedAt
from artifacts.variant import Ratios
from laws.studies.comparison import Analysis, analyse
from laws.studies.records import CELLS_NAME, Study

PROVENANCE = Provenance(
    created_at="2026-11-22T12:00:00+00:00",
    prunebench="0.1.0",
    commit="0123456789abcdef",
    commit_dirty=False,
    python="3.11.7",
    system="Linux x86_64",
    cpu="A processor",
    cpu_cores=2,
    memory_bytes=24 << 30,
    gpus=(),
    versions={"vllm": "0.32.0"},
)
RATIOS = tuple(round(0.1 * i, 1) for i in range(1, 10))
LEVEL = "rate 8/s"


@dataclass(frozen=True, kw_only=True)
class World:
    """How the made-up models behave. Laws take the ratio and the recovery's millions of tokens."""

    models: dict[str, int]
    methods: tuple[str, ...] = ("random", "obs")
    ratios: tuple[float, ...] = RATIOS
    budgets: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0, 1, 2)
    sets: tuple[str, ...] = ("wikitext2",)
    tasks: tuple[str, ...] = ()
    base_loss: float = 2.5
    base_accuracy: float = 0.7
    noise: float = 0.01
    loss_factor: Callable[[str, float, float], float] = lambda method, r, d: (1 + r) ** 2 * (1 + 1 / (d + 1)) ** 0.5
    accuracy_factor: Callable[[str, float, float], float] = lambda method, r, d: (
        (1 + r) ** -1 * (1 + 1 / (d + 1)) ** -0.4
    )
    removed: float = 0.7
    modes: tuple[str, ...] = ()
    speed_gain: Callable[[int, float], float] = lambda params, r: 1 / (1 - 0.5 * r)


def cells_of_world(world: World, seed: int = 0) -> Iterator[CellRecord]:
    """The dense cells first; speeds with the first seed and without recovery."""
    rng = np.random.default_rng(seed)
    for model in world.models:
        yield _cell(world, rng, model, "dense", 0.0, 0, 0)
    grid = product(world.models, world.methods, world.ratios, world.budgets, world.seeds)
    for model, method, ratio, tokens, number in grid:
        yield _cell(world, rng, model, method, ratio, tokens, number)


def write_study(world: World, folder: Path, seed: int = 0) -> Path:
    for cell in cells_of_world(world, seed):
        cell.save(folder / CELLS_NAME / f"{cell.cell}.json")
    return folder


def _cell(
    world: World, rng: np.random.Generator, model: str, method: str, ratio: float, tokens: int, seed: int
) -> CellRecord:
    dense, params = method == "dense", world.models[model]
    d = tokens / 1e6

    def noisy(value: float) -> float:
        return value * float(np.exp(world.noise * rng.standard_normal()))

    loss = world.base_loss - 0.1 * np.log10(params / 1e9)
    accuracy = world.base_accuracy + 0.05 * float(np.log10(params / 1e9))
    return CellRecord(
        cell=f"{model}-{method}-{ratio:g}-{tokens}-{seed}",
        model=model,
        method=method,
        ratio=ratio,
        recovery="full" if tokens else "none",
        recovery_tokens=tokens,
        seed=seed,
        status="done",
        ratios=_ratios(world, ratio),
        losses=tuple(
            LossOn(
                set=name,
                loss_nats=loss if dense else noisy(loss * world.loss_factor(method, ratio, d)),
                base_loss_nats=loss,
                tokens=20_000,
                standard_error_nats=0.01,
            )
            for name in world.sets
        ),
        accuracies=tuple(
            AccuracyOn(
                task=name,
                accuracy=accuracy if dense else min(1, noisy(accuracy * world.accuracy_factor(method, ratio, d))),
                base_accuracy=accuracy,
                items=500,
            )
            for name in world.tasks
        ),
        speeds=() if tokens or seed else tuple(_speeds(world, rng, params, ratio)),
        params=round(params * (1 - world.removed * ratio)),
        base_params=params,
        started_at="2026-11-22T12:00:00+00:00",
        wall_s=1.0,
        provenance=PROVENANCE,
    )


def _ratios(world: World, ratio: float) -> Ratios:
    removed = world.removed * ratio
    return Ratios(
        nominal=ratio, params_total=removed, params_blocks=ratio, kv_bytes_per_token=0, flops_per_token=removed
    )


def _speeds(world: World, rng: np.random.Generator, params: int, ratio: float) -> Iterator[SpeedAt]:
    """The dense model of 1 G parameters takes 20 ms a token, others in proportion to the square root."""
    gain = world.speed_gain(params, ratio) * float(np.exp(0.003 * rng.standard_normal())) if ratio else 1.0
    tpot_s = 0.02 * (params / 1e9) ** 0.5
    rows: list[tuple[str, str, str, float, bool]] = []
    if "paper" in world.modes:
        rows.append(("paper", "forward 1x2048", "forward_s", 8 * tpot_s, True))
    if "serving" in world.modes:
        rows += [
            ("serving", LEVEL, "tpot_p50_s", tpot_s, True),
            ("serving", LEVEL, "tpot_p95_s", 1.3 * tpot_s, True),
            ("serving", LEVEL, "ttft_p95_s", 5 * tpot_s, True),
            ("serving", LEVEL, "output_tokens_per_s", 4 / tpot_s, False),
            ("serving", LEVEL, "requests_per_s", 8.0, False),
        ]
    for mode, level, quantity, base, is_time in rows:
        held = quantity == "requests_per_s"
        yield SpeedAt(
            mode="paper" if mode == "paper" else "serving",
            level=level,
            quantity=quantity,
            speedup=1.0 if held else gain,
            low=0.99 if held else gain * 0.99,
            high=1.01 if held else gain * 1.01,
            pairs=8,
            base_value=base,
            value=base if held else base / gain if is_time else base * gain,
            unit="s" if is_time else "1/s",
        )


def study_of(world: World, seed: int = 0) -> Study:
    """Without files."""
    return Study(Path("made-up.study"), tuple(cells_of_world(world, seed)), (), None)


def analysis_of(world: World, seed: int = 0, replicates: int = 100) -> Analysis:
    return analyse(study_of(world, seed), replicates=replicates)
