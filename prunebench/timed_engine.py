"""An engine whose decode steps are timed: of which model, in which shape, in a process that does not outlive this one.

Engines get drawn weights in our per-layer family, whatever the base, so that one code path runs dense and pruned
shapes.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.errors import ConfigError, ServingError
from artifacts.files import disk_error
from artifacts.latency import DecodeShape
from artifacts.variant import LayerShape
from compressors.arch import require_supported
from compressors.source import read_config, resolve_config, resolve_folder
from modeling.decode_timing import DecodeJob, DecodeTimes
from modeling.pruned_config import ARCHITECTURE, pruned_config
from prunebench.timing_process import running
from server.diagnosis import reason_of
from server.engines import this_machine

_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Subject:
    """The model as its configuration describes it."""

    name: str
    architecture: str
    config: dict[str, Any]

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    def engine_config(self, shape: DecodeShape) -> Any:
        """Our family's configuration with these widths."""
        per_group = self.config["num_attention_heads"] // self.config["num_key_value_heads"]
        widths = enumerate(zip(shape.kv_groups, shape.ffn_channels, strict=True))
        layers = [
            LayerShape(index=i, query_heads=kv * per_group, kv_heads=kv, ffn_width=ffn) for i, (kv, ffn) in widths
        ]
        return pruned_config(self.config, layers, self.architecture)


def open_subject(model: str) -> Subject:
    """Only `config.json` is read. Raises ConfigError, CheckpointError or UnsupportedModel."""
    folder = resolve_folder(model, ("config.json",))
    stated = read_config(folder)
    architecture = (stated.get("architectures") or ["model of unnamed architecture"])[0]
    if architecture == ARCHITECTURE:
        raise ConfigError(
            f"The layers of {model} differ already, and a table is for layers that are alike. "
            "Measure the dense model it was made from."
        )
    require_supported(architecture, stated, model)
    name = folder.resolve().name if Path(model).exists() else model
    return Subject(name, architecture, resolve_config(folder))


class EngineTimer:
    """Times shapes one after the other, in processes that do not outlive this one."""

    def __init__(self, subject: Subject, job: DecodeJob, folder: Path) -> None:
        """Raises ConfigError if there is no engine."""
        if this_machine().vllm_version is None:
            raise ConfigError("vLLM is not installed here, and it is what is timed. Install prunebench[cpu] or [gpu].")
        self._subject = subject
        self._job = job
        self._folder = folder / "engines"

    def __call__(self, shapes: Sequence[DecodeShape]) -> Iterator[tuple[float, ...]]:
        """Each shape's decode steps in seconds, as soon as they are known.

        Raises ServingError with the engine's own reason if it ends without a result, ConfigError for a full disk.
        """
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
            jobs = [self._written(self._folder / str(index), shape) for index, shape in enumerate(shapes)]
        except OSError as error:
            raise disk_error(self._folder, error) from error
        log = self._folder / "log.txt"
        with running([str(path) for pair in jobs for path in pair], self._job.environment, log) as process:
            for _, result in jobs:
                if not _appears(result, process):
                    raise ServingError(
                        "The engine ended without a measurement: "
                        f"{reason_of(log.read_text(errors='replace'), process.poll())}. "
                        f"Its log is {log}; finished shapes are kept, and the same command goes on with them."
                    )
                yield DecodeTimes.load(result).steps_s

    def _written(self, engine: Path, shape: DecodeShape) -> tuple[Path, Path]:
        """Where the job is, and where its result will be."""
        engine.mkdir(parents=True)
        self._subject.engine_config(shape).save_pretrained(engine)
        job = engine / "job.json"
        self._job.model_copy(update={"folder": str(engine.resolve())}).save(job)
        return job, engine / "result.json"


def _appears(result: Path, process: subprocess.Popen[bytes]) -> bool:
    """Waits for the file or the process's end."""
    while process.poll() is None and not result.is_file():
        time.sleep(_LOOK_S)
    return result.is_file()
