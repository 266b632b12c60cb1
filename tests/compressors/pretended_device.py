"""A device that is not there: tensors sent to it compute on the CPU but are told apart, and mixing them is an error.

On a machine without a GPU this finds what would fail with one: a tensor that was made on, or left on, the wrong side.
Python's view of a device (arguments, `.device`, `.to`) is answered here; every operation below that checks where its
inputs are, as a GPU's kernels do. A single number may come from the CPU, and so may positions to look up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

DEVICE = torch.device("cuda")
CPU = torch.device("cpu")
_MOVES = (Tensor.to, Tensor.cpu)
_DEVICE_OF = Tensor.device.__get__  # type: ignore[attr-defined]
_CROSSES = ("aten.copy_", "aten._to_copy", "aten.index.", "aten.index_put", "aten.set_")


class WrongDevice(AssertionError):
    """What a GPU would have refused."""


class _Places:
    """Which storages are pretended to be on the device."""

    def __init__(self) -> None:
        self._there = WeakIdKeyDictionary()

    def put(self, value: Any) -> Any:
        for tensor in tensors(value):
            self._there[tensor.untyped_storage()] = True
        return value

    def has(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage() in self._there


def tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.device != torch.device("meta")]


class _Checker(TorchDispatchMode):
    """Below Python: outputs are where the inputs are."""

    def __init__(self, places: _Places) -> None:
        super().__init__()
        self._places = places

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        inputs = tensors((arguments, keywords or {}))
        there = [tensor for tensor in inputs if self._places.has(tensor)]
        here = [tensor for tensor in inputs if tensor.ndim and not self._places.has(tensor)]
        if there and here and not str(function).startswith(_CROSSES):
            raise WrongDevice(
                f"{function} mixes {[list(t.shape) for t in there]} there, {[list(t.shape) for t in here]}"
            )
        result = function(*arguments, **(keywords or {}))
        is_there = bool(there) and (not str(function).startswith(_CROSSES) or self._places.has(inputs[0]))
        return self._places.put(result) if is_there else result


class PretendedDevice(TorchFunctionMode):
    """`torch.device("cuda")` works while the mode is on; `sent` and `fetched` count tensors that moved."""

    def __init__(self) -> None:
        super().__init__()
        self._places = _Places()
        self._checker = _Checker(self._places)
        self.sent = self.fetched = 0

    def __enter__(self) -> PretendedDevice:
        self._checker.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        self._checker.__exit__(*failure)

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        if function == _DEVICE_OF:
            actual = function(*arguments)
            return DEVICE if actual == CPU and self._places.has(arguments[0]) else actual
        if function is Tensor.numpy and self._places.has(arguments[0]):
            raise WrongDevice("a tensor there has no array")
        if function is torch.device:
            return function(*arguments, **keywords)
        if function in _MOVES:
            return self._move(function, arguments, keywords)
        wanted = [leaf for leaf in tree_leaves((arguments, keywords)) if _is_device(leaf)]
        result = function(*_on_cpu(arguments), **_on_cpu(keywords))
        return self._places.put(result) if any(torch.device(device) == DEVICE for device in wanted) else result

    def _move(self, function: Any, arguments: Any, keywords: Any) -> Any:
        source = arguments[0]
        rest = (*arguments[1:], *keywords.values())
        devices = [torch.device(leaf) for leaf in rest if _is_device(leaf)]
        devices += [DEVICE if self._places.has(leaf) else CPU for leaf in rest if isinstance(leaf, Tensor)]
        devices += [CPU] if function is Tensor.cpu else []
        from_there = self._places.has(source)
        to_there = devices[0] == DEVICE if devices else from_there
        moved = function(*_on_cpu(arguments), **_on_cpu(keywords))
        if from_there == to_there or source.is_meta:
            return moved
        self.sent += to_there
        self.fetched += from_there
        with torch.utils._python_dispatch._disable_current_modes():
            moved = moved.detach().clone() if not moved.requires_grad else moved.clone()
        return self._places.put(moved) if to_there else moved


def _is_device(leaf: Any) -> bool:
    return isinstance(leaf, torch.device) or leaf in ("cuda", "cpu")


def _on_cpu(value: Any) -> Any:
    return tree_map(lambda leaf: CPU if _is_device(leaf) and torch.device(leaf) == DEVICE else leaf, value)
