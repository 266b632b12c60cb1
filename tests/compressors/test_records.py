"""Every committed page is what its script draws from the committed raw data."""

from __future__ import annotations

import pytest
from records import Record, recorded


def test_all_records_are_found() -> None:
    assert {"compensation_stories260k", "methods_grid", "reference_parity", "recovery_stories260k"} <= set(recorded())
    assert len(recorded()) == len({Record(name).page for name in recorded()}) >= 8
    assert "gateway_overhead" not in recorded(), "it prints what it measures"


@pytest.mark.parametrize("name", recorded())
def test_the_page_is_drawn_from_the_raw_data(name: str) -> None:
    record = Record(name)
    assert record.script["render"](record.raw) == record.page
