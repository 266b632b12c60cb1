"""A comparison over several levels: what it concludes, what it keeps after a kill, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from truth_server import Behaviour, TruthServer

from artifacts.campaign import load_campaign
from artifacts.errors import ConfigError, LoadTestError
from artifacts.run import RUN_NAME, Level, RunManifest, load_run
from loadtest import campaign as under_test
from loadtest.campaign import CampaignRequest, conclude, run_campaign
from loadtest.design import plan_design
from loadtest.levels import level_folder, measured_already
from loadtest.pairing import SPEEDUPS
from tests.campaigns import WORKLOAD, make_run

Serve = Callable[..., TruthServer]

GENERATOR = np.random.default_rng(9)
QUIET = tuple(np.exp(GENERATOR.normal(0, 0.01, 8)))
FASTER = tuple(np.exp(GENERATOR.normal(0.2, 0.01, 8)))
MOVED = tuple(np.exp(GENERATOR.normal(0.1, 0.005, 8)))
LEVELS = (Level(concurrency=1), Level(concurrency=4))


def request_for(url: str, out: Path, **changes: Any) -> CampaignRequest:
    values: dict[str, Any] = {
        "models": ("small",),
        "against": "dense",
        "levels": LEVELS,
        "workload": WORKLOAD,
        "design": plan_design(blocks=2, wanted=None, spread=None, pilot=None, family=8),
        "window_s": 0.4,
        "warmup_s": 0.1,
    }
    return CampaignRequest(url=url, out=out, **(values | changes))


def test_all_levels_and_measures_are_one_family(tmp_path: Path) -> None:
    """Eight equal questions: Holm multiplies each p by eight."""
    runs = [make_run(model=FASTER, control=QUIET, streams=n) for n in (1, 4)]
    made = conclude(request_for("http://127.0.0.1:1", tmp_path), runs)
    assert len(made.questions) == len(made.controls) == 2 * len(SPEEDUPS)
    p = runs[0].comparisons[0].ratios[SPEEDUPS[0]].p_value
    assert p is not None
    assert made.questions[0].p_adjusted == pytest.approx(8 * p)
    assert {q.verdict for q in made.questions} == {"faster"}
    assert {q.level for q in made.questions} == {"concurrency 1", "concurrency 4"}
    assert made.questions[0].control == runs[0].comparisons[1].ratios[SPEEDUPS[0]]
    assert made.valid
    assert made.control_held


def test_a_control_that_differs_from_itself_makes_it_invalid(tmp_path: Path) -> None:
    made = conclude(request_for("http://127.0.0.1:1", tmp_path), [make_run(model=FASTER, control=MOVED)])
    assert not made.control_held
    assert not made.valid


def test_what_is_inside_the_band_is_no_difference(tmp_path: Path) -> None:
    """The variant is surely 10 % from 1, but the reference comes as far by itself."""
    wide = tuple(np.exp([0.3, -0.3, 0.2, -0.2, 0.25, -0.25, 0.1, -0.1]))
    made = conclude(request_for("http://127.0.0.1:1", tmp_path), [make_run(model=MOVED, control=wide)])
    assert {q.verdict for q in made.questions} == {"no difference shown"}


def test_without_a_control_the_interval_decides(tmp_path: Path) -> None:
    made = conclude(request_for("http://127.0.0.1:1", tmp_path), [make_run(model=FASTER, control=None)])
    assert made.controls == ()
    assert {(q.verdict, q.control) for q in made.questions} == {("faster", None)}
    assert made.control_held


def test_a_failed_gate_of_any_level_makes_it_invalid(tmp_path: Path) -> None:
    runs = [make_run(model=FASTER, control=QUIET, streams=n, passed=n == 1) for n in (1, 4)]
    made = conclude(request_for("http://127.0.0.1:1", tmp_path), runs)
    assert [(level.valid, len(level.failed_gates)) for level in made.levels] == [(True, 0), (False, 1)]
    assert not made.valid


STALE: list[dict[str, Any]] = [
    {"gates": make_run(model=FASTER, control=QUIET, passed=False).gates},
    {"level": Level(concurrency=5)},
    {"workload": WORKLOAD.model_copy(update={"seed": 3})},
    {"blocks": 9},
    {"duration_s": 99.0},
    {"warmup_s": 0.2},
    {"arms": make_run(model=FASTER, control=None).arms},
]


@pytest.mark.parametrize("changes", STALE, ids=lambda changes: next(iter(changes)))
def test_only_what_would_be_measured_again_is_kept(tmp_path: Path, changes: dict[str, Any]) -> None:
    design = plan_design(blocks=8, wanted=None, spread=None, pilot=None, family=1)
    asked = request_for("http://127.0.0.1:1", tmp_path, design=design, window_s=1.0)
    test = under_test._load_test(asked, LEVELS[1], tmp_path)
    make_run(model=FASTER, control=QUIET).save(test.out / RUN_NAME)
    served = {"dense": "f", "small": "f"}
    assert measured_already(test, served) is not None
    assert measured_already(test, {"dense": "f", "small": "another"}) is None
    make_run(model=FASTER, control=QUIET, **changes).save(test.out / RUN_NAME)
    assert measured_already(test, served) is None


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (Level(concurrency=4), "concurrency-4"),
        (Level(rate_per_s=2.5, arrivals="poisson"), "2.5-requests-per-s-poisson"),
    ],
    ids=["closed", "open"],
)
def test_a_level_names_a_folder(level: Level, name: str) -> None:
    assert level_folder(level) == name


class Killed(Exception):
    """Stands for the end of the process between two levels."""


def test_a_killed_campaign_goes_on_with_its_finished_levels(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real runs through Locust; the first attempt dies when the second level begins."""
    models = {"dense": Behaviour(0.01, 0.004), "small": Behaviour(0.01, 0.002)}
    asked = request_for(serve(models=models).url, tmp_path / "c", any_url=True)
    real, played = under_test.run_load_test, []

    def dies_later(test: Any, progress: Any) -> RunManifest:
        played.append(test.level)
        if len(played) == 2:
            raise Killed
        return real(test, progress)

    monkeypatch.setattr(under_test, "run_load_test", dies_later)
    # Seconds-long runs on a busy machine may fail a gate, which is not what this is about.
    monkeypatch.setattr(RunManifest, "valid", property(lambda run: True))
    with pytest.raises(Killed):
        run_campaign(asked)
    assert not (tmp_path / "c").exists()
    with pytest.raises(ConfigError, match="dense"):
        run_campaign(replace(asked, models=("dense",)))
    made = run_campaign(replace(asked, url=serve(models=models).url))  # a server that was started anew
    assert played == [LEVELS[0], LEVELS[1], LEVELS[1]]
    assert load_campaign(tmp_path / "c") == made
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["c"]
    runs = [load_run(tmp_path / "c" / level.folder) for level in made.levels]
    assert [[arm.model for arm in run.arms] for run in runs] == [["dense", "small", "dense"]] * 2
    assert all(run.design == asked.design for run in runs)
    ratio = runs[1].comparisons[0].ratios["speedup_tpot_p50"].value
    assert ratio == pytest.approx(2, rel=0.25)


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        pytest.param({"levels": ()}, ConfigError, "different ones, not none", id="no level"),
        pytest.param({"levels": LEVELS[:1] * 2}, ConfigError, "different ones, not concurrency 1", id="twice"),
        pytest.param({"models": ("dense",)}, ConfigError, "control is added", id="the reference as a model"),
        pytest.param({"window_s": -1.0}, ConfigError, "window_s", id="no time"),
        pytest.param({"models": ("other",)}, LoadTestError, "'other' is not served", id="an unknown model"),
        pytest.param({"url": "http://127.0.0.1:1"}, LoadTestError, "cannot be reached", id="nobody there"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_leaves_no_result(
    serve: Serve, tmp_path: Path, changes: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    url = serve(models={"dense": Behaviour(), "small": Behaviour()}).url
    with pytest.raises(error, match=sentence):
        run_campaign(replace(request_for(url, tmp_path / "c"), **changes))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_campaign_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no campaign\.json"):
        load_campaign(tmp_path)
