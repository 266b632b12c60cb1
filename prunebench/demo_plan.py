"""What the demo makes and measures: data, so that reading it tells the whole story."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from artifacts.run import Level, Workload
from artifacts.variant import Unit

MODEL_DIR = Path(__file__).parent / "demo_model"
REFERENCE = "dense"


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantPlan:
    """One checkpoint to make from the demo model."""

    name: str
    method: str
    ratio: float
    units: tuple[Unit, ...]
    calibrated: bool


# Ratio 0 is bit-identical to the model: it gives the reference a manifest of its own.
VARIANTS = (
    VariantPlan(name=REFERENCE, method="magnitude", ratio=0.0, units=("ffn",), calibrated=False),
    VariantPlan(name="ffn-50", method="obs", ratio=0.5, units=("ffn",), calibrated=True),
    VariantPlan(name="ffn-kv-25", method="obs", ratio=0.25, units=("ffn", "kv"), calibrated=True),
    VariantPlan(name="depth-25", method="greedy_kl", ratio=0.25, units=("layers",), calibrated=True),
)

LEVELS = (Level(concurrency=1), Level(concurrency=4), Level(concurrency=16))
WORKLOAD = Workload(prompt_tokens=64, output_tokens=48, seed=0)
MEASURED_S = 14.0
BLOCKS = 10
LEAD_IN_S = 1.0  # longer than an answer of 16 streams, else the window sees the lead-in's queue ebb

CALIBRATION_TOKENS = 32768
EVALUATION_LENGTH_TOKENS = 512
MULTIPLE_OF = 16
MAX_MODEL_LEN = 512
SEED = 0
