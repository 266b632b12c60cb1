"""A request with all that follows from it and from the model's files, before anything expensive is done."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

from torch import Tensor

from artifacts.errors import ConfigError
from artifacts.files import require_free_name, sha256_of_file
from artifacts.provenance import package_versions
from artifacts.unfinished import key_of
from artifacts.variant import AllocationRef, Footprint, Unit
from compressors.allocation.opening import open_target
from compressors.allocation.problem import Allocator
from compressors.allocation.space import Target
from compressors.arch import WIDTH_UNITS, WidthUnit, unit_columns
from compressors.budget import Budget, budget_for, default_multiple
from compressors.calibration import CalibrationSet, draw_calibration
from compressors.headers import read_headers
from compressors.level_store import level_bytes
from compressors.masks import Pattern
from compressors.plan import Allocation
from compressors.policy import PolicyConfig
from compressors.registry import Method
from compressors.repair import Repair
from compressors.request import (
    BudgetKind,
    CompressionRequest,
    require_device,
    require_together,
    resolve_allocation,
    resolve_method,
    resolve_pattern,
    resolve_repair,
)
from compressors.sequential import PruningJob
from compressors.source import Source, load_tokenizer, open_source
from compressors.workload import Consumer, Workload

_RESIDENT_BYTES = 1 << 33
_FLOAT_BYTES = 4
_CONSUMER_BIASES: dict[Unit, str] = {"kv": "self_attn.o_proj.bias", "ffn": "mlp.down_proj.bias"}
# More candidates than are ever judged together.
_MANY = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A request with all that was resolved from it. `budget` counts units, `target` a cost; there is one of them.

    `pattern` is which weights become zero where a method masks them; then every unit stays.
    """

    request: CompressionRequest
    method: Method
    units: tuple[Unit, ...]
    repair: Repair
    source: Source
    allocator: Allocator
    kind: BudgetKind
    budget: Budget | None
    target: Target | None
    multiple_of: int
    pattern: Pattern | None = None

    @property
    def needs_text(self) -> bool:
        return self.method.needs_calibration or self.repair != "none" or self.allocator.needs_text

    @property
    def narrows_the_stream(self) -> bool:
        """Whether hidden channels go, which changes every tensor."""
        return self.budget is not None and self.budget.hidden_size < self.source.dimensions.hidden_size

    @property
    def allocation(self) -> AllocationRef:
        table = self.request.latency_table
        return AllocationRef(
            name=self.allocator.name,
            config=self.allocator.resolved_config,
            budget=self.kind,
            latency_table_sha256=None if table is None else sha256_of_file(table),
        )


def resolve_task(request: CompressionRequest) -> Task:
    """Raises ConfigError, CheckpointError or UnsupportedModel for everything that can be refused this early."""
    method, units = resolve_method(request)
    repair = resolve_repair(request, method, units)
    require_together(request, method, repair)
    allocator, kind = resolve_allocation(request, method, units)
    pattern = resolve_pattern(request, method)
    require_device(request.device)
    require_free_name(request.out)
    source = open_source(request.model)
    _require_biases(repair, units, source)
    _require_whole_groups(pattern, source)
    base, asked = source.dimensions, request.multiple_of
    multiple = default_multiple(base.ffn_width) if asked is None else asked
    budget, target = None, None
    if kind == "units":
        budget = budget_for(0.0 if method.masks else request.ratio, units, base, multiple)
    else:
        target = open_target(source, kind, request.ratio, units, multiple, request.latency_table)
    return Task(
        request=request,
        method=method,
        units=units,
        repair=repair,
        source=source,
        allocator=allocator,
        kind=kind,
        budget=budget,
        target=target,
        multiple_of=multiple,
        pattern=pattern,
    )


def _require_biases(repair: Repair, units: tuple[Unit, ...], source: Source) -> None:
    """A stock checkpoint has no place for a constant where the model has none."""
    if repair != "bias":
        return
    headers = read_headers(source.folder)
    bare = [unit for unit in units if not any(name.endswith(_CONSUMER_BIASES[unit]) for name in headers)]
    if bare:
        raise ConfigError(
            f"Repair bias adds to the biases behind {' and '.join(bare)}, but {source.name} has none. "
            "Use --repair ridge or none."
        )


def _require_whole_groups(pattern: Pattern | None, source: Source) -> None:
    """Raises ConfigError if the rows of a matrix do not divide into the pattern's groups."""
    if pattern is None or pattern.group is None:
        return
    for name, header in read_headers(source.folder).items():
        if name.startswith("model.layers.") and len(header.shape) == 2 and header.shape[1] % pattern.group:
            raise ConfigError(
                f"{name} of {source.name} has {header.shape[1]} columns, which do not divide into groups of "
                f"{pattern.group}. Choose another pattern, or none."
            )


def pruning_job(task: Task, allocation: Allocation = ()) -> PruningJob:
    return PruningJob(
        method=task.method,
        units=task.units,
        allocation=allocation,
        repair=task.repair,
        seed=task.request.seed,
        dtype=task.source.dtype,
        together=task.request.together,
    )


