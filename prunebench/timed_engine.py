"""An engine whose decode steps are timed: of which model, in which shape, in a process that does not outlive this one.

Engines get drawn weights in our per-layer family, whatever the base, so that one code path runs dense and pruned
shapes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
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
from server.diagnosis import reason_of
from server.engines import this_machine
from server.warden import under_warden

_GRACE_S = 5.0


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
    """Times a shape in a process of its own, which does not outlive this one."""

    def __init__(self, subject: Subject, job: DecodeJob, folder: Path) -> None:
        """Raises ConfigError if there is no engine."""
        if this_machine().vllm_version is None:
            raise ConfigError("vLLM is not installed here, and it is what is timed. Install prunebench[cpu] or [gpu].")
        self._subject = subject
        self._job = job
        self._folder = folder

    def __call__(self, shape: DecodeShape) -> tuple[float, ...]:
        """Raises ServingError with the engine's own reason if it ends without a result, ConfigError for a full disk."""
        engine = self._folder / "engine"
        try:
            shutil.rmtree(engine, ignore_errors=True)
            engine.mkdir(parents=True)
            self._subject.engine_config(shape).save_pretrained(engine)
        except OSError as error:
            raise disk_error(engine, error) from error
        job, result, log = engine / "job.json", engine / "result.json", engine / "log.txt"
        self._job.model_copy(update={"folder": str(engine.resolve())}).save(job)
        code = run_to_end((str(job), str(result)), self._job.environment, log)
        if code != 0 or not result.is_file():
            raise ServingError(
                f"The engine ended without a measurement: {reason_of(log.read_text(errors='replace'), code)}. "
                f"Its log is {log}; finished shapes are kept, and the same command goes on with them."
            )
        return DecodeTimes.load(result).steps_s


def run_to_end(arguments: Sequence[str], environment: dict[str, str], log: Path) -> int:
    """The exit code of `modeling.decode_timing`, under a warden that ends its process group with this process."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    log.write_bytes(b"")
    process = subprocess.Popen(
        under_warden(_GRACE_S, log.resolve(), [sys.executable, "-m", "modeling.decode_timing", *arguments]),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **environment, "PYTHONPATH": paths},
        start_new_session=True,
    )
    try:
        return process.wait()
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()
