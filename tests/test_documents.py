"""What the documents say is what the raw data says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from laws.findings import Findings, quality_value
from laws.table import as_markdown, summary_rows

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RAW = ROOT / "benchmarks" / "demo_cpu_202611.json"


@pytest.fixture(scope="module")
def findings() -> Findings:
    return Findings.load(RAW)


def test_readme_table_is_the_raw_data(findings: Findings) -> None:
    between = re.search(r"<!-- demo table -->\n(.*)\n<!-- end of demo table -->", README, re.DOTALL)
    assert between is not None
    assert between[1] == as_markdown(summary_rows(findings))


def test_published_demo_is_valid_and_names_its_machine(findings: Findings) -> None:
    assert findings.valid
    assert findings.provenance.commit_dirty is False
    assert f"{findings.provenance.cpu}, {findings.provenance.cpu_cores} cores" in README


def test_what_readme_says_about_depth_and_width_holds(findings: Findings) -> None:
    """Depth is the fastest at every level with an interval above 1, and loses the most quality."""
    for level in findings.levels:
        speed = {model: ratios["speedup_output_tokens_per_s"] for model, ratios in level.speedups.items()}
        assert max(speed, key=lambda model: speed[model].value) == "depth-25"
        assert (speed["depth-25"].low or 0) > 1
        assert 1.1 <= round(speed["ffn-50"].value, 1) <= 1.2
    below_one = [(level.speedups["ffn-50"]["speedup_output_tokens_per_s"].low or 0) < 1 for level in findings.levels]
    assert below_one == [True, False, False]
    losses = {name: quality_value(manifest, "loss_nats") or 0 for name, manifest in findings.variants.items()}
    assert max(losses, key=lambda name: losses[name]) == "depth-25"
    share = (losses["ffn-50"] - losses["dense"]) / (losses["depth-25"] - losses["dense"])
    assert share == pytest.approx(1 / 5, abs=0.03)
    removed = {name: manifest.ratios.params_total for name, manifest in findings.variants.items()}
    assert removed["ffn-50"] > removed["depth-25"]


def test_every_verb_in_the_readme_exists() -> None:
    from prunebench.cli import app

    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {str(group.typer_instance.info.name) for group in app.registered_groups if group.typer_instance}
    used = set(re.findall(r"^prunebench (\w+) ", README, re.MULTILINE))
    assert used <= known
    assert {"compress", "evaluate", "serve", "loadtest", "report"} <= used


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_named_files_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([\w./-]+)\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_architecture_names_only_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(
        r"`((?:artifacts|compressors|dashboards|server|loadtest|laws|modeling|prunebench)/[\w/.]+\.\w+)`", text
    )
    assert len(named) > 40
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_fault_on_its_page_is_shown_by_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    tables, _, lists = text.partition("## Which tests show it")
    faults = re.findall(r"^\| ([A-Z]\d+) \|", tables, re.MULTILINE)
    shown = re.findall(r"^\* ([^:`]+): ((?:`[^`]+`[,\s]*)+)", lists, re.MULTILINE)
    assert len(faults) > 25
    assert set(faults) == {fault for named, _ in shown for fault in re.findall(r"[A-Z]\d+", named)}
    for file, test in re.findall(r"`([^`]+)::(\w+)`", lists):
        assert f"def {test}(" in (ROOT / "tests" / "server" / file).read_text(encoding="utf-8"), test


def test_methods_page_is_generated_from_the_registries() -> None:
    from compressors.catalogue import page

    assert page() == (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_limits_and_timeouts_in_the_readme_are_the_defaults() -> None:
    from artifacts.limits import Limits, Timeouts

    blocks = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (told,) = (tomllib.loads(block) for block in blocks if "[limits]" in block)
    limits, timeouts = Limits().model_dump(), Timeouts().model_dump()
    assert told["limits"].items() <= limits.items()
    assert told["timeouts"].items() <= timeouts.items()
    assert set(timeouts) - set(told["timeouts"]) == {"drain_s"}
