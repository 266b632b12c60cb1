"""`prunebench dashboards check`: what it finds in a folder that somebody has spoilt."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dashboards import checking
from dashboards.checking import PROMETHEUS, check_all

ROOT = Path(__file__).parents[2]
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt install prometheus"
)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rules and their tests, to be spoilt."""
    folder = tmp_path / "prometheus"
    shutil.copytree(PROMETHEUS, folder)
    monkeypatch.setattr(checking, "PROMETHEUS", folder)
    return folder


@needs_promtool
def test_what_is_committed_is_accepted() -> None:
    outcome = check_all()
    assert outcome.faults == ()
    assert outcome.checked == ("generated files", "check rules", "test rules", "check config")
    assert outcome.skipped == ()


@needs_promtool
@pytest.mark.parametrize(
    ("file", "was", "becomes", "who", "said"),
    [
        ("alerts.yaml", "up{job=", "up{{job=", "check rules", "parse error"),
        ("alerts.yaml", "for: 15s", "for: 5m", "test rules", "alertname: TargetDown"),
        ("alerts.yaml", "> 0.95", "> 0.9", "test rules", "alertname: KvCacheFull"),
        ("alerts.yaml", "[10m])) > 2", "[10m])) > 3", "test rules", "alertname: CrashLoop"),
        ("alerts.yaml", 'code=~"5.."', 'code=~"[45].."', "test rules", "alertname: ServerErrors"),
        ("recording.yaml", "1 - sum", "sum", "test rules", "variant:ttft_slow:ratio_5m"),
        ("recording.yaml", "quantile(0.99,", "quantile(0.9,", "test rules", "p99_1m"),
    ],
)
def test_a_planted_mistake_is_named(copied: Path, file: str, was: str, becomes: str, who: str, said: str) -> None:
    text = (copied / file).read_text(encoding="utf-8")
    assert was in text
    (copied / file).write_text(text.replace(was, becomes), encoding="utf-8")
    faults = check_all().faults
    assert any(fault.startswith(f"promtool {who}") and said in fault for fault in faults)


def test_without_promtool_the_rest_is_checked_and_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    outcome = check_all()
    assert outcome.checked == ("generated files",)
    (sentence,) = outcome.skipped
    assert "apt install prometheus" in sentence
    assert outcome.faults == ()


def test_stale_file_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(checking, "stale", lambda: [Path("grafana/dashboards/fleet.json")])
    (fault,) = check_all().faults
    assert "fleet.json is not what the code says" in fault


def test_verb_prints_what_was_checked() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prunebench", "dashboards", "check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert '"ok": true' in done.stdout
