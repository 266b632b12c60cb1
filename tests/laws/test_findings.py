"""Do runs become findings without loss, and is what was not measured missing instead of wrong?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifacts.arrivals import Gamma, Replay
from artifacts.errors import ConfigError
from artifacts.lengths import TraceTokens, UniformTokens
from artifacts.run import Estimate, Level, RunManifest, Workload
from artifacts.traffic import TraceSource
from laws.findings import Findings, gather_findings, quality_protocol, quality_value
from laws.report import headline_rows, render, write_report
from laws.roofline import Hardware
from laws.table import summary_rows
from tests.laws.conftest import DENSE, SMALL, make_run, manifest

Writer = Callable[[str, RunManifest], Path]
MACHINE = Hardware(name="m", memory_bytes_per_s=1000, flops_per_s=1e9, source="stated")


def changed(run: RunManifest, **values: Any) -> RunManifest:
    return run.model_copy(update=values)


def with_estimate(run: RunManifest, estimate: Estimate | None) -> RunManifest:
    """The run with this estimate for every speed-up, or with none at all."""
    ratios = {} if estimate is None else dict.fromkeys(run.comparisons[0].ratios, estimate)
    blocks = {} if estimate is None else run.comparisons[0].block_ratios
    comparison = run.comparisons[0].model_copy(update={"ratios": ratios, "block_ratios": blocks})
    return changed(run, comparisons=(comparison,))


def closed(streams: int = 1) -> RunManifest:
    return make_run(Level(concurrency=streams))


def test_a_control_is_no_model_of_its_own(run_folder: Writer) -> None:
    run = closed(4)
    control = run.comparisons[0].model_copy(update={"model": "dense"})
    again = run.arms[0].model_copy(update={"requests": 7})
    with_control = changed(run, arms=(*run.arms, again), comparisons=(*run.comparisons, control))
    findings = gather_findings([run_folder("c4", with_control)], None)
    (level,) = findings.levels
    assert (findings.models, level.arms) == (("dense", "small"), run.arms)
    assert (set(level.speedups), set(level.block_speedups)) == ({"small"}, {"small"})


def test_a_level_is_the_run_it_came_from(run_folder: Writer) -> None:
    run = closed(4)
    (level,) = gather_findings([run_folder("c4", run)], None).levels
    assert (level.folder, level.label, level.loop, level.load_value) == ("c4", "concurrency 4", "closed", 4.0)
    assert (level.gates, level.arms, level.valid) == (run.gates, run.arms, True)
    assert level.speedups == {"small": run.comparisons[0].ratios}
    assert level.block_speedups == {"small": (1.45, 1.55)}


def test_closed_loops_come_before_open_ones_and_each_rises(run_folder: Writer) -> None:
    levels = [
        Level(rate_per_s=9, arrivals="poisson"),
        Level(concurrency=16),
        Level(rate_per_s=2.5, arrivals="poisson"),
        Level(concurrency=2),
    ]
    folders = [run_folder(f"r{index}", make_run(level)) for index, level in enumerate(levels)]
    found = gather_findings(folders, None).levels
    assert [(level.loop, level.load_value) for level in found] == [
        ("closed", 2),
        ("closed", 16),
        ("open", 2.5),
        ("open", 9),
    ]


def test_one_invalid_level_makes_the_findings_invalid(run_folder: Writer) -> None:
    good, bad = closed(1), make_run(Level(concurrency=4), passed=False)
    findings = gather_findings([run_folder("good", good), run_folder("bad", bad)], None)
    assert [level.valid for level in findings.levels] == [True, False]
    assert not findings.valid


def test_findings_survive_their_file(run_folder: Writer, tmp_path: Path) -> None:
    findings = gather_findings([run_folder("c1", closed())], MACHINE)
    findings.save(tmp_path / "findings.json")
    assert Findings.load(tmp_path / "findings.json") == findings


ENTRIES = [
    ({"id": "dense"}, "another project's server says nothing about the model"),
    ({"id": "dense", "prunebench": {}}, "a hub model has no manifest"),
    ({"id": "dense", "prunebench": {"manifest": None}}, "nor one that is null"),
    ({"id": "dense", "prunebench": "yes"}, "another meaning of the word is no manifest"),
]


@pytest.mark.parametrize(("entry", "why"), ENTRIES)
def test_a_model_without_a_manifest_is_measured_all_the_same(
    run_folder: Writer, entry: dict[str, Any], why: str
) -> None:
    run = closed()
    findings = gather_findings([run_folder("c1", changed(run, served={**run.served, "dense": entry}))], MACHINE)
    assert set(findings.variants) == {"small"}, why
    assert findings.models == ("dense", "small")
    (row,) = findings.ceilings
    assert (row.model, row.predicted_speedup) == ("small", None)
    (headline,) = headline_rows(findings)
    assert headline["loss_rise_nats"] is None
    assert summary_rows(findings)[1][1:5] == ["–"] * 4


def test_a_served_manifest_that_is_damaged_is_named(run_folder: Writer) -> None:
    run = closed()
    served = {**run.served, "dense": {"prunebench": {"manifest": {"name": "dense"}}}}
    with pytest.raises(ConfigError, match="served manifest of dense"):
        gather_findings([run_folder("c1", changed(run, served=served))], None)


def test_lengths_of_unknown_mean_have_no_ceiling_and_those_of_a_law_have_its_means(run_folder: Writer) -> None:
    law = Workload(prompt_tokens=UniformTokens(low=5, high=15), output_tokens=20)
    traced = Workload(prompt_tokens=TraceTokens(), output_tokens=20)
    plain, drawn, unknown = (
        gather_findings([run_folder(name, changed(closed(), workload=work))], MACHINE).ceilings
        for name, work in (("p", closed().workload), ("d", law), ("u", traced))
    )
    assert (drawn, unknown) == (plain, ())


def test_an_arm_that_produced_nothing_has_no_ceiling_row(run_folder: Writer) -> None:
    run = closed()
    dead = run.arms[1].model_copy(update={"measures": {**run.arms[1].measures, "output_tokens_per_s": None}})
    findings = gather_findings([run_folder("c1", changed(run, arms=(run.arms[0], dead)))], MACHINE)
    assert [row.model for row in findings.ceilings] == ["dense"]


def test_the_reference_is_predicted_to_be_as_fast_as_itself(run_folder: Writer) -> None:
    findings = gather_findings([run_folder(f"c{n}", closed(n)) for n in (1, 8)], MACHINE)
    assert [row.predicted_speedup for row in findings.ceilings if row.model == "dense"] == [1.0, 1.0]
    for row in findings.ceilings:
        assert row.reached_ratio * row.ceiling_tokens_per_s == pytest.approx(row.measured_tokens_per_s)


MIXTURES = [
    (lambda run: changed(run, models=("other",)), "other models"),
    (lambda run: changed(run, against=None), "another reference"),
    (lambda run: changed(run, workload=Workload(prompt_tokens=11, output_tokens=20)), "longer prompts"),
    (lambda run: changed(run, workload=Workload(prompt_tokens=10, output_tokens=21)), "longer answers"),
    (
        lambda run: changed(run, workload=run.workload.model_copy(update={"natural_ends": True})),
        "answers of any length",
    ),
    (lambda run: changed(run, trace=TraceSource(path="t.csv", sha256="ab")), "a trace's work"),
]


@pytest.mark.parametrize(("change", "why"), MIXTURES, ids=[why for _, why in MIXTURES])
def test_runs_of_different_experiments_are_refused(
    run_folder: Writer, change: Callable[[RunManifest], RunManifest], why: str
) -> None:
    folders = [run_folder("one", closed()), run_folder("two", change(closed(4)))]
    with pytest.raises(ConfigError, match=r"two and .*one measured different models or workloads"):
        gather_findings(folders, None)


COMMANDS = [
    (closed(4), "--model small --against dense --concurrency 4 --duration 16 --blocks 8", "a comparison"),
    (changed(closed(), against=None), "--model small --concurrency 1", "one model alone has no reference"),
    (
        make_run(Level(rate_per_s=2.5, arrivals="constant")),
        "--rate 2.5 --arrivals constant",
        "an open loop says its rate and its arrivals",
    ),
    (
        changed(closed(), workload=Workload(prompt_tokens=7, output_tokens=9, seed=3)),
        "--prompt-tokens 7 --output-tokens 9 --seed 3 --out run",
        "the workload is repeated to the seed",
    ),
    (
        make_run(Level(arrivals=Gamma(rate_per_s=2.5, burstiness=0.5))),
        "--rate 2.5 --arrivals gamma --burstiness 0.5 --duration",
        "bursts are repeated with their shape",
    ),
    (
        changed(
            make_run(Level(arrivals=Replay(rate_per_s=5))),
            trace=TraceSource(path="t.csv", time_scale=0.5),
            workload=Workload(prompt_tokens=TraceTokens(), output_tokens=TraceTokens()),
            context_tokens=512,
            clipped_requests=3,
        ),
        "--trace t.csv --trace-format azure --time-scale 0.5 --length-scale 1 --context-tokens 512 --duration 16 "
        "--blocks 8 --seed 0 --out run",
        "a trace is repeated with what was done to it",
    ),
]


@pytest.mark.parametrize(("run", "part", "why"), COMMANDS, ids=[why for _, _, why in COMMANDS])
def test_the_command_repeats_the_run(run_folder: Writer, run: RunManifest, part: str, why: str) -> None:
    (command,) = gather_findings([run_folder("run", run)], None).commands
    assert command.startswith(f"prunebench loadtest --url {run.url} ")
    assert part in command, why


VERDICTS = [
    (Estimate(value=1.5, low=1.01, high=2.0, n=8), "faster", "the whole interval is above 1"),
    (Estimate(value=0.5, low=0.4, high=0.99, n=8), "slower", "the whole interval is below 1"),
    (Estimate(value=1.5, low=0.9, high=2.4, n=8), "no difference shown", "1 is inside the interval"),
    (Estimate(value=1.5, low=1.0, high=2.0, n=8), "no difference shown", "1 is its end"),
    (Estimate(value=9.0, n=1), "no difference shown", "one block shows nothing, however fast"),
]


@pytest.mark.parametrize(("estimate", "verdict", "why"), VERDICTS)
def test_a_verdict_follows_the_interval_and_not_the_value(
    run_folder: Writer, estimate: Estimate, verdict: str, why: str
) -> None:
    findings = gather_findings([run_folder("c1", with_estimate(closed(), estimate))], None)
    (row,) = headline_rows(findings)
    assert row["faster"] == verdict, why
    assert row["speedup"] == estimate.model_dump()


def test_the_headline_speaks_of_the_highest_level_and_lists_all(run_folder: Writer) -> None:
    estimates = {1: Estimate(value=1.9, n=1), 16: Estimate(value=1.2, n=1)}
    folders = [run_folder(f"c{n}", with_estimate(closed(n), e)) for n, e in estimates.items()]
    (row,) = headline_rows(gather_findings(folders, None))
    assert (row["level"], row["speedup"]["value"]) == ("concurrency 16", 1.2)
    assert [(at["level"], at["value"]) for at in row["levels"]] == [("concurrency 1", 1.9), ("concurrency 16", 1.2)]


def test_the_latest_quality_of_a_metric_counts() -> None:
    once = manifest("small", SMALL, 2.25)
    twice = once.model_copy(update={"quality": (*once.quality, once.quality[0].model_copy(update={"value": 2.5}))})
    assert quality_value(twice, "loss_nats") == 2.5
    assert quality_protocol({"dense": manifest("dense", DENSE, 2.0)}) is not None
    assert quality_protocol({"dense": once.model_copy(update={"quality": ()})}) is None


def test_names_are_escaped_on_the_page(run_folder: Writer) -> None:
    run = changed(closed(), url="http://h/<script>alert(1)</script>")
    page = render(gather_findings([run_folder("c1", run)], None))
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_damaged_hardware_file_writes_nothing(run_folder: Writer, tmp_path: Path) -> None:
    (tmp_path / "hardware.json").write_text(json.dumps({"name": "m"}))
    with pytest.raises(ConfigError, match="not a valid Hardware"):
        write_report([run_folder("c1", closed())], tmp_path / "report.html", tmp_path / "hardware.json")
    assert not list(tmp_path.glob("report.*"))
