"""The card's bytes against numbers worked out by hand, and that it is shown before anything is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import save_checkpoint

from compressors.card import ResourceCard, Workload, resource_card
from compressors.pipeline import compress
from compressors.request import CompressionRequest
from compressors.shards import stored_tensors
from compressors.verify import verify_variant

PLAIN = Workload(
    tokens=256,
    window_tokens=16,
    hidden=64,
    ffn_width=48,
    attention_width=256,
    streams=2,
    products=True,
    second_order=False,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "dense")


def test_bytes_by_hand(folder: Path) -> None:
    card = resource_card(stored_tensors(folder), PLAIN)
    queries, keys, ffn = 8 * 32 * 64, 2 * 4 * 32 * 64, 3 * 48 * 64
    assert card.block_bytes == 4 * (2 * queries + keys + ffn + 2 * 64)
    assert card.states_bytes == 2 * 256 * 64 * 4
    assert card.statistics_bytes == 8 * (256 * 256 + 64 * 256) + 4 * 256 * 256
    assert card.repair_bytes == 8 * (3 * 256 * 256 + 4 * 256 * 64)
    assert card.piece_bytes == 4 * 4096 * 256 * 4
    assert card.buffers_bytes == sum((card.states_bytes, card.statistics_bytes, card.repair_bytes, card.piece_bytes))


def test_what_is_not_needed_costs_nothing(folder: Path) -> None:
    idle = replace(PLAIN, tokens=0, streams=0, products=False)
    card = resource_card(stored_tensors(folder), idle)
    assert card.buffers_bytes == 0 and card.expected_s == 0
    assert card.lines()[0].startswith("one block: ") and len(card.lines()) == 2


def test_second_order_choice_doubles_the_repair_and_more_text_takes_longer(folder: Path) -> None:
    stored = stored_tensors(folder)
    card = resource_card(stored, PLAIN)
    assert resource_card(stored, replace(PLAIN, second_order=True)).repair_bytes == 2 * card.repair_bytes
    assert resource_card(stored, replace(PLAIN, tokens=2560000)).expected_s > 100 * card.expected_s > 0


def test_wide_layers_sum_in_float32_and_go_through_in_smaller_pieces(folder: Path) -> None:
    wide = resource_card(stored_tensors(folder), replace(PLAIN, ffn_width=8192, hidden=2048))
    assert wide.statistics_bytes == 4 * (8192 * 8192 + 8192 * 2048)
    assert wide.piece_bytes == 4 * 512 * 8192 * 4


@pytest.mark.parametrize(
    ("method", "calibrated", "streams"), [("magnitude", False, 0), ("wanda_sp", True, 2), ("block_influence", True, 0)]
)
def test_the_card_comes_first_and_knows_the_request(
    method: str, calibrated: bool, streams: int, folder: Path, text_file: Path
) -> None:
    seen: list[ResourceCard] = []
    request = CompressionRequest(
        model=str(folder),
        out=folder.parent / "variant",
        method=method,
        ratio=0.4,
        calibration=str(text_file) if calibrated else None,
        calibration_tokens=128,
        window_tokens=16,
    )

    def announce(card: ResourceCard) -> None:
        assert not list(folder.parent.glob("variant*"))
        seen.append(card)

    compress(request, verify=verify_variant, announce=announce)
    assert len(seen) == 1 and seen[0].states_bytes == streams * 128 * 64 * 4
