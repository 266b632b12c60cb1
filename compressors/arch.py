"""What can be pruned in a decoder, by role instead of by attribute name.

Every supported family is the same block: grouped-query attention and a gated FFN, each a set of producer matrices
whose output rows are the units, and one consumer matrix whose input columns are the same units. Methods, surgery and
compensation speak of producers and consumers only, so none of them knows a family.

A KV group is one KV head with all its query heads: query head i reads KV head i // (query heads / KV heads), so
removing query heads unevenly would silently rewire the attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from artifacts.errors import UnsupportedModel
from artifacts.variant import LayerShape
from modeling.pruned_config import ARCHITECTURE as PER_LAYER

WidthUnit = Literal["ffn", "kv"]
# A layer's index and which of its halves.
Half = tuple[int, WidthUnit]

# In the order in which a layer computes them.
WIDTH_UNITS: tuple[WidthUnit, ...] = ("kv", "ffn")

SUPPORTED = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "SeedOssForCausalLM",
    PER_LAYER,
)


@dataclass(frozen=True, slots=True)
class Producer:
    """A matrix that writes the units: unit u is rows `u * rows_per_unit` up to the next unit's."""

    linear: nn.Linear
    rows_per_unit: int


@dataclass(frozen=True, slots=True)
class UnitGroup:
    """All matrices coupled by one kind of unit in one layer. `consumer` reads unit u in `columns_per_unit` columns."""

    producers: tuple[Producer, ...]
    consumer: nn.Linear
    columns_per_unit: int

    @property
    def count(self) -> int:
        return self.consumer.weight.shape[1] // self.columns_per_unit

    def per_unit(self, per_column: Tensor) -> Tensor:
        """Sums a value per consumer column [columns] to one per unit [count]."""
        return per_column.view(self.count, self.columns_per_unit).sum(dim=1)


@dataclass(frozen=True, slots=True)
class LayerView:
    """One decoder layer of a Transformers model, read through its roles. Either half may be absent."""

    module: nn.Module

    @property
    def attention(self) -> Any:
        return self.module.self_attn

    @property
    def ffn(self) -> Any:
        return self.module.mlp

    @property
    def head_dim(self) -> int:
        return int(self.attention.head_dim)

    @property
    def query_heads(self) -> int:
        return int(self.attention.q_proj.weight.shape[0]) // self.head_dim if self.has("kv") else 0

    @property
    def kv_heads(self) -> int:
        return int(self.attention.k_proj.weight.shape[0]) // self.head_dim if self.has("kv") else 0

    @property
    def ffn_width(self) -> int:
        return int(self.ffn.down_proj.weight.shape[1]) if self.has("ffn") else 0

    def has(self, unit: WidthUnit) -> bool:
        """Whether the half that holds these units is there at all."""
        return (self.attention if unit == "kv" else self.ffn) is not None

    def count(self, unit: WidthUnit) -> int:
        return self.kv_heads if unit == "kv" else self.ffn_width

    def norm(self, unit: WidthUnit) -> Any:
        """The RMSNorm in front of a half that is there."""
        return self.module.input_layernorm if unit == "kv" else self.module.post_attention_layernorm

    def group(self, unit: WidthUnit) -> UnitGroup:
        """The coupled matrices of FFN channels or of KV groups, of a half that is there."""
        if unit == "ffn":
            producers = tuple(Producer(linear, 1) for linear in (self.ffn.gate_proj, self.ffn.up_proj))
            return UnitGroup(producers, self.ffn.down_proj, 1)
        attention = self.attention
        queries = self.query_heads // self.kv_heads * self.head_dim
        rows = ((attention.q_proj, queries), (attention.k_proj, self.head_dim), (attention.v_proj, self.head_dim))
        return UnitGroup(tuple(Producer(*pair) for pair in rows), attention.o_proj, queries)

    def run(self, unit: WidthUnit, states: Tensor, arguments: dict[str, Any]) -> Tensor:
        """The residual stream [..., tokens, hidden] behind one half of the layer: its attention or its FFN.

        `arguments` are the keyword arguments that the whole layer is called with.
        """
        if not self.has(unit):
            return states
        if unit == "kv":
            written, _ = self.attention(hidden_states=self.norm(unit)(states), **arguments)
        else:
            written = self.ffn(self.norm(unit)(states))
        return states + written

    def shape(self, index: int) -> LayerShape:
        return LayerShape(index=index, query_heads=self.query_heads, kv_heads=self.kv_heads, ffn_width=self.ffn_width)


@dataclass(frozen=True, slots=True)
class ModelView:
    """A Transformers causal language model of a supported family."""

    model: Any

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def layers(self) -> tuple[LayerView, ...]:
        return tuple(LayerView(module) for module in self.model.model.layers)

    @property
    def is_tied(self) -> bool:
        return self.model.lm_head.weight is self.model.model.embed_tokens.weight


def unit_columns(query_heads: int, kv_heads: int, head_width: int) -> dict[WidthUnit, int]:
    """Consumer columns of one unit."""
    return {"kv": query_heads // kv_heads * head_width, "ffn": 1}


def require_supported(architecture: str, config: dict[str, Any], where: str) -> None:
    """Raises UnsupportedModel for another family, a quantised checkpoint, or windows in some layers only."""
    if architecture not in SUPPORTED:
        raise UnsupportedModel(
            f"{where} is a {architecture}, which cannot be pruned. Supported are {', '.join(SUPPORTED)}."
        )
    if config.get("quantization_config"):
        raise UnsupportedModel(
            f"{where} is quantised; only float checkpoints can be pruned. Give the original weights."
        )
    if config.get("use_sliding_window") and config.get("sliding_window"):
        raise UnsupportedModel(
            f"{where} uses sliding windows in some layers only, which the re-labelled export cannot express. "
            "Set use_sliding_window to false or choose another model."
        )
