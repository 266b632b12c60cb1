"""The page beside a recovered variant: the numbers of `recovery.json`, and nothing that changes by itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from artifacts.recovery import CURVE_NAME, CurvePoint, LossCurve
from laws.recovery_curve import PAGE_NAME, curve_figure, render_curve, training_points, write_curve_page

NATS = "language-model loss, nats per token"
SQUARES = "squared error of the residual stream"


def make_curve(objective: str = NATS, stages: tuple[str, ...] = ("full",), corpus: str = "train.txt") -> LossCurve:
    """Three evaluations a stage, 100 tokens apart; held out falls by 0.1 each time."""
    points = [CurvePoint(stage=stages[0], step=0, tokens=0, learning_rate=0, training_loss=None, held_out_loss_nats=4)]
    for number in range(3 * len(stages)):
        point = CurvePoint(
            stage=stages[number // 3],
            step=number + 1,
            tokens=100 * (number + 1),
            learning_rate=0.1,
            training_loss=3.5 - 0.1 * number,
            held_out_loss_nats=3.9 - 0.1 * number,
        )
        points.append(point)
    return LossCurve(
        method="full",
        objective=objective,
        corpus=corpus,
        held_out_documents=2,
        held_out_tokens=1500,
        points=tuple(points),
    )


def test_both_losses_are_drawn_against_tokens() -> None:
    held_out, training = curve_figure(make_curve()).data
    assert list(held_out.x) == [0, 100, 200, 300] and list(held_out.y) == pytest.approx([4, 3.9, 3.8, 3.7])
    assert list(training.x) == [100, 200, 300] and list(training.y) == pytest.approx([3.5, 3.4, 3.3])
    assert list(held_out.text) == ["full"] * 4


@pytest.mark.parametrize(("objective", "axis"), [(NATS, None), (SQUARES, "y2")])
def test_another_unit_gets_another_axis(objective: str, axis: str | None) -> None:
    figure = curve_figure(make_curve(objective))
    assert figure.data[1].yaxis == axis
    assert ("yaxis2" in figure.layout.to_plotly_json()) == (axis is not None)


def test_lines_of_different_stages_do_not_touch() -> None:
    points = training_points(make_curve(SQUARES, ("layer 0 ffn", "layer 1 ffn")))
    assert [loss is None for _, loss, _ in points] == [False] * 3 + [True] + [False] * 3
    assert [stage for _, _, stage in points] == ["layer 0 ffn"] * 3 + ["layer 1 ffn"] * 4
    assert all(point[1] is not None for point in training_points(make_curve()))


def test_page_says_what_happened_and_needs_no_network(tmp_path: Path) -> None:
    make_curve().save(tmp_path / CURVE_NAME)
    write_curve_page(tmp_path)
    page = (tmp_path / PAGE_NAME).read_text()
    assert "Held-out loss 4.000 → 3.700 nats" in page
    assert "full on train.txt, 300 training tokens read. Held out: 2 documents, 1.5 k tokens." in page
    assert f"Training loss: {NATS}." in page
    assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=", page)
    drawn = re.search(r"const drawn = (\{.*\});Plotly\.newPlot", page)
    assert drawn is not None and len(json.loads(drawn[1])["data"]) == 2


def test_same_numbers_give_the_same_page() -> None:
    """The page is listed in the variant's checksums, so a resumed run must write it alike."""
    assert render_curve(make_curve()) == render_curve(make_curve())


def test_names_are_text_not_markup() -> None:
    page = render_curve(make_curve(corpus="<b>bold</b>.txt"))
    assert "<b>bold</b>.txt" not in page and "&lt;b&gt;bold&lt;/b&gt;.txt" in page


def test_without_numbers_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        write_curve_page(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_curve_needs_a_beginning_and_an_end() -> None:
    raw = make_curve().model_dump()
    with pytest.raises(ConfigError, match="points"):
        LossCurve.parse({**raw, "points": raw["points"][:1]}, "recovery.json")