def work_key(task: Task, windows: Tensor | None) -> str:
    """A short hash of everything that decides the bytes of the result."""
    wanted = asdict(task.request) | {"model": task.source.sha256}
    for place in ("out", "calibration", "map_states", "keep_unfinished", "latency_table"):
        del wanted[place]
    text = b"" if windows is None else windows.numpy().tobytes()
    chosen = [task.method.resolved_config, task.allocation.model_dump()]
    decisive = [wanted, chosen, hashlib.sha256(text).hexdigest(), package_versions(("torch",))]
    return key_of(decisive)


def stays_resident(footprint: Footprint) -> bool:
    """Whether a search keeps the model in memory, because it visits every block many times."""
    return footprint.params_blocks * _FLOAT_BYTES <= _RESIDENT_BYTES


def workload(task: Task, windows: Tensor | None) -> Workload:
    """What the resource card needs to know."""
    job, config, layers = pruning_job(task), task.source.config, task.source.dimensions.layers
    looks = windows is not None and (job.wants_streams or task.method.masks)
    alternates = task.method.mask_ffn is not None or (task.method.refine is not None and job.refines)
    survey = task.method.survey if task.target is None or task.method.learns else task.allocator.survey
    depth_options = layers * len(task.units)
    return Workload(
        tokens=0 if windows is None else windows.numel(),
        window_tokens=task.request.window_tokens,
        layers=layers,
        hidden=config["hidden_size"],
        ffn_width=config["intermediate_size"],
        attention_width=config["num_attention_heads"] * config["head_dim"],
        vocabulary=config["vocab_size"],
        consumers=_consumers(task) if looks else (),
        streams=looks * (1 + job.wants_products),
        products=looks and (job.wants_products or (task.method.masks and task.method.needs == "gram")),
        second_order=looks and task.method.needs == "gram",
        gradients=task.method.needs == "gradients" and windows is not None,
        survey=survey,
        candidates=(task.method.candidates or depth_options) if survey == "candidates" else _MANY,
        resident_bytes=_resident_bytes(task) if survey in ("levels", "rankings", "influence", "masks") else 0,
        level_bytes=_level_bytes(task),
        masks=task.method.masks,
        drawn=(0, 0) if windows is None else _drawn(task.method, windows),
        remembered=looks * alternates * _remembered(task),
        together=min(task.request.together, layers),
    )


def _remembered(task: Task) -> int:
    """Values of each token: what gate and up give; where nothing else tells, what the FFN is to write."""
    config = task.source.config
    return 2 * int(config["intermediate_size"]) + (int(config["hidden_size"]) if task.method.masks else 0)


def _consumers(task: Task) -> tuple[Consumer, ...]:
    """Those whose inputs are summed; a spread budget may leave nearly all columns of one."""
    base, budget, columns = task.source.dimensions, task.budget, _unit_columns(task)
    had: dict[WidthUnit, int] = {"kv": base.kv_heads, "ffn": base.ffn_width}
    left = had if budget is None else {"kv": budget.kv_heads, "ffn": budget.ffn_width}
    return tuple(
        Consumer(columns=had[unit] * columns[unit], kept=left[unit] * columns[unit], unit_columns=columns[unit])
        for unit in WIDTH_UNITS
        if unit in task.units or task.narrows_the_stream
    )


def _drawn(method: Method, windows: Tensor) -> tuple[int, int]:
    """Steps of a method that learns masks, and the tokens that the masks of a step run through together."""
    if not isinstance(method.config, PolicyConfig):
        return 0, 0
    count, tokens = windows.shape
    batch = min(count, max(1, method.config.batch_tokens // tokens))
    return method.config.steps, method.config.samples * batch * tokens


def _unit_columns(task: Task) -> dict[WidthUnit, int]:
    config = task.source.config
    return unit_columns(config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"])


def _resident_bytes(task: Task) -> int:
    searches = task.target is not None or task.method.learns
    if not searches or not stays_resident(task.source.footprint):
        return 0
    ends = task.source.config["vocab_size"] * task.source.config["hidden_size"]
    return (task.source.footprint.params_blocks + ends) * _FLOAT_BYTES


def _level_bytes(task: Task) -> int:
    if task.target is None or task.allocator.levels is None or task.repair == "none":
        return 0
    counts = task.allocator.levels(task.allocator.config, task.target)
    return level_bytes(counts, _unit_columns(task), task.source.config["hidden_size"], task.source.dtype)


def task_calibration(task: Task) -> CalibrationSet | None:
    """None where nothing will look at activations, even if text was given."""
    request, source = task.request, task.source
    if request.calibration is None or not task.needs_text:
        return None
    return draw_calibration(
        request.calibration,
        load_tokenizer(source.folder),
        total_tokens=request.calibration_tokens,
        window_tokens=request.window_tokens,
        seed=request.seed,
        vocabulary=int(source.config["vocab_size"]),
    )
