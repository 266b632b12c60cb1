"""Every committed page is what its script draws from the committed raw data."""

from __future__ import annotations

from pathlib import Path

import pytest
from records import Record, recorded

from benchmarks.pages import made_with
from benchmarks.stories import deal_out, write_parts


def test_all_records_are_found() -> None:
    assert {"compensation_stories260k", "methods_grid", "reference_parity", "recovery_stories260k"} <= set(recorded())
    assert len(recorded()) == len({Record(name).page for name in recorded()}) >= 8
    assert "peer_proxies" not in recorded(), "it measures nothing"


@pytest.mark.parametrize("name", recorded())
def test_the_page_is_drawn_from_the_raw_data(name: str) -> None:
    record = Record(name)
    assert record.script["render"](record.raw) == record.page


@pytest.mark.parametrize(
    ("commit", "dirty", "said"),
    [
        ("0123456789abcdef", False, "0123456789ab"),
        ("0123456789abcdef", True, "0123456789ab with changes"),
        (None, None, "unknown"),
    ],
)
def test_where_it_was_made_ends_with_the_commit(commit: str | None, dirty: bool | None, said: str) -> None:
    machine = {"cpu": "Some CPU", "cpu_cores": 2, "system": "Linux x86_64", "python": "3.11.9"}
    provenance = {**machine, "versions": {"torch": "2", "numpy": "1"}, "commit": commit, "commit_dirty": dirty}
    sentence = f"Some CPU, 2 cores, Linux x86_64, Python 3.11.9, torch 2, commit {said}"
    assert made_with(provenance, ("torch",)) == sentence


def test_no_story_is_on_both_sides_and_a_quarter_is_on_neither(tmp_path: Path) -> None:
    stories = [f"story {number}\nof two lines" for number in range(16)]
    (text,) = write_parts(tmp_path, {"all": stories})
    even, fourth = deal_out(text)
    assert even == stories[::2] and fourth == [stories[number] for number in (3, 7, 11, 15)]
