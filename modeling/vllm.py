"""How does vLLM compute a decoder whose layers differ?

vLLM's Llama takes the class of its layers as an argument. Ours reads its layer's number from its name, builds vLLM's
own attention and FFN at that layer's shape and leaves out what the layer lacks. All else is stock: kernels, fused
projections, the weight loader's stacked mapping, paged KV cache, tensor and pipeline parallelism. Every attention
registers a cache of its own KV heads, so a removed KV head is memory for more tokens.

Which versions of vLLM were served with it, and how what it calls changed: `benchmarks/vllm_versions_202611.md`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.models.llama import LlamaAttention, LlamaForCausalLM, LlamaMLP
from vllm.model_executor.models.qwen3 import Qwen3Attention
from vllm.model_executor.models.utils import extract_layer_index

from modeling.pruned_config import PrunedConfig
from modeling.tensor_parallel import require_divisible


class PrunedDecoderLayer(nn.Module):
    """A decoder layer that may lack its attention or its FFN (then None, with the norm before it).

    The residual stream travels as two summands, `hidden_states + residual`, so that a norm can add and normalise in one
    kernel; `residual` is None until the first norm of the model.
    """

    def __init__(self, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        flat = vllm_config.model_config.hf_config.for_layer(extract_layer_index(prefix))
        self.self_attn = _attention(flat, vllm_config, f"{prefix}.self_attn") if flat.num_key_value_heads else None
        self.input_layernorm: Any = _norm(flat) if flat.num_key_value_heads else None
        self.mlp = _ffn(flat, vllm_config, f"{prefix}.mlp") if flat.intermediate_size else None
        self.post_attention_layernorm: Any = _norm(flat) if flat.intermediate_size else None

    def forward(
        self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """`positions` [tokens], the others [tokens, hidden]."""
        if self.self_attn is not None:
            hidden_states, residual = _add_and_norm(self.input_layernorm, hidden_states, residual)
            hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
        if self.mlp is not None:
            hidden_states, residual = _add_and_norm(self.post_attention_layernorm, hidden_states, residual)
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual


class PrunebenchForCausalLM(LlamaForCausalLM):
    """The model that checkpoints of this family name as their architecture."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        shapes = vllm_config.model_config.hf_config.layer_shapes
        require_divisible(shapes, vllm_config.parallel_config.tensor_parallel_size)
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=PrunedDecoderLayer)


def _add_and_norm(norm: RMSNorm, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    if residual is None:
        return norm(hidden_states), hidden_states
    return norm(hidden_states, residual)


def _attention(flat: PrunedConfig, vllm_config: VllmConfig, prefix: str) -> nn.Module:
    same = {
        "hidden_size": flat.hidden_size,
        "num_heads": flat.num_attention_heads,
        "num_kv_heads": flat.num_key_value_heads,
        "cache_config": vllm_config.cache_config,
        "quant_config": vllm_config.quant_config,
        "prefix": prefix,
    }
    if flat.qk_norm:
        return Qwen3Attention(
            **same,
            head_dim=flat.head_dim,
            max_position=flat.max_position_embeddings,
            rope_parameters=flat.rope_parameters,
            rms_norm_eps=flat.rms_norm_eps,
        )
    return LlamaAttention(
        **same,
        config=flat,
        max_position_embeddings=flat.max_position_embeddings,
        bias=flat.qkv_bias,
        bias_o_proj=flat.attention_out_bias,
    )


def _ffn(flat: PrunedConfig, vllm_config: VllmConfig, prefix: str) -> nn.Module:
    return LlamaMLP(
        hidden_size=flat.hidden_size,
        intermediate_size=flat.intermediate_size,
        hidden_act=flat.hidden_act,
        quant_config=vllm_config.quant_config,
        bias=flat.mlp_bias,
        prefix=prefix,
    )


def _norm(flat: PrunedConfig) -> RMSNorm:
    return RMSNorm(flat.hidden_size, eps=flat.rms_norm_eps)
