"""Do comparisons, sweeps and searches reach the page whole, beside single runs and alone?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from artifacts.errors import ConfigError
from artifacts.run import Level
from laws.findings import Findings, gather_findings
from laws.report import gate_rows, headline_rows, write_report
from laws.roofline import Hardware
from tests.laws.answers import (
    QUIET,
    Writer,
    campaign_folder,
    gate,
    search_folder,
    sweep_folder,
)
from tests.laws.conftest import make_run

MACHINE = Hardware(name="m", memory_bytes_per_s=1000, flops_per_s=1e9, source="stated")


def page_of(folders: list[Path], out: Path) -> str:
    """Without plotly's own text, white space as single blanks."""
    write_report(folders, out / "report.html")
    return " ".join((out / "report.html").read_text().replace(get_plotlyjs(), "").split())


def test_a_comparison_brings_its_levels_and_its_questions(run_folder: Writer) -> None:
    findings = gather_findings([campaign_folder(run_folder)], MACHINE)
    assert [level.label for level in findings.levels] == ["concurrency 1", "concurrency 4"]
    assert [level.folder for level in findings.levels] == ["cmp/concurrency-1", "cmp/concurrency-4"]
    assert findings.models == ("dense", "small")
    (campaign,) = findings.campaigns
    assert len(campaign.questions) == 2 * 4
    assert findings.valid
    (command,) = findings.commands
    assert command.startswith("prunebench compare --url http://127.0.0.1:8000 --model small --against dense ")
    assert {row.batch for row in findings.ceilings} == {1, 4}


def test_the_control_stands_apart_from_the_models(run_folder: Writer) -> None:
    findings = gather_findings([campaign_folder(run_folder)], None)
    for level in findings.levels:
        assert set(level.speedups) == {"small"}
        assert level.control_blocks == QUIET
        assert level.control["speedup_tpot_p50"].value == pytest.approx(1, abs=0.01)


def test_a_control_that_differs_makes_all_of_it_invalid(run_folder: Writer, tmp_path: Path) -> None:
    folder = campaign_folder(run_folder, control=tuple(1.3 * ratio for ratio in QUIET))
    assert all(level.valid for level in gather_findings([folder], None).levels)
    page = page_of([folder], tmp_path)
    assert "A/A control DIFFERS" in page
    assert "NOT VALID" in page


def test_the_headline_is_the_corrected_verdict(run_folder: Writer) -> None:
    """The interval alone leaves 1 out; the control's band does not allow a verdict."""
    folder = campaign_folder(run_folder, model=(1.02, 1.021, 1.019, 1.02, 1.0205), control=(0.9, 1.1, 0.92, 1.08, 1.0))
    findings = gather_findings([folder], None)
    (row,) = headline_rows(findings)
    assert row["speedup"]["low"] > 1
    assert row["faster"] == "no difference shown"


def test_verdicts_are_on_the_page_with_p_and_band(run_folder: Writer, tmp_path: Path) -> None:
    folder = campaign_folder(run_folder)
    page = page_of([folder], tmp_path)
    (campaign,) = gather_findings([folder], None).campaigns
    question = campaign.questions[0]
    assert question.p_adjusted is not None and question.control is not None
    assert (
        f"<td>{question.p_adjusted:.2g}</td> <td>{question.control.low:.3f} to {question.control.high:.3f}</td>" in page
    )
    assert page.count('<span class="badge good">faster</span>') == len(campaign.questions)
    assert "find an effect of 3.5 % with 95 % probability" in page


def test_a_sweep_brings_levels_areas_and_goodput(run_folder: Writer, tmp_path: Path) -> None:
    folder = sweep_folder(run_folder)
    findings = gather_findings([folder], None)
    assert [level.folder for level in findings.levels] == ["front/levels/00", "front/levels/01"]
    page = page_of([folder], tmp_path)
    assert '<tr class="group"><th colspan="3">small beside dense</th></tr>' in page
    assert '<tr><td>0 to 50</td> <td class="text name">small</td><td>1.25×</td></tr>' in page
    assert "<td>1.25×</td>" in page
    assert "<td>alone</td>" in page
    assert "<tr><td>concurrency 8</td><td>4.4/s</td><td>10/s</td></tr>" in page


