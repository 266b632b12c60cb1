"""Fronts and the areas between them, on places whose answer can be drawn by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from loadtest.pareto import Area, Place, front_areas, on_front


@pytest.mark.parametrize(
    ("places", "flags"),
    [
        ([], ()),
        ([(1, 1)], (True,)),
        ([(10, 10), (5, 20), (2, 30)], (True, True, True)),
        ([(10, 10), (9, 9), (2, 30)], (True, False, True)),
        ([(10, 10), (10, 12)], (False, True)),
        ([(10, 10), (12, 10)], (False, True)),
        ([(10, 10), (10, 10)], (True, True)),
        ([None, (10, 10), None], (False, True, False)),
    ],
)
def test_what_is_on_the_front(places: list[Place | None], flags: tuple[bool, ...]) -> None:
    assert on_front(places) == flags


def test_a_front_beats_all_it_leaves_out() -> None:
    places: list[Place] = [(x, y) for x, y in np.random.default_rng(1).random((60, 2)).tolist()]
    flags = on_front(places)
    front = [p for p, flag in zip(places, flags, strict=True) if flag]
    rest = [p for p, flag in zip(places, flags, strict=True) if not flag]
    assert front
    assert all(any(f[0] >= r[0] and f[1] >= r[1] for f in front) for r in rest)
    ordered = sorted(front)
    assert all(a[1] > b[1] for a, b in itertools.pairwise(ordered))


def area(start: float, end: float, sign: int, ratio: float | None) -> Area:
    return Area(start=start, end=end, sign=sign, ratio=ratio)


@pytest.mark.parametrize(
    ("first", "second", "areas"),
    [
        ([], [], []),
        ([(10, 20)], [], [area(0, 10, 1, None)]),
        ([], [(10, 20)], [area(0, 10, -1, None)]),
        ([(10, 20)], [(10, 20)], [area(0, 10, 0, 1)]),
        ([(10, 30)], [(10, 20)], [area(0, 10, 1, 1.5)]),
        ([(12, 20)], [(10, 20)], [area(0, 10, 0, 1), area(10, 12, 1, None)]),
        ([(4, 40), (10, 10)], [(8, 20)], [area(0, 4, 1, 2), area(4, 8, -1, 0.5), area(8, 10, 1, None)]),
        # what is not on a front changes nothing
        ([(4, 40), (3, 5), (10, 10)], [(8, 20)], [area(0, 4, 1, 2), area(4, 8, -1, 0.5), area(8, 10, 1, None)]),
    ],
)
def test_areas(first: list[Place], second: list[Place], areas: list[Area]) -> None:
    assert list(front_areas(first, second)) == areas


def test_areas_are_mirrored_when_the_fronts_are_exchanged() -> None:
    generator = np.random.default_rng(2)
    one, two = ([(x, y) for x, y in generator.random((9, 2)).tolist()] for _ in range(2))
    there, back = front_areas(one, two), front_areas(two, one)
    assert [(a.start, a.end, a.sign) for a in there] == [(a.start, a.end, -a.sign) for a in back]
    assert all(a.end == b.start for a, b in itertools.pairwise(there))
    assert (there[0].start, there[-1].end) == (0, max(x for x, _ in (*one, *two)))
