"""Does the command that a report prints ask for what was measured? It is given to the verb and compared."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifacts.arrivals import Gamma
from artifacts.campaign import Campaign
from artifacts.capacity import CapacitySearch
from artifacts.lengths import LogNormalTokens, UniformTokens
from artifacts.run import Level, Workload
from artifacts.slo import parse_slo
from artifacts.sweep import Sweep, SweptVariant
from laws.replay import compare_command, search_command, sweep_command
from loadtest import campaign as campaigns
from loadtest import saturation as saturations
from loadtest import sweep as sweeps
from loadtest.campaign import CampaignRequest, conclude
from loadtest.saturation import SearchRequest
from loadtest.sweep import SweepRequest
from tests.campaigns import PROVENANCE
from tests.laws.answers import campaign_request, capacity, controlled_run, point, searched


class Heard(Exception):
    """Ends the verb when it has asked; carries what it asked."""

    def __init__(self, request: Any, *_: Any) -> None:
        self.request = request
        super().__init__()


def _raise(request: Any, *_: Any) -> None:
    raise Heard(request)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, verb: Any) -> Callable[[str], Any]:
    """Gives a printed command to its verb and returns the request that reaches the load tester."""
    monkeypatch.setattr(campaigns, "run_campaign", _raise)
    monkeypatch.setattr(sweeps, "run_sweep", _raise)
    monkeypatch.setattr(saturations, "search_capacity", _raise)

    def ask(command: str) -> Any:
        program, *arguments = shlex.split(command)
        assert program == "prunebench"
        with pytest.raises(Heard) as heard:
            verb(*arguments)
        return heard.value.request

    return ask


WORKLOADS = [
    Workload(prompt_tokens=10, output_tokens=20, seed=3),
    Workload(prompt_tokens=LogNormalTokens(median=64, p95=200), output_tokens=UniformTokens(low=4, high=9)),
]
LEVELS = [
    (Level(concurrency=1), Level(concurrency=16)),
    (Level(concurrency=2), Level(rate_per_s=2.5, arrivals="constant"), Level(rate_per_s=4, arrivals="constant")),
    (Level(arrivals=Gamma(rate_per_s=0.125, burstiness=0.5)),),
]


@pytest.mark.parametrize("control", [True, False], ids=["control", "no control"])
@pytest.mark.parametrize("levels", LEVELS, ids=["closed", "both", "bursts"])
@pytest.mark.parametrize("workload", WORKLOADS, ids=["exact", "laws"])
def test_a_comparison(
    asked: Callable[[str], CampaignRequest], levels: tuple[Level, ...], workload: Workload, control: bool
) -> None:
    runs = [controlled_run(level) for level in levels]
    if not control:
        runs = [run.model_copy(update={"comparisons": run.comparisons[:1]}) for run in runs]
    made: Campaign = conclude(campaign_request(levels, Path("cmp")), runs)
    made = made.model_copy(update={"workload": workload})
    request = asked(compare_command("cmp", made, runs[0]))
    assert (request.url, request.models, request.against) == (made.url, made.models, made.against)
    assert (request.levels, request.workload, request.control) == (levels, workload, control)
    assert (request.design.blocks, request.out) == (made.design.blocks, Path("cmp"))
    assert request.window_s * request.design.blocks == pytest.approx(runs[0].duration_s)
    assert request.warmup_s == runs[0].warmup_s


@pytest.mark.parametrize(
    "levels",
    [(Level(concurrency=1), Level(concurrency=8)), (Level(rate_per_s=0.5, arrivals="poisson"),)],
    ids=["closed", "open"],
)
@pytest.mark.parametrize("slo", [None, "ttft_p95<500ms,tpot_p99<33.3ms"])
def test_a_sweep(asked: Callable[[str], SweepRequest], levels: tuple[Level, ...], slo: str | None) -> None:
    points = tuple(point(1, 1, 1, "levels/00").model_copy(update={"level": level}) for level in levels)
    sweep = Sweep(
        url="http://127.0.0.1:8000",
        slo=None if slo is None else parse_slo(slo),
        workload=WORKLOADS[0],
        duration_s=12.5,
        blocks=6,
        warmup_s=1,
        variants=tuple(SweptVariant(model=name, fingerprint=None, points=points) for name in ("dense", "small")),
        comparisons=(),
        dominance=(),
        provenance=PROVENANCE,
    )
    request = asked(sweep_command("front", sweep))
    assert (request.url, request.models, request.levels) == (sweep.url, ("dense", "small"), levels)
    assert (request.slo, request.workload, request.out) == (sweep.slo, sweep.workload, Path("front"))
    assert (request.duration_s, request.blocks) == (12.5, 6)


@pytest.mark.parametrize(("arrivals", "burstiness"), [("gamma", 0.5), ("constant", None)])
def test_a_search(asked: Callable[[str], SearchRequest], arrivals: str, burstiness: float | None) -> None:
    policy = {
        "start_rate_per_s": 4,
        "lowest_rate_per_s": 0.5,
        "highest_rate_per_s": 64,
        "precision": 1.25,
        "most_looks": 2,
    }
    search = CapacitySearch.parse(
        {
            "url": "http://127.0.0.1:8000",
            "slo": parse_slo("ttft_p90<150ms,e2e_p99<2s"),
            "workload": WORKLOADS[1],
            "policy": policy,
            "arrivals": arrivals,
            "burstiness": burstiness,
            "confidence": 0.95,
            "look_s": 7.5,
            "warmup_s": 0.5,
            "timeout_s": 10,
            "variants": [capacity(name, 8, 9, searched(8, "met")) for name in ("dense", "small")],
            "ratios": (),
            "provenance": PROVENANCE,
        },
        "a search",
    )
    request = asked(search_command("cap", search))
    assert (request.url, request.models, request.slo) == (search.url, ("dense", "small"), search.slo)
    assert (request.policy, request.workload, request.out) == (search.policy, search.workload, Path("cap"))
    assert (request.look_s, request.warmup_s) == (7.5, 0.5)
    assert (request.arrivals, request.burstiness) == (arrivals, burstiness)
