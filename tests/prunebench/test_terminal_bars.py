"""What a person at a terminal sees: a bar per stage that fills, with the time left, and nothing of it on stdout."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.progress import Progress

from prunebench import console
from prunebench.console import StageBars, StageLines, TimeLeftColumn, note, show_progress


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def bars_on(clock: Clock | None = None) -> Progress:
    return Progress(TimeLeftColumn(), console=Console(file=io.StringIO()), get_time=clock)


def test_a_stage_has_one_bar_however_often_it_reports() -> None:
    bars = bars_on()
    report = StageBars(bars)
    for done in range(5):
        report("prune", done, 4)
        report("export", done, 8)
    assert [(task.description, task.completed, task.total) for task in bars.tasks] == [
        ("prune", 4, 4),
        ("export", 4, 8),
    ]
    assert [task.finished for task in bars.tasks] == [True, False]


def test_a_total_that_becomes_known_later_is_taken() -> None:
    bars = bars_on()
    report = StageBars(bars)
    report("read", 1, 2)
    report("read", 3, 12)
    assert [(task.completed, task.total, task.percentage) for task in bars.tasks] == [(3, 12, 25)]


def test_work_that_starts_again_goes_back() -> None:
    bars = bars_on()
    report = StageBars(bars)
    report("load", 2, 4)
    report("load", 0, 4)
    assert bars.tasks[0].percentage == 0


def test_the_time_left_follows_the_speed() -> None:
    clock = Clock()
    bars = bars_on(clock)
    report = StageBars(bars)
    for done in range(5):
        clock.now_s = done * 2.0
        report("prune", done, 10)
    assert TimeLeftColumn().render(bars.tasks[0]).plain == "12 s left"


@pytest.mark.parametrize(
    ("done", "why"), [(0, "nobody can know before anything is done"), (10, "nothing is left when all is done")]
)
def test_there_is_no_time_left_where_there_is_none(done: int, why: str) -> None:
    clock = Clock()
    bars = bars_on(clock)
    report = StageBars(bars)
    report("prune", 0, 10)
    clock.now_s = 5.0
    report("prune", done, 10)
    assert TimeLeftColumn().render(bars.tasks[0]).plain == "", why


def test_a_terminal_gets_bars_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    written = io.StringIO()
    monkeypatch.setattr(
        console, "Console", lambda stderr: Console(file=written, force_terminal=True, width=100, stderr=stderr)
    )
    with show_progress() as report:
        assert isinstance(report, StageBars)
        report("dense: prune", 3, 4)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    assert "dense: prune" in plain
    assert "75%" in plain
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_its_cursor_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(console, "Console", lambda stderr: Console(file=written, force_terminal=True, stderr=stderr))
    with pytest.raises(RuntimeError, match="it broke"), show_progress() as report:
        report("prune", 1, 2)
        raise RuntimeError("it broke")
    hidden, shown = written.getvalue().rfind("\x1b[?25l"), written.getvalue().rfind("\x1b[?25h")
    assert 0 <= hidden < shown


def test_a_log_gets_lines() -> None:
    with show_progress() as report:
        assert isinstance(report, StageLines)


FALLING = [(0.5, 1), (0.2, 1), (0.2, 1), (0.9, 1)]


def test_a_log_tells_when_a_stage_begins_again(capsys: pytest.CaptureFixture[str]) -> None:
    lines = StageLines()
    for done, total in FALLING:
        lines("load", done, total)
    assert capsys.readouterr().err.splitlines() == ["load: 50 %", "load: 20 %", "load: 90 %"]


def test_notes_are_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("ffn-50: ready after 3 s")
    captured = capsys.readouterr()
    assert (captured.err, captured.out) == ("ffn-50: ready after 3 s\n", "")
