"""Whole searches over queues whose capacity is known: the answer, the files, going on after a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from queueing import Queue, QueuePlayer
from truth_server import Behaviour, TruthServer

from artifacts.capacity import CapacitySearch, SearchPolicy
from artifacts.errors import ConfigError, LoadTestError
from artifacts.run import Workload, load_run, read_requests
from artifacts.slo import parse_slo
from loadtest.saturation import SearchRequest, search_capacity

Serve = Callable[..., TruthServer]
LIMIT_S, SHARE = 0.15, 0.9
SMALL, LARGE = Queue(streams=4), Queue(streams=6)


@cache
def truth_per_s(streams: int) -> float:
    """The rate at which exactly the required share of requests is in time, to 0.2 per second."""
    queue = Queue(streams=streams)
    low, high = 1.0, queue.capacity_per_s
    while high - low > 0.2:
        middle = (low + high) / 2
        low, high = (middle, high) if queue.share_within(LIMIT_S, middle) > SHARE else (low, middle)
    return low


@pytest.fixture(scope="module")
def ask(serve: Serve) -> Callable[..., SearchRequest]:
    server = serve(models={"small": Behaviour(), "large": Behaviour()})

    def build(out: Path, **changes: Any) -> SearchRequest:
        values: dict[str, Any] = {
            "url": server.url,
            "models": ("small", "large"),
            "slo": parse_slo(f"ttft_p{100 * SHARE:g}<{LIMIT_S}s"),
            "workload": Workload(prompt_tokens=8, output_tokens=20),
            "look_s": 30.0,
            "policy": SearchPolicy(start_rate_per_s=5),
        }
        return SearchRequest(out=out, **(values | changes))

    return build


Ask = Callable[..., SearchRequest]


def player(**changes: Any) -> QueuePlayer:
    return QueuePlayer({"small": SMALL, "large": LARGE}, **changes)


@pytest.fixture(scope="module")
def found(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CapacitySearch, Path, QueuePlayer]]:
    out, play = tmp_path_factory.mktemp("search") / "out", player()
    yield search_capacity(ask(out), play=play), out, play


Found = tuple[CapacitySearch, Path, QueuePlayer]


@pytest.mark.parametrize("seed", range(2))
def test_the_bracket_holds_the_true_rate(ask: Ask, tmp_path: Path, seed: int) -> None:
    """Between what was met and what was missed; where the search turned back undecided is near it on either side."""
    workload = Workload(prompt_tokens=8, output_tokens=20, seed=seed)
    result = search_capacity(ask(tmp_path / "out", workload=workload), play=player())
    for variant, queue in zip(result.variants, (SMALL, LARGE), strict=True):
        truth = truth_per_s(queue.streams)
        assert variant.confirmed
        assert variant.rate_per_s is not None
        assert variant.above_per_s is not None
        assert variant.missed_per_s is not None
        assert 0.75 * truth < variant.rate_per_s <= truth < variant.missed_per_s
        assert 0.8 * truth < variant.above_per_s < 1.15 * truth


def test_the_ratio_of_highest_rates_has_the_brackets_ends(found: Found) -> None:
    small, large = found[0].variants
    (ratio,) = found[0].ratios
    assert (ratio.model, ratio.against) == ("large", "small")
    assert None not in (small.rate_per_s, small.missed_per_s, large.rate_per_s, large.missed_per_s)
    assert ratio.value == (large.rate_per_s or 0) / (small.rate_per_s or 1)
    assert ratio.low == (large.rate_per_s or 0) / (small.missed_per_s or 1)
    assert ratio.high == (large.missed_per_s or 0) / (small.rate_per_s or 1)
    assert ratio.low < truth_per_s(6) / truth_per_s(4) < ratio.high


def test_the_document_and_every_look_are_on_disk(found: Found) -> None:
    result, out, _ = found
    assert CapacitySearch.load(out / "search.json") == result
    looks = [look for v in result.variants for level in v.levels for look in level.looks]
    assert {path.name for path in (out / "levels").iterdir()} == {Path(look.folder).name for look in looks}
    for look in looks:
        run = load_run(out / look.folder)
        assert (run.workload.seed, run.duration_s) == (look.seed, look.duration_s)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_stands_in_a_level_can_be_recomputed_from_its_requests(found: Found) -> None:
    result, out, _ = found
    level = next(x for x in result.variants[0].levels if x.purpose == "confirm" and x.verdict == "met")
    records = [r for look in level.looks for r in read_requests(out / look.folder / "requests.parquet") if not r.warmup]
    within = sum((r.first_s or 9e9) - r.scheduled_s <= LIMIT_S for r in records)
    (attained,) = level.attainments
    assert (attained.requests, attained.within, level.requests) == (len(records), within, len(records))
    assert level.goodput_per_s == pytest.approx(within / sum(look.duration_s for look in level.looks))
    assert result.variants[0].goodput_per_s == level.goodput_per_s


def test_variants_take_turns_with_equal_seeds(found: Found) -> None:
    _, _, play = found
    models = [r.models[0] for r in play.played]
    assert models[:6] == ["small", "large", "large", "small", "small", "large"]
    seeds: dict[str, set[tuple[float, int]]] = {"small": set(), "large": set()}
    for request in play.played:
        seeds[request.models[0]].add((request.level.rate_per_s or 0, request.workload.seed))
    assert len(seeds["small"] & seeds["large"]) >= 6  # the probes, at least
    assert all(request.blocks == 1 and request.against is None for request in play.played)


def test_confirmations_have_fresh_seeds(found: Found) -> None:
    for variant in found[0].variants:
        at_rate = [x for x in variant.levels if x.rate_per_s == variant.rate_per_s]
        seeds = [{look.seed for look in level.looks} for level in at_rate]
        assert len(at_rate) == 2
        assert seeds[0] & seeds[1] == set()


@pytest.mark.parametrize("stop_after", [1, 5])
def test_a_killed_search_goes_on_and_ends_as_if_it_had_not_been(
    ask: Ask, tmp_path: Path, found: Found, stop_after: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        search_capacity(ask(out), play=player(stop_after=stop_after))
    assert not out.exists()
    again = player()
    result = search_capacity(ask(out), play=again)
    assert len(again.played) == len(found[2].played) - stop_after
    assert (result.variants, result.ratios) == (found[0].variants, found[0].ratios)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_question_does_not_take_up_the_unfinished_looks(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search_capacity(ask(tmp_path / "out"), play=player(stop_after=3))
    other, play = ask(tmp_path / "out", slo=parse_slo("ttft_p90<151ms")), player(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        search_capacity(other, play=play)
    assert len(play.played) == 1
    assert len([path for path in tmp_path.iterdir() if path.name.startswith("out.partial")]) == 2


def test_a_client_that_fails_its_gates_is_not_taken_for_the_servers_limit(ask: Ask, tmp_path: Path) -> None:
    def fail(request: Any) -> str | None:
        return "client CPU share" if request.level.rate_per_s > 12 else None

    (variant,) = search_capacity(ask(tmp_path / "out", models=("small",)), play=player(fail=fail)).variants
    assert (variant.limited_by, variant.limiting_gates) == ("client", ("client CPU share",))
    assert variant.rate_per_s is not None
    assert variant.rate_per_s <= 12 < (variant.above_per_s or 0) <= 12 * 1.1
    assert "client CPU share" in variant.verdict
    assert "server may do more" in variant.verdict


def test_a_single_unusable_look_is_played_again_with_another_seed(ask: Ask, tmp_path: Path) -> None:
    failures = iter([False, True])

    def fail(_: Any) -> str | None:
        return "send lateness p99" if next(failures, False) else None

    play = player(fail=fail)
    result = search_capacity(ask(tmp_path / "out", models=("small",)), play=play)
    (pilot, bad, good), *_ = [level.looks for level in result.variants[0].levels]
    assert [bool(x.failed_gates) for x in (pilot, bad, good)] == [False, True, False]
    assert bad.seed != good.seed
    assert result.variants[0].limited_by != "client"


def test_requests_that_fail_are_late(ask: Ask, tmp_path: Path) -> None:
    """One in six fails: 90 % within the limit is out of reach at every rate, and that is the server's fault."""
    policy = SearchPolicy(start_rate_per_s=2, lowest_rate_per_s=1)
    request = ask(tmp_path / "out", models=("small",), policy=policy)
    (variant,) = search_capacity(request, play=player(drop_every=6)).variants
    assert (variant.rate_per_s, variant.above_per_s, variant.limited_by) == (None, 1, "lowest rate")
    assert variant.levels[0].failures > variant.levels[0].requests / 8


