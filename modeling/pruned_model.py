"""How does Transformers compute a decoder whose layers differ?

Attention, FFN, norms and rotary embedding are Transformers' own modules, each built from the flat configuration of its
layer; only the decoder layer is ours, because no stock one can lack a half. Tensor names are those of the base
families. SeedOss' attention and FFN serve Llama, Mistral and Qwen2 as well: they have all the bias switches, and the
same arithmetic.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import (
    LlamaForCausalLM,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention
from transformers.models.seed_oss.modeling_seed_oss import SeedOssAttention, SeedOssMLP

from modeling.pruned_config import PrunedConfig


class PrunedDecoderLayer(GradientCheckpointingLayer):
    """A decoder layer that may lack its attention or its FFN (then None, with the norm before it).

    `cache_index` counts layers with attention only: a cache asks its first entry how long the context is, so that entry
    must belong to a layer that writes it.
    """

    def __init__(self, config: PrunedConfig, index: int, cache_index: int) -> None:
        super().__init__()
        flat = config.for_layer(index)
        self.self_attn: Any = _attention(config, flat, cache_index) if flat.num_key_value_heads else None
        self.input_layernorm: Any = _norm(config) if flat.num_key_value_heads else None
        self.mlp: Any = _ffn(flat) if flat.intermediate_size else None
        self.post_attention_layernorm: Any = _norm(config) if flat.intermediate_size else None

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        """[..., tokens, hidden] to the same; `arguments` go to the attention."""
        if self.self_attn is not None:
            written, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **arguments)
            hidden_states = hidden_states + written
        if self.mlp is not None:
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states


def _attention(config: PrunedConfig, flat: PrunedConfig, cache_index: int) -> nn.Module:
    flat.attention_bias = config.qkv_bias
    flat.residual_dropout = 0.0
    attention = (Qwen3Attention if config.qk_norm else SeedOssAttention)(flat, cache_index)
    # The attention implementation is looked up in the module's configuration at every call, the mask is made for the
    # model's; with a copy the two drift apart as soon as one is set, and the causal mask is silently ignored.
    attention.config = config
    return attention


def _ffn(flat: PrunedConfig) -> nn.Module:
    flat.residual_dropout = 0.0
    return SeedOssMLP(flat)


def _norm(config: PrunedConfig) -> nn.Module:
    return LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class PrunedPreTrainedModel(LlamaPreTrainedModel):
    """Names the parts of this family that Transformers looks for."""

    config_class = PrunedConfig
    config: PrunedConfig
    _no_split_modules = ("PrunedDecoderLayer",)
    _can_record_outputs = {  # noqa: RUF012 - Transformers' own declaration
        "hidden_states": PrunedDecoderLayer,
        "attentions": [SeedOssAttention, Qwen3Attention],
    }


class PrunedModel(PrunedPreTrainedModel, LlamaModel):
    """Llama's stack, its forward pass included, over layers of differing shapes."""

    def __init__(self, config: PrunedConfig) -> None:
        # Past LlamaModel's own, which would allocate every layer at the largest shape first.
        super(LlamaModel, self).__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(_layers(config))
        self.norm = _norm(config)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


def _layers(config: PrunedConfig) -> list[PrunedDecoderLayer]:
    layers, cached = [], 0
    for index, shape in enumerate(config.layer_shapes):
        layers.append(PrunedDecoderLayer(config, index, cached))
        cached += bool(shape["kv_heads"])
    return layers


class PrunebenchForCausalLM(PrunedPreTrainedModel, LlamaForCausalLM):
    """The causal language model; its class name is what checkpoints name as their architecture."""

    def __init__(self, config: PrunedConfig) -> None:
        super(LlamaForCausalLM, self).__init__(config)
        self.model = PrunedModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
