"""The card's bytes against numbers worked out by hand, and that it is shown before anything is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import VOCABULARY, save_checkpoint

from compressors.buffers import Purposes, stage_buffers
from compressors.card import ResourceCard, _operations, resource_card
from compressors.pipeline import compress
from compressors.request import CompressionRequest
from compressors.shards import stored_tensors
from compressors.verify import verify_variant
from compressors.workload import Consumer, Workload

STATES, SUMS, WORK = (
    "hidden states of the calibration text",
    "Gram and cross products",
    "intermediate values, choice or repair",
)
ATTENTION = Consumer(columns=256, kept=128, unit_columns=64)
PLAIN = Workload(
    tokens=256,
    window_tokens=16,
    layers=3,
    hidden=64,
    ffn_width=48,
    attention_width=256,
    vocabulary=VOCABULARY,
    consumers=(ATTENTION,),
    streams=2,
    products=True,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "dense")


def pruning(workload: Workload) -> Purposes:
    return stage_buffers(workload)["prune"]


def test_bytes_by_hand(folder: Path) -> None:
    card = resource_card(stored_tensors(folder), PLAIN)
    queries, keys, ffn = 8 * 32 * 64, 2 * 4 * 32 * 64, 3 * 48 * 64
    assert card.block_bytes == 4 * (2 * queries + keys + ffn + 2 * 64)
    forward, refit = 4 * 256 * (5 * 256 + 2 * 64), 8 * (2 * 128**2 + 6 * 128 * 64)
    assert card.stages == {
        "prune": {STATES: 2 * 256 * 64 * 4, SUMS: 8 * (256 * 256 + 64 * 256), WORK: max(forward, refit)},
        "export": {"rows of the head": 4 * (VOCABULARY * 64 * 3 // 2 + 2 * 24 * VOCABULARY)},
    }
    assert card.buffers_bytes == sum(card.stages["prune"].values()) > sum(card.stages["export"].values())


def test_what_is_not_needed_costs_nothing(folder: Path) -> None:
    idle = replace(PLAIN, tokens=0, streams=0, products=False)
    card = resource_card(stored_tensors(folder), idle)
    assert set(card.stages) == {"export"} and card.expected_s == 0
    assert [line.split(":")[0] for line in card.lines()] == ["one block", "export", "expected time"]


def test_a_second_order_choice_holds_an_inverse_beside_the_sums(folder: Path) -> None:
    chosen = pruning(replace(PLAIN, second_order=True))
    assert chosen[SUMS] == pruning(PLAIN)[SUMS]
    inverse, weights, blocks, downdate = 256 * 256, 256 * 64, 256 * 64, 256 * 128
    pool, choosing, removing = 256 * (256 + 64 + 128), 3 * 256**2, (4 * 128 + 64) * 256 + 128 * 256
    standing = inverse + weights + blocks + downdate + pool
    assert chosen[WORK] == 8 * (standing + max(choosing, removing))


def test_more_text_takes_longer(folder: Path) -> None:
    stored = stored_tensors(folder)
    card = resource_card(stored, PLAIN)
    assert resource_card(stored, replace(PLAIN, tokens=2560000)).expected_s > 100 * card.expected_s > 0


def test_wide_consumers_sum_in_float32_and_go_through_in_smaller_pieces() -> None:
    wide = replace(
        PLAIN, tokens=4096, ffn_width=8192, hidden=2048, consumers=(Consumer(columns=8192, kept=6144, unit_columns=1),)
    )
    assert wide.piece == 512 and wide.forward_bytes == 4 * 512 * (3 * 8192 + 2 * 2048)
    assert pruning(wide)[SUMS] == 4 * (8192 * 8192 + 8192 * 2048)
    assert pruning(wide)[WORK] == 4 * (2 * 6144**2 + 6 * 6144 * 2048)


@pytest.mark.parametrize(
    ("changes", "stage", "purpose", "size"),
    [
        ({"survey": "influence"}, "allocate", STATES, 3 * 65536),
        ({"survey": "basis"}, "allocate", "second moment and directions", 5 * 8 * 64 * 64),
        ({"survey": "candidates", "candidates": 50}, "allocate", "hidden states of candidates", 100 * 65536),
        ({"survey": "candidates", "candidates": 1 << 20}, "allocate", "hidden states of candidates", 1 << 30),
        ({"survey": "levels", "level_bytes": 1000}, "allocate", "repaired levels", 1000),
        ({"survey": "levels", "level_bytes": 1 << 40}, "allocate", "repaired levels", 1 << 32),
        ({"survey": "levels", "resident_bytes": 12345}, "allocate", "the model", 12345),
        ({"gradients": True}, "gradients", "hidden states in front of every block", 6 * 65536),
    ],
)
def test_what_decides_before_the_cut_is_a_stage_of_its_own(
    changes: dict[str, Any], stage: str, purpose: str, size: int
) -> None:
    assert stage_buffers(replace(PLAIN, **changes))[stage][purpose] == size


def test_blocks_together_hold_streams_and_blocks_by_their_number(folder: Path) -> None:
    """Two in front; behind each block those of two attempts and a target: what --help says."""
    for together in (2, 4):
        held = replace(PLAIN, together=together)
        assert pruning(held)["streams between blocks"] == (3 * together + 2) * 256 * 64 * 4
        assert pruning(held)[STATES] == pruning(PLAIN)[STATES]
        card = resource_card(stored_tensors(folder), held)
        assert card.blocks == 2 * together + 2
        assert card.lines()[0].endswith(f"up to {2 * together + 2} at once")
        assert _operations(held, 1000) == 4 * _operations(PLAIN, 1000) > 0


def test_an_alternation_remembers_values_of_every_token() -> None:
    refined = pruning(replace(PLAIN, remembered=2 * 48 + 64))
    assert refined["values of every token"] == 256 * (2 * 48 + 64) * 4
    assert refined[SUMS] - pruning(PLAIN)[SUMS] == 8 * (2 * 64**2 + 2 * 64 * 48)
    observed = 4 * (3 * 256 * 256 + 2 * 256 * 64)
    assert refined[WORK] == observed + 8 * 2 * 256**2 + 4 * 20 * 256 * 48


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
    assert len(seen) == 1 and seen[0].stages.get("prune", {}).get(STATES, 0) == streams * 128 * 64 * 4
    assert ("allocate" in seen[0].stages) == (method == "block_influence")
