"""From runs to the page: the numbers on it are the numbers in the runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from artifacts.errors import ConfigError
from artifacts.run import Estimate, Level, RunManifest
from artifacts.variant import UNACCELERATED, QualityRecord, SparsityRef
from laws.findings import gather_findings, quality_protocol, quality_value
from laws.report import format_estimate, headline_rows, write_report
from laws.roofline import Hardware
from laws.table import as_markdown, summary_rows
from tests.laws.conftest import DENSE, SMALL, make_run, manifest

Writer = Callable[[str, RunManifest], Path]
MACHINE = Hardware(name="m", memory_bytes_per_s=1000, flops_per_s=1e9, source="stated")


@pytest.fixture
def folders(run_folder: Writer) -> list[Path]:
    return [run_folder(f"c{n}", make_run(Level(concurrency=n))) for n in (4, 1)]


def test_levels_are_ordered_by_load(folders: list[Path]) -> None:
    findings = gather_findings(folders, None)
    assert [level.load_value for level in findings.levels] == [1, 4]
    assert findings.valid
    assert findings.models == ("dense", "small")


def test_headline_states_ratio_and_price(folders: list[Path]) -> None:
    (row,) = headline_rows(gather_findings(folders, None))
    assert (row["model"], row["level"], row["faster"]) == ("small", "concurrency 4", "faster")
    assert row["speedup"]["value"] == 1.5
    assert row["loss_rise_nats"] == pytest.approx(0.25)
    assert row["params_removed"] == pytest.approx(0.4)


def test_ceiling_rows_relate_measured_to_possible(folders: list[Path]) -> None:
    rows = {(row.model, row.batch): row for row in gather_findings(folders, MACHINE).ceilings}
    # (400 + 1 * (10 + 20 / 2) * 4) / 1000 seconds a step
    assert rows["dense", 1].ceiling_tokens_per_s == pytest.approx(1 / 0.48)
    assert rows["dense", 1].reached_ratio == pytest.approx(100 * 0.48)
    assert rows["small", 1].predicted_speedup == pytest.approx(0.48 / 0.28)


def test_page_stands_alone_and_holds_the_numbers(folders: list[Path], tmp_path: Path) -> None:
    MACHINE.save(tmp_path / "hardware.json")
    result = write_report(folders, tmp_path / "report.html", tmp_path / "hardware.json")
    page = (tmp_path / "report.html").read_text()
    outside = [part for part in ('src="http', "src='http", 'href="http') if part in page.replace(get_plotlyjs(), "")]
    assert outside == []
    for expected in ("1.50×", "+0.250 nats", "all validity gates passed", "--concurrency 4", "viewport"):
        assert expected in page
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["levels"][1]["arms"][1]["measures"]["output_tokens_per_s"] == 150
    assert result["valid"] is True
    assert result["verdicts"][0]["model"] == "small"


def test_every_picture_is_drawn(folders: list[Path], tmp_path: Path) -> None:
    write_report(folders, tmp_path / "report.html", None)
    page = (tmp_path / "report.html").read_text()
    drawn = {"speedup", "trade", "throughput", "pareto", "ttft", "tpot", "ratios", "shapes", "blocks"}
    assert {name for name in drawn if f'id="{name}"' in page} == drawn
    assert page.count("Plotly.newPlot(") >= len(drawn)


def test_failed_gate_is_shouted_with_its_remedy(run_folder: Writer, tmp_path: Path) -> None:
    folder = run_folder("bad", make_run(Level(concurrency=1), passed=False))
    result = write_report([folder], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert result["valid"] is False
    assert "NOT VALID" in page
    assert '<td colspan="4">It broke. Mend it.</td>' in page


def test_a_masked_variant_is_said_to_gain_no_speed(run_folder: Writer, tmp_path: Path) -> None:
    run = make_run(Level(concurrency=1))
    zeros = SparsityRef(pattern="2:4", asked=0.5, zeros=30, weights=60)
    masked = manifest("small", DENSE, 2.25).model_copy(update={"sparsity": zeros})
    served = run.served | {"small": {"id": "small", "prunebench": {"manifest": masked.model_dump(mode="json")}}}
    for name, each in (("plain", run), ("masked", run.model_copy(update={"served": served}))):
        write_report([run_folder(name, each)], tmp_path / f"{name}.html")
    plain, page = ((tmp_path / f"{name}.html").read_text() for name in ("plain", "masked"))
    assert f"<p>small: {UNACCELERATED}.</p>" in page and UNACCELERATED not in plain
    assert "50.0 % of the weights of all blocks are zero, from which vLLM gains no speed" in page
    assert "<td>50.0 % (2:4)</td>" in page and "<th>masked</th>" not in plain
    assert "of all parameters removed" in plain and "of all parameters removed" not in page


def test_open_loop_has_no_ceiling(run_folder: Writer) -> None:
    folder = run_folder("open", make_run(Level(rate_per_s=3, arrivals="poisson")))
    findings = gather_findings([folder], MACHINE)
    assert findings.ceilings == ()
    assert "--rate 3 --arrivals poisson" in findings.commands[0]


def test_runs_of_other_models_do_not_mix(run_folder: Writer) -> None:
    folders = [
        run_folder("one", make_run(Level(concurrency=1))),
        run_folder("two", make_run(Level(concurrency=1), models=("other",))),
    ]
    with pytest.raises(ConfigError, match="different models or workloads"):
        gather_findings(folders, None)


def test_out_must_be_a_file(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"report\.html"):
        write_report(folders, tmp_path)


def test_missing_run_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no"):
        write_report([tmp_path / "nothing"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_quality_is_the_latest_value_or_unknown() -> None:
    assert quality_value(manifest("small", SMALL, 2.25), "loss_nats") == 2.25
    assert quality_value(manifest("small", SMALL, 2.25), "kl_nats") is None


def task_record(**changes: Any) -> QualityRecord:
    text = {"metric": "acc", "value": 0.3355, "corpus": "q", "corpus_sha256": "ef", "length_tokens": 511, "tokens": 9}
    asked = {"task": "copa", "questions": 921, "stderr": 0.0156, "through": "endpoint"}
    return QualityRecord(**{**text, **asked, **changes})


def with_records(folder: Path, *records: QualityRecord) -> Path:
    """The run, its variant `small` served with these records in front of its own."""
    run = RunManifest.load(folder / "run.json")
    served = json.loads(json.dumps(run.served))
    quality = served["small"]["prunebench"]["manifest"]["quality"]
    served["small"]["prunebench"]["manifest"]["quality"] = [*(r.model_dump() for r in records), *quality]
    run.model_copy(update={"served": served}).save(folder / "run.json")
    return folder


def test_tasks_are_a_table_of_their_own(run_folder: Writer, tmp_path: Path) -> None:
    """A task's record is never taken for a text's, even under the same metric's name."""
    plain = run_folder("plain", make_run(Level(concurrency=1)))
    write_report([plain], tmp_path / "plain.html")
    assert "standard error" not in (tmp_path / "plain.html").read_text().replace(get_plotlyjs(), "")
    records = (task_record(), task_record(metric="perplexity", value=77.0, stderr=None, through="transformers"))
    scored = with_records(run_folder("scored", make_run(Level(concurrency=1))), *records)
    write_report([scored], tmp_path / "scored.html")
    page = " ".join((tmp_path / "scored.html").read_text().split())
    row = '<td>small</td><td class="text">copa</td><td class="text">{}</td><td>{}</td> <td>{}</td><td>921</td>'
    assert row.format("acc", "0.3355", "0.0156") + '<td class="text">endpoint</td>' in page
    assert row.format("perplexity", "77.0000", "–") + '<td class="text">transformers</td>' in page
    findings = gather_findings([scored], None)
    assert quality_value(findings.variants["small"], "perplexity") is None
    assert quality_value(findings.variants["small"], "loss_nats") == 2.25
    protocol = quality_protocol({"small": findings.variants["small"]})
    assert protocol is not None and protocol.corpus == "text.txt"