def test_far_beyond_the_capacity_a_pilot_is_enough(ask: Ask, tmp_path: Path) -> None:
    policy = SearchPolicy(start_rate_per_s=160)
    (variant,) = search_capacity(ask(tmp_path / "out", models=("small",), policy=policy), play=player()).variants
    assert [x.rate_per_s for x in variant.levels[:2]] == [160, 80]
    assert all(len(x.looks) == 1 and x.looks[0].pilot and x.verdict == "missed" for x in variant.levels[:2])
    assert variant.levels[0].looks[0].duration_s == 30 / 4


def test_progress_never_passes_its_total_and_ends_there(ask: Ask, tmp_path: Path) -> None:
    heard: list[tuple[str, float, float]] = []
    search_capacity(ask(tmp_path / "out"), lambda *step: heard.append(step), player())
    assert {stage for stage, _, _ in heard} == {"search"}
    assert all(done <= total for _, done, total in heard)
    done = [done for _, done, _ in heard]
    assert done == sorted(done)
    assert heard[-1][1] == heard[-1][2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"models": ()}, "one or more"), ({"models": ("small", "small")}, "distinct"), ({"look_s": 0.0}, "longer than 0")],
)
def test_requests_that_are_none(ask: Ask, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        search_capacity(ask(tmp_path / "out", **changes), play=player())
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_served_and_a_name_that_is_taken(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match="'none' is not served"):
        search_capacity(ask(tmp_path / "out", models=("none",)), play=player())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(ConfigError, match="already exists"):
        search_capacity(replace(ask(tmp_path / "out"), out=tmp_path / "taken"), play=player())
