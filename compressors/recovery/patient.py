"""What a recovery method works on: the pruned model, the dense one beside it if needed, and the training windows.

Which halves (attention, FFN) a layer still has is read from the manifest's shapes, not from the modules: a layer whose
attention or FFN was removed has nothing there that could be asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from artifacts.variant import LayerShape, is_variant, load_variant
from compressors.arch import WIDTH_UNITS, LayerView, ModelView, WidthUnit
from compressors.source import load_model


@dataclass(frozen=True, slots=True)
class Half:
    """The attention or the FFN of the layer at `position` in its model; `units` is how many KV groups or channels."""

    position: int
    unit: WidthUnit
    units: int


@dataclass(frozen=True, slots=True)
class ShapedModel:
    """A loaded model, and the shapes of the layers that are really in it, in order."""

    view: ModelView
    shapes: tuple[LayerShape, ...]

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> ShapedModel:
        """Raises CheckpointError if the checkpoint is damaged."""
        view = ModelView(load_model(folder).to(device))
        if is_variant(folder):
            return cls(view, tuple(shape for shape in load_variant(folder).layers if shape.present))
        return cls(view, tuple(layer.shape(index) for index, layer in enumerate(view.layers)))

    def halves(self) -> Iterator[tuple[Half, LayerView]]:
        """In the order in which the model computes them; removed ones are left out."""
        for position, (shape, layer) in enumerate(zip(self.shapes, self.view.layers, strict=True)):
            for unit in WIDTH_UNITS:
                units = units_of(shape, unit)
                if units:
                    yield Half(position, unit, units), layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """`windows` are token ids [N, T] on the CPU; `teacher` is the dense model, None where no method needs it."""

    student: ShapedModel
    teacher: ShapedModel | None
    windows: Tensor
    device: torch.device
    seed: int

    def batch(self, indices: Tensor) -> Tensor:
        """Token ids [len(indices), T] on the device."""
        return self.windows[indices].to(self.device)


def units_of(shape: LayerShape, unit: WidthUnit) -> int:
    """KV groups or FFN channels; 0 where that half was removed."""
    return shape.kv_heads if unit == "kv" else shape.ffn_width


def device_of(view: ModelView) -> torch.device:
    device: torch.device = next(view.model.parameters()).device
    return device


def matrices_of(layer: LayerView, unit: WidthUnit) -> tuple[nn.Linear, ...]:
    """Every matrix coupled by one kind of unit: the producers, then the consumer."""
    group = layer.group(unit)
    return (*(producer.linear for producer in group.producers), group.consumer)


def named_parameters_of(model: nn.Module, modules: tuple[nn.Linear, ...]) -> dict[str, nn.Parameter]:
    """The modules' own weights and biases under their names in the whole model."""
    wanted = {id(parameter) for module in modules for parameter in module.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in wanted}
