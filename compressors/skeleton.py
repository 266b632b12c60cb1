"""Everything of a model except its weights: how a block is put together and what a block is called with.

The Transformers classes are instantiated on the meta device, where parameters have shapes but no memory. A block gets
its tensors when it is its turn; the masks and rotary embeddings come from the model's own forward pass, run once with
recorders in place of the layers, because they differ between families and layer types.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from compressors.arch import LayerView

_HALVES = {"self_attn": "input_layernorm", "mlp": "post_attention_layernorm"}


class Skeleton:
    """The classes of a Transformers configuration, without weights."""

    def __init__(self, config: Any) -> None:
        with torch.device("meta"):
            self._model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
        self._config = config

    @property
    def block_count(self) -> int:
        return len(self._model.model.layers)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape by full name; a tied head is the embedding."""
        return {name: tuple(parameter.shape) for name, parameter in self._model.named_parameters()}

    def block_tensors(self, index: int) -> tuple[str, ...]:
        """Names of the parameters of a block, within the block."""
        return tuple(name for name, _ in self._model.model.layers[index].named_parameters())

    def end_tensors(self) -> tuple[str, ...]:
        """Names of the parameters outside the blocks; a tied head is the embedding."""
        return tuple(name for name in self.shapes() if not name.startswith("model.layers."))

    def block(self, index: int, tensors: Mapping[str, Tensor]) -> LayerView:
        """Block `index` with these parameters, which may be pruned; a half without tensors is absent."""
        module = copy.deepcopy(self._model.model.layers[index])
        for half, norm in _HALVES.items():
            if not any(name.startswith(f"{half}.") for name in tensors):
                setattr(module, half, None)
                setattr(module, norm, None)
        for name, tensor in tensors.items():
            _set_parameter(module, name, tensor)
        return LayerView(module)

    def final_norm(self, weight: Tensor) -> nn.Module:
        norm = copy.deepcopy(self._model.model.norm)
        _set_parameter(norm, "weight", weight)
        return norm

    def arguments(self, tokens: int, device: torch.device) -> list[dict[str, Any]]:
        """For each layer the keyword arguments of a call with windows of `tokens` tokens, masks included."""
        inner = copy.copy(self._model.model)
        inner._modules = dict(inner._modules)
        recorders = [_Recorder() for _ in range(self.block_count)]
        inner.layers = nn.ModuleList(recorders)
        inner.norm = nn.Identity()
        inner.rotary_emb = type(inner.rotary_emb)(self._config).to(device)
        with torch.no_grad():
            inner(inputs_embeds=torch.zeros(1, tokens, self._config.hidden_size, device=device), use_cache=False)
        return [recorder.arguments for recorder in recorders]


class _Recorder(nn.Module):
    """Stands where a layer would and remembers its keyword arguments."""

    arguments: dict[str, Any]

    def forward(self, states: Tensor, **arguments: Any) -> Tensor:
        self.arguments = arguments
        return states


def _set_parameter(module: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    setattr(owner, leaf, nn.Parameter(tensor, requires_grad=False))
    if isinstance(owner, nn.Linear) and leaf == "weight":
        owner.out_features, owner.in_features = tensor.shape