def test_what_a_sweep_overloads_is_no_fault_of_the_measurement(run_folder: Writer, tmp_path: Path) -> None:
    folder = sweep_folder(run_folder, overloaded=True)
    findings = gather_findings([folder], None)
    assert findings.valid
    states = {(label, found.name): state for label, found, state in gate_rows(findings)}
    assert states == {("concurrency 2", "errors"): "passed", ("concurrency 8", "drift"): "overload"}
    assert "beyond what it can do" in page_of([folder], tmp_path)


def test_a_search_alone_is_a_report(tmp_path: Path) -> None:
    folder = search_folder(tmp_path)
    findings = gather_findings([folder], None)
    assert (findings.models, findings.reference, findings.levels) == (("dense", "small"), "dense", ())
    page = page_of([folder], tmp_path)
    assert "Highest rate within ttft_p90&lt;150ms" in page
    assert "<td>8</td> <td>8 to 9</td>" in page
    assert "small sustains 1.50× the rate of dense, the brackets allow 1.33 to 1.75" in page
    assert 'id="capacity"' in page
    assert "Speed, level by level" not in page


def test_a_searchs_unusable_looks_are_told_with_their_gates(tmp_path: Path) -> None:
    findings = gather_findings([search_folder(tmp_path, failed_gates=(gate("client CPU share"),))], None)
    assert [(label, g.name, state) for label, g, state in gate_rows(findings)] == [
        ("dense, 8 requests/s", "client CPU share", "left out")
    ]


def test_a_search_knows_its_variants_from_its_first_looks(run_folder: Writer, tmp_path: Path) -> None:
    folder = search_folder(tmp_path)
    run_folder("cap/levels/8", make_run(Level(rate_per_s=8, arrivals="poisson")))
    findings = gather_findings([folder], None)
    assert set(findings.variants) == {"dense", "small"}
    assert findings.levels == ()


def test_all_four_together(run_folder: Writer, tmp_path: Path) -> None:
    """The comparison keeps the bare labels that its verdicts use, whatever comes first."""
    folders = [
        sweep_folder(run_folder),
        run_folder("run", make_run(Level(concurrency=4))),
        campaign_folder(run_folder),
        search_folder(tmp_path, models=("dense", "other")),
    ]
    findings = gather_findings(folders, MACHINE)
    assert findings.headline_level is not None
    assert findings.headline_level.label == "concurrency 4"  # the highest that has a verdict, not the highest
    assert headline_rows(findings)[0]["level"] == "concurrency 4"
    assert [level.label for level in findings.levels] == [
        "concurrency 1",
        "concurrency 2",
        "concurrency 4",
        "concurrency 4 (run)",
        "concurrency 8",
    ]
    assert findings.models == ("dense", "small", "other")
    assert [command.split()[1] for command in findings.commands] == ["sweep", "loadtest", "compare", "search"]
    assert {row.level for row in findings.ceilings} == {level.label for level in findings.levels}
    page = page_of(folders, tmp_path)
    assert {name for name in ("front", "capacity", "speedup", "blocks") if f'id="{name}"' in page} == {
        "front",
        "capacity",
        "speedup",
        "blocks",
    }
    assert 'id="pareto"' not in page
    assert Findings.load(tmp_path / "report.json") == gather_findings(folders, None)


def test_failed_gates_come_first_and_passed_ones_are_folded(run_folder: Writer, tmp_path: Path) -> None:
    run = make_run(Level(concurrency=1))
    mixed = run.model_copy(update={"gates": (*run.gates, gate("loop lag"), gate("reads", passed=True))})
    page = page_of([run_folder("run", mixed)], tmp_path)
    failed, passed = page.index("<b>loop lag</b>"), page.index("2 gates passed")
    assert failed < passed < page.index("<b>errors</b>") < page.index("<b>reads</b>")
    assert '<td colspan="4">It drifts. Ask for less.</td>' in page
    assert '<td colspan="4">If it fails: It broke. Mend it.</td>' in page


@pytest.mark.parametrize("name", ["campaign.json", "search.json", "sweep.json"])
def test_damage_is_named_and_writes_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / name).write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(ConfigError, match=name):
        write_report([tmp_path / "it"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_comparison_whose_run_is_gone_is_refused(run_folder: Writer, tmp_path: Path) -> None:
    folder = campaign_folder(run_folder)
    (folder / "concurrency-4" / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"concurrency-4 holds no run\.json"):
        write_report([folder], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
