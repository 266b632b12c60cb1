"""Study files say what they mean or are refused; records of cells survive writing and reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ConfigError
from artifacts.provenance import collect_provenance
from artifacts.study import AccuracyOn, CellRecord, LossOn, PaperSpeed, ServingSpeed, SpeedAt, StudyFile, load_cells
from artifacts.variant import Ratios

QUALITY = """
title = "how loss grows"
ratios = [0.1, 0.5]
seeds = [0, 1]
calibration = "calibration.txt"
training = "train.txt"
models = [{ name = "demo", source = "demo" }]
texts = [{ set = "python", text = "held_out.txt", max_tokens = 4096, divergence = true }]
[[methods]]
name = "random"
method = "random"
[[methods]]
name = "obs"
method = "obs"
calibrated = true
repair = "ridge"
ratios = [0.5]
[[recoveries]]
method = "full"
tokens = [10_000, 20_000]
methods = ["random"]
[[speeds]]
mode = "paper"
"""

SHAPES = """
title = "speed of published shapes"
[[models]]
name = "qwen"
config = { architectures = ["Qwen2ForCausalLM"], hidden_size = 896 }
[[methods]]
name = "ffn"
method = "random"
ratios = [0.3, 0.9]
[[methods]]
name = "fp8"
ratios = [0.0]
engine_flags = ["--quantization", "fp8"]
[[speeds]]
mode = "serving"
levels = [{ concurrency = 1 }, { arrivals = { kind = "poisson", rate_per_s = 8.0 } }]
prompt_tokens = 128
output_tokens = 128
fairness = "memory"
"""


def study(tmp_path: Path, text: str) -> StudyFile:
    (tmp_path / "study.toml").write_text(text)
    return StudyFile.load(tmp_path / "study.toml")


def test_a_study_of_quality(tmp_path: Path) -> None:
    read = study(tmp_path, QUALITY)
    assert [(m.name, m.ratios, m.repair) for m in read.methods] == [("random", None, "none"), ("obs", (0.5,), "ridge")]
    assert read.recoveries[0].tokens == (10_000, 20_000)
    assert read.speeds == (PaperSpeed(mode="paper", batch=1, tokens=2048, pairs=8),)
    assert read.texts[0].length_tokens == 512


def test_a_study_of_shapes(tmp_path: Path) -> None:
    read = study(tmp_path, SHAPES)
    (speed,) = read.speeds
    assert isinstance(speed, ServingSpeed)
    assert [level.label for level in speed.levels] == ["concurrency 1", "8 requests/s, poisson"]
    assert read.models[0].config == {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 896}
    assert read.methods[1].engine_flags == ("--quantization", "fp8")


@pytest.mark.parametrize(
    ("text", "before", "after", "complaint"),
    [
        (QUALITY, 'source = "demo"', 'source = "demo", config = {}', "not both"),
        (QUALITY, 'name = "obs"', 'name = "random"', "repeated: random"),
        (QUALITY, 'name = "obs"', 'name = "dense"', "unpruned model"),
        (QUALITY, 'methods = ["random"]', 'methods = ["radnom"]', "'radnom' is not in the study; allowed: obs, random"),
        (QUALITY, "calibrated = true", "calibrated = false", "needs `calibrated"),
        (QUALITY, 'calibration = "calibration.txt"', "", "need `calibration`"),
        (QUALITY, 'training = "train.txt"', "", "need `training`"),
        (QUALITY, 'training = "train.txt"', 'training = "held_out.txt"', "must not be trained on"),
        (QUALITY, "ratios = [0.1, 0.5]", "", "'random' has no ratio"),
        (QUALITY, "ratios = [0.1, 0.5]", "ratios = [1.0]", "less than 1"),
        (QUALITY, "tokens = [10_000, 20_000]", "tokens = []", "at least 1 item"),
        (QUALITY, 'mode = "paper"', 'mode = "papre"', "paper"),
        (SHAPES, "[[speeds]]", 'texts = []\ncolour = 1\n[[speeds]]', "Extra inputs"),
        (SHAPES, "ratios = [0.0]", "ratios = [0.5]", "without `method` nothing is pruned"),
        (SHAPES, 'title = "', 'texts = [{ set = "a", text = "b" }]\ntitle = "', "a speed only"),
        ('title = "a"\nmodels = [{ name = "m", source = "s" }]\n[[methods]]\nname = "x"\nmethod = "random"\n', "", "",
         "nothing is measured"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, text: str, before: str, after: str, complaint: str) -> None:
    assert before in text
    with pytest.raises(ConfigError, match=complaint) as caught:
        study(tmp_path, text.replace(before, after, 1))
    assert "study.toml" in str(caught.value)


def record(**changes: Any) -> CellRecord:
    fields: dict[str, Any] = {
        "cell": "demo.random.r0.5.s1-abc123",
        "model": "demo",
        "method": "random",
        "ratio": 0.5,
        "seed": 1,
        "status": "done",
        "ratios": Ratios(nominal=0.5, params_total=0.3, params_blocks=0.35, kv_bytes_per_token=0, flops_per_token=0.3),
        "losses": (LossOn(set="python", loss_nats=3.5, base_loss_nats=2.5, tokens=4096, standard_error_nats=0.02),),
        "accuracies": (AccuracyOn(task="copa", accuracy=0.5, base_accuracy=0.6, items=100),),
        "speeds": (
            SpeedAt(
                mode="paper",
                level="forward 1x2048",
                quantity="forward_s",
                speedup=1.25,
                low=1.2,
                high=1.3,
                pairs=8,
                base_value=0.5,
                value=0.4,
                unit="s",
            ),
        ),
        "params": 70,
        "base_params": 100,
        "started_at": "2026-11-22T16:00:00+00:00",
        "wall_s": 1.5,
        "provenance": collect_provenance(),
    }
    return CellRecord(**(fields | changes))


def test_records_come_back_as_they_were_written_in_the_order_of_their_names(tmp_path: Path) -> None:
    later = record(cell="b")
    earlier = record(cell="a", status="failed", error="no memory", losses=(), accuracies=(), speeds=(), ratios=None)
    for each in (later, earlier):
        each.save(tmp_path / "cells" / f"{each.cell}.json")
    assert load_cells(tmp_path) == (earlier, later)
    assert load_cells(tmp_path / "nothing") == ()


def test_a_record_names_an_error_exactly_if_it_failed() -> None:
    for status, error in (("failed", None), ("done", "no memory")):
        with pytest.raises(ValueError, match="only a failed one"):
            record(status=status, error=error)


def test_only_the_dense_method_is_the_base() -> None:
    assert record(method="dense", ratio=0.0).is_dense
    assert not record(method="fp8", ratio=0.0).is_dense
