"""What a person sees: one line per tenth in a log, tables, one JSON line."""

from __future__ import annotations

import json

import pytest

from prunebench.console import StageLines, print_result, show_progress, show_table


def test_log_lines_appear_once_per_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    lines = StageLines()
    for done in range(101):
        lines("prune", done, 100)
    printed = capsys.readouterr().err.splitlines()
    assert printed == [f"prune: {tenth * 10} %" for tenth in range(11)]


def test_stages_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    lines = StageLines()
    lines("a", 0, 1)
    lines("b", 0, 1)
    lines("a", 1, 1)
    assert capsys.readouterr().err.splitlines() == ["a: 0 %", "b: 0 %", "a: 100 %"]


def test_progress_outside_a_terminal_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress() as progress:
        progress("stage", 1, 2)
    captured = capsys.readouterr()
    assert captured.err == "stage: 50 %\n"
    assert captured.out == ""


def test_empty_work_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    StageLines()("nothing", 0, 0)
    assert capsys.readouterr().err == "nothing: 100 %\n"


def test_result_is_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"ratio": "1.5×", "n": None})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"ratio": "1.5×", "n": None}


def test_table_shows_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    show_table([["variant", "×"], ["ffn-50", "1.31"]])
    err = capsys.readouterr().err
    assert all(cell in err for cell in ("variant", "ffn-50", "1.31"))