def test_divergences_are_shown_side_by_side(run_folder: Writer, tmp_path: Path) -> None:
    text = {"task": None, "questions": None, "stderr": None, "through": None}
    records = (task_record(metric="kl_nats", value=0.25, **text), task_record(metric="js_nats", value=0.0625, **text))
    write_report([with_records(run_folder("run", make_run(Level(concurrency=1))), *records)], tmp_path / "r.html")
    page = " ".join((tmp_path / "r.html").read_text().split())
    assert "<th>KL to dense, nats</th><th>JS to dense, nats</th>" in page
    assert "<td>0.2500</td> <td>0.0625</td>" in page


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(value=1.314, low=1.27, high=1.35, n=8), "1.31× [1.27, 1.35]"),
        (Estimate(value=1.314, n=1), "1.31×"),
    ],
)
def test_estimates_read_well(estimate: Estimate, text: str) -> None:
    assert format_estimate(estimate) == format_estimate(estimate.model_dump()) == text


def test_summary_has_a_row_per_model_and_a_ratio_per_level(folders: list[Path]) -> None:
    header, dense, small = summary_rows(gather_findings(folders, None))
    assert header[-2:] == ["× tokens/s, concurrency 1", "× tokens/s, concurrency 4"]
    assert dense == ["dense", "100", "0.0 %", "0.0 %", "2.000", "1", "1"]
    assert small == ["small", "60", "40.0 %", "0.0 %", "2.250", "1.50× [1.40, 1.60]", "1.50× [1.40, 1.60]"]
    assert as_markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
