"""How long does one forward pass of a whole prompt take in Transformers, dense against variant?

The seed paper's speeds are of this kind: batch 1, some 2,048 tokens, no cache, no serving stack. Both models are in
memory and take turns, so that whatever else the machine does strikes both; which of them goes first alternates too.
Token ids are drawn: no kernel's time depends on their values.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from artifacts.errors import ConfigError
from artifacts.progress import Progress, silent
from artifacts.student import half_width
from compressors.request import Device, require_device
from compressors.source import load_model, resolve_config, resolve_folder
from modeling.registration import register_with_transformers

_STAGE = "time forward passes"


class Clock(Protocol):
    def __call__(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardRequest:
    """`drawn` makes weights up from each folder's config.json, in bfloat16; else they are read, in float32."""

    base: str
    variant: str
    batch: int = 1
    tokens: int = 2048
    pairs: int = 8
    device: Device = "cpu"
    drawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardTimes:
    """Seconds of each pass, by pairs. `speedup` is the geometric mean of base over variant; bounds are Student's."""

    base_s: tuple[float, ...]
    variant_s: tuple[float, ...]

    @property
    def speedup(self) -> float:
        return float(np.exp(self._logs.mean()))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % by Student's t over the pairs' log-ratios (Biometrika 1908)."""
        logs = self._logs
        half = half_width(logs)
        return float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))

    @property
    def medians_s(self) -> tuple[float, float]:
        return median(self.base_s), median(self.variant_s)

    @property
    def _logs(self) -> Any:
        return np.log(np.asarray(self.base_s) / np.asarray(self.variant_s))


def time_forward(request: ForwardRequest, progress: Progress = silent) -> ForwardTimes:
    """Raises ConfigError for a context that a model does not have or a device that is not there, and what loading
    raises."""
    require_device(request.device)
    folders = [resolve_folder(model) for model in (request.base, request.variant)]
    for folder in folders:
        _require_context(folder, request.tokens)
    models = [_open(folder, request) for folder in folders]
    ids = torch.randint(
        int(models[0].config.vocab_size),
        (request.batch, request.tokens),
        generator=torch.Generator().manual_seed(0),
    ).to(request.device)
    times = time_pairs(models, ids, request.pairs, progress)
    del models
    if request.device == "cuda":
        torch.cuda.empty_cache()  # what this process holds on to, an engine that is started next would lack
    return times


def time_pairs(
    models: Sequence[Any], ids: Tensor, pairs: int, progress: Progress = silent, clock: Clock = time.perf_counter
) -> ForwardTimes:
    """`models` are base and variant; one pair more than asked runs first and only warms up."""
    taken: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for pair in range(-1, pairs):
            progress(_STAGE, max(pair, 0), pairs)
            for which in (0, 1) if pair % 2 == 0 else (1, 0):
                seconds = _timed(models[which], ids, clock)
                if pair >= 0:
                    taken[which].append(seconds)
    progress(_STAGE, pairs, pairs)
    return ForwardTimes(base_s=tuple(taken[0]), variant_s=tuple(taken[1]))


def _timed(model: Any, ids: Tensor, clock: Clock) -> float:
    """A GPU runs behind its caller: what is timed begins and ends with it idle."""
    _settle(ids)
    start_s = clock()
    model(input_ids=ids, use_cache=False)
    _settle(ids)
    return clock() - start_s


def _settle(ids: Tensor) -> None:
    if ids.is_cuda:
        torch.cuda.synchronize()


def _open(folder: Path, request: ForwardRequest) -> Any:
    if not request.drawn:
        return load_model(folder).to(request.device)
    register_with_transformers()
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device(request.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


def _require_context(folder: Path, tokens: int) -> None:
    longest = int(resolve_config(folder)["max_position_embeddings"])
    if tokens > longest:
        raise ConfigError(f"{folder.name} reads {longest} tokens at most, {tokens} were asked for. Ask for fewer.")
