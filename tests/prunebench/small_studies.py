"""Studies of a tiny random model: seconds, not minutes."""

from __future__ import annotations

import sys
from pathlib import Path

from artifacts.provenance import collect_provenance
from artifacts.study import CellRecord
from prunebench.study.job import CellJob
from prunebench.study.plan import CellPlan

sys.path.append(str(Path(__file__).resolve().parents[1] / "compressors"))

STUDY = """
title = "a tiny model"
ratios = [0.25, 0.5]
seeds = [0, 1]
calibration = "training.txt"
calibration_tokens = 512
training = "training.txt"
models = [{ name = "tiny", source = "tiny" }]
texts = [{ set = "words", text = "held_out.txt", length_tokens = 64 }]
[[methods]]
name = "random"
method = "random"
[[methods]]
name = "wanda"
method = "wanda_sp"
calibrated = true
repair = "ridge"
seeds = [0]
[[recoveries]]
method = "full"
tokens = [512]
batch_tokens = 256
methods = ["random"]
ratios = [0.5]
"""
CELLS = 1 + 2 * 2 + 2 + 2


def write_study(folder: Path, text: str = STUDY) -> Path:
    """The file with its texts beside it, but without the model."""
    from tiny_models import random_text

    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("training.txt", "held_out.txt")):
        (folder / name).write_text(random_text(12, 300, seed=seed))
    (folder / "study.toml").write_text(text)
    return folder / "study.toml"


def write_model(folder: Path, name: str = "tiny") -> Path:
    from tiny_models import save_checkpoint

    return save_checkpoint(folder / name, max_position_embeddings=256)


def record_of(plan: CellPlan, **changes: object) -> CellRecord:
    """As if the cell had been measured."""
    job = CellJob(plan=plan, folder="", scratch="", raw="")
    made = CellRecord(
        **job.identity,
        status="done",
        started_at="2026-11-22T16:00:00+00:00",
        wall_s=1.0,
        provenance=collect_provenance(),
    )
    return made.model_copy(update=changes)
