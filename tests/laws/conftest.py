"""Two runs of a made-up experiment with known numbers: half the FLOPs, 1.5 times the speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from artifacts.measures import MEASURES
from artifacts.provenance import collect_provenance
from artifacts.run import RUN_NAME, ArmSummary, Comparison, Estimate, Gate, Level, RunManifest, Workload
from artifacts.variant import Footprint, LayerShape, QualityRecord, Ratios, VariantManifest
from tests.manifests import DENSE, SMALL, small_manifest


def manifest(name: str, footprint: Footprint, loss: float) -> VariantManifest:
    return small_manifest(
        footprint,
        name=name,
        layers=tuple(LayerShape(index=i, query_heads=4, kv_heads=2, ffn_width=16, present=i != 1) for i in range(3)),
        ratios=Ratios.between(0.5 if footprint is SMALL else 0.0, DENSE, footprint),
        quality=(
            QualityRecord(
                metric="loss_nats", value=loss, corpus="text.txt", corpus_sha256="cd", length_tokens=512, tokens=1000
            ),
        ),
        checksums={"model.safetensors": name},
    )


def arm(model: str, tokens_per_s: float) -> ArmSummary:
    measures: dict[str, float | None] = dict.fromkeys(MEASURES)
    measures.update(output_tokens_per_s=tokens_per_s, ttft_p50_s=0.01, tpot_p50_s=1 / tokens_per_s, e2e_p50_s=0.5)
    return ArmSummary(
        model=model,
        fingerprint=None,
        requests=40,
        failures=0,
        failures_by_kind={},
        output_tokens=400,
        measures=measures,
    )


def make_run(level: Level, passed: bool = True, models: tuple[str, ...] = ("small",)) -> RunManifest:
    speedup = Estimate(value=1.5, low=1.4, high=1.6, n=8)
    keys = ("speedup_output_tokens_per_s", "speedup_tpot_p50", "speedup_ttft_p50", "speedup_e2e_p50")
    comparison = Comparison(
        model="small",
        against="dense",
        ratios=dict.fromkeys(keys, speedup),
        block_ratios={keys[0]: (1.45, 1.55)},
    )
    gate = Gate(name="errors", observed=0.0, limit=0.01, unit="", passed=passed, cause="It broke.", remedy="Mend it.")
    served = {
        name: {"id": name, "prunebench": {"manifest": manifest(name, footprint, loss).model_dump(mode="json")}}
        for name, footprint, loss in (("dense", DENSE, 2.0), ("small", SMALL, 2.25))
    }
    return RunManifest(
        url="http://127.0.0.1:8000",
        models=models,
        against="dense",
        level=level,
        workload=Workload(prompt_tokens=10, output_tokens=20),
        duration_s=16,
        blocks=8,
        warmup_s=1,
        gates=(gate,),
        arms=(arm("dense", 100), arm("small", 150)),
        comparisons=(comparison,),
        served=served,
        provenance=collect_provenance(),
    )


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[[str, RunManifest], Path]:
    """Writes a run under a name and returns its folder."""

    def write(name: str, run: RunManifest) -> Path:
        run.save(tmp_path / name / RUN_NAME)
        return tmp_path / name

    return write
