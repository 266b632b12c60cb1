"""What would a pruned checkpoint of a published shape look like? Its configuration, without weights.

How fast a model serves does not depend on what its weights are, so engines can draw them (`--load-format dummy`), and
models that are not here can be timed. The tokenizer is one that has a token for each id, for servers that want one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from artifacts.errors import UnsupportedModel
from artifacts.files import complete_directory
from artifacts.variant import Footprint, LayerShape, Unit
from compressors.allocation.depth_increasing import DepthIncreasingConfig, layer_weights
from compressors.budget import Dimensions, budget_for
from compressors.export import write_config
from compressors.relabel import checkpoint_config
from modeling.pruned_config import MODEL_TYPES, head_width

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def write_drawn_shape(
    config: Mapping[str, Any],
    out: Path,
    *,
    ratio: float = 0.0,
    units: tuple[Unit, ...] = ("ffn",),
    allocation: str = "uniform",
    multiple_of: int | None = None,
) -> Footprint:
    """Writes config.json and a tokenizer into `out`; returns what the checkpoint would weigh.

    Raises UnsupportedModel for another architecture or allocation, ConfigError for a ratio that leaves nothing.
    """
    architecture, base = _described(config)
    layers = pruned_layers(base, ratio, units, allocation, multiple_of)
    with complete_directory(out) as folder:
        pruned = checkpoint_config(base, layers, architecture, dtype_of(config))
        write_config(pruned, folder)
        _write_tokenizer(folder, int(base.vocab_size))
    return drawn_footprint(base, layers, DTYPES[dtype_of(config)].itemsize)


def dense_parameters(config: Mapping[str, Any]) -> int:
    """Raises UnsupportedModel for another architecture."""
    _, base = _described(config)
    return drawn_footprint(base, pruned_layers(base, 0.0, ("ffn",), "uniform", None), 1).params_total


def dtype_of(config: Mapping[str, Any]) -> str:
    """Raises UnsupportedModel for a type that no checkpoint has."""
    name = str(config.get("dtype", "bfloat16"))
    if name not in DTYPES:
        raise UnsupportedModel(f"dtype {name} is no type of weights. Use {', '.join(DTYPES)}.")
    return name


def _described(config: Mapping[str, Any]) -> tuple[str, Any]:
    architecture = (config.get("architectures") or ["model of unnamed architecture"])[0]
    if architecture not in MODEL_TYPES:
        raise UnsupportedModel(f"{architecture} cannot be drawn. Supported are {', '.join(MODEL_TYPES)}.")
    return architecture, AutoConfig.for_model(**{**config, "model_type": MODEL_TYPES[architecture]})


def pruned_layers(
    base: Any, ratio: float, units: tuple[Unit, ...], allocation: str, multiple_of: int | None
) -> tuple[LayerShape, ...]:
    """Uniform widths, or FFN widths that shrink towards the end; whole layers go from the middle, where most methods
    take them (ShortGPT, arXiv 2403.03853)."""
    dimensions = Dimensions(
        layers=base.num_hidden_layers,
        kv_heads=base.num_key_value_heads,
        ffn_width=base.intermediate_size,
        hidden_size=base.hidden_size,
    )
    budget = budget_for(ratio, units, dimensions, multiple_of)
    gone = budget.removed.get("layers", 0)
    first = (dimensions.layers - gone) // 2
    per_group = base.num_attention_heads // base.num_key_value_heads
    widths = _widths(allocation, ratio if "ffn" in units else 0.0, dimensions, budget.ffn_width, budget.multiple_of)
    return tuple(
        LayerShape(
            index=index,
            present=not first <= index < first + gone,
            query_heads=budget.kv_heads * per_group,
            kv_heads=budget.kv_heads,
            ffn_width=widths[index],
        )
        for index in range(dimensions.layers)
    )


def _widths(allocation: str, ratio: float, base: Dimensions, uniform: int, multiple: int) -> list[int]:
    if allocation == "uniform" or ratio == 0:
        return [uniform] * base.layers
    if allocation != "depth_increasing":
        raise UnsupportedModel(
            f"Allocation {allocation} looks at weights. Drawn shapes take uniform, depth_increasing."
        )
    weights = layer_weights(base.layers, DepthIncreasingConfig().first_to_last)
    scale = ratio * base.layers / sum(weights)
    kept = [max(0.0, 1 - scale * weight) * base.ffn_width for weight in weights]
    return [max(multiple, round(width / multiple) * multiple) for width in kept]


def drawn_footprint(base: Any, layers: tuple[LayerShape, ...], element_bytes: int) -> Footprint:
    """By `compressors.footprint`'s formulas, from matrices, embedding and head; norms and biases, some ten thousandths,
    are left out."""
    hidden, head = int(base.hidden_size), head_width(base)
    present = [layer for layer in layers if layer.present]
    blocks = sum(hidden * (2 * head * (layer.query_heads + layer.kv_heads) + 3 * layer.ffn_width) for layer in present)
    output = int(base.vocab_size) * hidden
    total = blocks + output * (1 if base.tie_word_embeddings else 2)
    return Footprint(
        params_total=total,
        params_blocks=blocks,
        weights_bytes=total * element_bytes,
        kv_bytes_per_token=sum(2 * layer.kv_heads * head for layer in present) * element_bytes,
        flops_per_token=2 * (blocks + output),
    )


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Bytes first, so that any text has tokens, also for families whose own class rebuilds the splitting of text."""
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"t{index}" for index in range(vocabulary))][:vocabulary]
    core = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token=names[-1]).save_pretrained(folder)
