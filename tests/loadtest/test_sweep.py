"""Whole sweeps: over queues of known throughput, and one through Locust against servers of known speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from queueing import Queue, QueuePlayer
from truth_server import Behaviour, TruthServer

from artifacts.errors import ConfigError
from artifacts.run import Level, Workload, load_run
from artifacts.slo import parse_slo
from artifacts.sweep import Sweep
from loadtest.sweep import SweepRequest, run_sweep

Serve = Callable[..., TruthServer]
RATES = (5.0, 20.0, 60.0)


@pytest.fixture(scope="module")
def ask(serve: Serve) -> Callable[..., SweepRequest]:
    server = serve(models={"dense": Behaviour(0.01, 0.01), "pruned": Behaviour(0.01, 0.005)})

    def build(out: Path, **changes: Any) -> SweepRequest:
        values: dict[str, Any] = {
            "url": server.url,
            "models": ("dense", "pruned"),
            "levels": tuple(Level.parse({"rate_per_s": r, "arrivals": "poisson"}, "a level") for r in RATES),
            "workload": Workload(prompt_tokens=8, output_tokens=2),
            "duration_s": 60.0,
            "blocks": 1,
        }
        return SweepRequest(out=out, **(values | changes))

    return build


Ask = Callable[..., SweepRequest]


def player(**changes: Any) -> QueuePlayer:
    return QueuePlayer({"dense": Queue(itl_s=0.076), "pruned": Queue(itl_s=0.038)}, **changes)


@pytest.fixture(scope="module")
def swept(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path]:
    out = tmp_path_factory.mktemp("sweep") / "out"
    return run_sweep(ask(out, slo=parse_slo("ttft_p95<100ms")), play=player()), out


def test_throughput_is_the_offered_load_or_the_capacity(swept: tuple[Sweep, Path]) -> None:
    for variant, queue in zip(swept[0].variants, (Queue(itl_s=0.076), Queue(itl_s=0.038)), strict=True):
        for point, rate in zip(variant.points, RATES, strict=True):
            assert point.output_tokens_per_s == pytest.approx(2 * min(rate, queue.capacity_per_s), rel=0.2)  # Poisson
            assert point.output_tokens_per_s_per_user == pytest.approx(1 / queue.itl_s, rel=1e-3)
            assert point.block_output_tokens_per_s == pytest.approx([point.output_tokens_per_s])


def test_goodput_falls_where_the_queue_grows(swept: tuple[Sweep, Path]) -> None:
    dense, pruned = swept[0].variants
    assert dense.points[1].goodput_per_s == pytest.approx(20, rel=0.1)
    assert (dense.points[2].goodput_per_s or 0) < 10  # 60 requests/s are offered to a capacity of 41.7
    assert (pruned.points[2].goodput_per_s or 0) > 45  # to one of 69


def test_the_quicker_variant_dominates_at_every_user_speed(swept: tuple[Sweep, Path]) -> None:
    (dominance,) = swept[0].dominance
    assert (dominance.model, dominance.against) == ("pruned", "dense")
    assert {area.winner for area in dominance.areas} == {"pruned"}
    assert dominance.areas[-1].to_per_user == pytest.approx(1 / 0.038, rel=1e-3)
    assert dominance.areas[0].ratio is not None
    assert dominance.areas[0].ratio > 1.3


def test_all_is_on_disk_and_reads_back(swept: tuple[Sweep, Path]) -> None:
    result, out = swept
    assert Sweep.load(out / "sweep.json") == result
    assert [path.name for path in sorted((out / "levels").iterdir())] == ["00", "01", "02"]
    for number, level in enumerate(load_run(out / result.variants[0].points[n].folder) for n in range(3)):
        assert (level.against, level.models) == ("dense", ("pruned",))
        assert level.comparisons == result.comparisons[number]


def test_a_killed_sweep_goes_on_with_the_missing_levels(ask: Ask, tmp_path: Path, swept: tuple[Sweep, Path]) -> None:
    request = ask(tmp_path / "out", slo=parse_slo("ttft_p95<100ms"))
    with pytest.raises(KeyboardInterrupt):
        run_sweep(request, play=player(stop_after=2))
    again = player()
    assert run_sweep(request, play=again).variants == swept[0].variants
    assert [r.level.rate_per_s for r in again.played] == [60]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("gate", "valid"), [("client CPU share", False), ("error share", True)])
def test_an_unusable_level_is_on_no_front(ask: Ask, tmp_path: Path, gate: str, valid: bool) -> None:
    play = player(fail=lambda request: gate if request.level.rate_per_s == 60 else None)
    points = run_sweep(ask(tmp_path / "out"), play=play).variants[1].points
    assert [p.valid for p in points] == [True, True, valid]
    assert points[2].on_front is valid
    assert [g.name for g in points[2].failed_gates] == [gate]
    assert [p.goodput_per_s for p in points] == [None] * 3


@pytest.mark.parametrize("levels", [(), (Level(concurrency=2), Level(concurrency=2))])
def test_levels_that_are_none(ask: Ask, tmp_path: Path, levels: tuple[Level, ...]) -> None:
    with pytest.raises(ConfigError, match="each given once"):
        run_sweep(ask(tmp_path / "out", levels=levels))
    assert list(tmp_path.iterdir()) == []


def test_closed_loops_through_locust(ask: Ask, tmp_path: Path) -> None:
    levels = (Level(concurrency=1), Level(concurrency=4))
    workload = Workload(prompt_tokens=8, output_tokens=6)
    result = run_sweep(ask(tmp_path / "out", levels=levels, workload=workload, duration_s=1.0, warmup_s=0.1))
    for variant, itl_s in zip(result.variants, (0.01, 0.005), strict=True):
        for point, streams in zip(variant.points, (1, 4), strict=True):
            assert point.output_tokens_per_s_per_user == pytest.approx(1 / itl_s, rel=0.15)
            assert point.output_tokens_per_s == pytest.approx(streams * 6 / (0.01 + 5 * itl_s), rel=0.25)
