"""How do the models of a mix fare, and does sharing the machine cost them anything?

An arm that mixes models is one arm to every comparison. Here its records are told apart by the model that answered,
and a model that is also an arm of its own is compared with itself alone, block by block: the ratio is what the others
in the mix do to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from artifacts.run import Comparison, MixedModel, RequestRecord, Window
from loadtest.mix import Shares, shares_of
from loadtest.pairing import block_speeds, compare
from loadtest.summary import summarise_arms

_THROUGHPUTS = ("speedup_output_tokens_per_s",)  # of a share of the traffic: no ratio to all of it


def summarise_mixes(
    arms: tuple[str, ...], records: Sequence[RequestRecord], windows: Sequence[Window], served: dict[str, Any]
) -> tuple[MixedModel, ...]:
    """One entry per model of every arm that mixes several, in order."""
    found: list[MixedModel] = []
    for arm, name in enumerate(arms):
        shares = shares_of(name)
        if len(shares) > 1:
            found += _of_arm(arm, shares, arms, records, [w for w in windows if w.arm == arm], served, windows)
    return tuple(found)


def _of_arm(
    arm: int,
    shares: Shares,
    arms: tuple[str, ...],
    records: Sequence[RequestRecord],
    spans: Sequence[Window],
    served: dict[str, Any],
    windows: Sequence[Window],
) -> list[MixedModel]:
    models = tuple(model for model, _ in shares)
    apart = [replace(r, arm=models.index(r.model)) for r in records if r.arm == arm]
    each = [w.model_copy(update={"arm": number}) for number in range(len(models)) for w in spans]
    return [
        MixedModel(
            arm=arm,
            share=share,
            summary=summary,
            beside_alone=_beside_alone(model, arm, arms, records, windows),
        )
        for (model, share), summary in zip(shares, summarise_arms(models, apart, each, served), strict=True)
    ]


def _beside_alone(
    model: str, arm: int, arms: tuple[str, ...], records: Sequence[RequestRecord], windows: Sequence[Window]
) -> Comparison | None:
    if model not in arms:
        return None
    mixed, alone = (_speeds(model, number, records, windows) for number in (arm, arms.index(model)))
    return compare((f"{model} in {arms[arm]}", model), mixed, alone)


def _speeds(
    model: str, arm: int, records: Sequence[RequestRecord], windows: Sequence[Window]
) -> list[dict[str, float]]:
    mine = [r for r in records if (r.arm, r.model) == (arm, model)]
    spans = sorted((w for w in windows if w.arm == arm), key=lambda w: w.block)
    speeds = (block_speeds([r for r in mine if r.block == w.block], w) for w in spans)
    return [{name: value for name, value in of_block.items() if name not in _THROUGHPUTS} for of_block in speeds]
