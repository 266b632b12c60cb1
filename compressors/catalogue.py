"""docs/methods.md from the registries: `python -m compressors.catalogue > docs/methods.md`.

What a method removes, what it wants to see and where it comes from is in its registry entry; memory, cost and the kind
of checkpoint follow from those.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from artifacts.variant import Unit
from compressors.allocation import ALLOCATORS
from compressors.methods import REGISTRY
from compressors.recovery.methods import METHODS as RECOVERY_METHODS
from compressors.registry import Method, Need

_CHOPPED = Path(__file__).resolve().parents[1] / "benchmarks" / "layer_chop_cpu_202611.json"
_UNITS: dict[Unit, str] = {
    "ffn": "FFN channels",
    "kv": "KV groups",
    "layers": "layers",
    "attention_sublayers": "attention sublayers",
    "ffn_sublayers": "FFN sublayers",
    "hidden": "hidden channels",
    "weights": "single weights",
}

# Data, memory beside one block, and work beside one pass of the calibration text through the blocks; N tokens, hidden
# size D, FFN width F, L layers.
_WIDTH_COST: dict[Need, tuple[str, str, str]] = {
    "nothing": ("none", "nothing", "a pass over the weights"),
    "energy": ("text", "N D (2 N D with repair)", "one pass"),
    "gram": ("text", "2 N D and F² + D F, twice", "products N F², an inverse F³, removals"),
    "gradients": ("text", "L N D", "a forward and a backward pass"),
}
_DEPTH_COST = ("text", "N D a candidate", "a pass per candidate, or one in all for block influence")
_NO_COST = ("none", "nothing", "none")
_LEARNING_COST = ("text", "the model, N D, states of a step's masks", "a pass per drawn mask, thousands of them")
_MASK_COST: dict[Need, tuple[str, str, str]] = {
    "nothing": ("none", "nothing", "a pass over the weights"),
    "energy": ("text", "N D", "one pass"),
    "gram": ("text", "N D, 2 D² + F² and factors", "products N F², inverses F³, sweeps D F²"),
}
_REFINED_COST = ("text", "2 N D, 2 N F and F² + D F, thrice", "the same once an epoch, and N F solutions")
_WHOLE_FFN_COST = ("text", "N D, 2 N F, 2 D² + F² and factors", "the same once an epoch, and N F solutions")
_BASIS_COST = ("text", "N D and D²", "a pass and an eigendecomposition D³")


def page() -> str:
    """The whole file."""
    return "\n".join(
        [
            "# Methods",
            "",
            "Generated from the registries by `python -m compressors.catalogue`; do not edit by hand.",
            "",
            "`compress` needs one block of the model in memory, plus what its method names here (values of four or "
            "eight bytes). N is the calibration tokens, D the hidden size, F the FFN width, L the layers. With ridge "
            "repair every width method adds the dense stream N D and the Gram and cross products F² + D F. `--together "
            "K` prunes K blocks in a row for what they output together: it needs 2 K + 2 blocks, (3 K + 2) N D more, "
            "and at most four times the work.",
            "",
            *_table(("method", "removes", "data", "memory", "work", "checkpoint", "source"), map(_row, _methods())),
            "",
            "**Checkpoint.** Stock means that unpatched Transformers and vLLM load it; layers of one shape always "
            "leave as stock. Where layers differ or lack a half, the checkpoint is of this project's own family, which "
            "its plug-in adds to vLLM. Masked weights keep their place: no engine here computes them faster, "
            "[as measured](../benchmarks/masked_serving_cpu_202611.md).",
            "",
            "## What each is after",
            "",
            *(
                f"* **{method.name}** - {_first_sentence(method)} Settings: {_settings(method.config)}."
                for method in _methods()
            ),
            "",
            "## Allocations",
            "",
            "How a budget is spread over layers, for every width method.",
            "",
            *_table(
                ("allocation", "data", "settings", "source"),
                ((f"`{a.name}`", "text" if a.needs_text else "none", _settings(a.config), a.paper) for a in ALLOCATORS),
            ),
            "",
            "## Recovery",
            "",
            *_table(("method", "source"), ((f"`{method.name}`", method.paper) for method in RECOVERY_METHODS.values())),
            "",
            *_chopped_and_healed(),
        ]
    )


def _chopped_and_healed() -> list[str]:
    """What LayerChop is here: two commands, and what they did to the demo model, from the committed raw data."""
    if not _CHOPPED.is_file():
        return []
    raw = json.loads(_CHOPPED.read_text(encoding="utf-8"))
    header = ("layers gone", "tokens trained on", "held-out nats before", "after", "dense")
    rows = [
        (
            f"{', '.join(row['settings'])}: {', '.join(map(str, row['removed_layers']))}",
            f"{row['trained_tokens']:,}",
            *(f"{row[when]['loss_nats']:.3f}" for when in ("before", "after")),
            f"{raw['dense']['loss_nats']:.3f}",
        )
        for row in raw["rows"]
        if row["method"] == "layer_chop"
    ]
    return [
        "## Layers by place, then training",
        "",
        "LayerChop is two commands, `compress MODEL --method layer_chop --ratio 0.25 --units layers --out chopped` and "
        "`recover chopped --method full --text TEXT --tokens N --out healed`; the variant's record counts the tokens. "
        "On the demo model ([all arms](../benchmarks/layer_chop_cpu_202611.md)):",
        "",
        *_table(header, rows),
        "",
    ]


def _methods() -> tuple[Method, ...]:
    return tuple(REGISTRY.named(name) for name in REGISTRY.names)


def _row(method: Method) -> tuple[str, ...]:
    removes = ", ".join(_UNITS[unit] for unit in method.units)
    return (f"`{method.name}`", removes, *_cost(method), _checkpoint(method), method.paper)


def _cost(method: Method) -> tuple[str, str, str]:
    if method.refine is not None:
        return _REFINED_COST
    if method.rank_width is not None:
        return _WIDTH_COST[method.needs]
    if method.learns:
        return _LEARNING_COST
    if method.masks:
        return _WHOLE_FFN_COST if method.mask_ffn is not None else _MASK_COST[method.needs]
    if method.select_depth is not None:
        return _DEPTH_COST if method.needs_calibration else _NO_COST
    return _BASIS_COST


def _checkpoint(method: Method) -> str:
    if method.masks:
        return "stock, no faster"
    if method.learns:
        return "stock if uniform or layers, else per-layer"
    halves = {"attention_sublayers", "ffn_sublayers"} & set(method.units)
    if halves:
        return "stock for layers, per-layer for halves"
    return "stock, per-layer if allocated" if method.rank_width is not None else "stock"


def _first_sentence(method: Method) -> str:
    """What the method's own file says first, without its name."""
    document = sys.modules[type(method.config).__module__].__doc__ or ""
    sentence = " ".join(document.split()).partition(". ")[0].rstrip(".")
    return sentence.partition(": ")[2] + "."


def _settings(config: Any) -> str:
    values = {} if config is None else {field.name: getattr(config, field.name) for field in fields(config)}
    return ", ".join(f"{name} = {value}" for name, value in values.items()) or "none"


def _table(header: tuple[str, ...], rows: Any) -> list[str]:
    lines = [header, ("---",) * len(header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


if __name__ == "__main__":
    sys.stdout.write(page())
