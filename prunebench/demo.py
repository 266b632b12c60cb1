"""The whole job on the embedded model: prune, measure quality, serve with vLLM, load-test, report.

Every part is kept in the output folder and reused by the next run if it is still what would be made.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from artifacts.errors import ConfigError, PrunebenchError
from artifacts.files import sha256_of_file, sha256_of_folder, write_text_atomically
from artifacts.fleet import Fleet, VariantEntry
from artifacts.progress import Progress
from artifacts.run import Level
from artifacts.variant import VariantManifest, load_variant, record_quality, verify_checksums
from compressors.pipeline import compress
from compressors.quality import EvaluationRequest, evaluate
from compressors.request import CompressionRequest
from laws.hardware import measure_cpu
from laws.report import write_report
from loadtest.levels import level_folder, measured_already
from loadtest.runner import LoadTestRequest, run_load_test
from modeling.python_corpus import Split, load_corpus
from prunebench import demo_plan as plan
from prunebench.demo_server import running_server

_HARDWARE_NAME = "hardware.json"
_MARKER_NAME = "made-by-prunebench-demo.txt"


def run_demo(out: Path, progress: Progress) -> dict[str, Any]:
    """Returns what the verb prints. A second call reuses every part of `out` that is still valid."""
    with _terminate_like_ctrl_c():
        _claim(out)
        texts = {split: _write_corpus(out, split) for split in ("calibration", "held_out")}
        manifests = [_variant(out, wanted, texts, progress) for wanted in plan.VARIANTS]
        _measure_runs(out, manifests, progress)
        run_folders = [_run_folder(out, level) for level in plan.LEVELS]
        return write_report(run_folders, out / "report.html", out / _HARDWARE_NAME)


def _claim(out: Path) -> None:
    """The demo replaces what is stale in its folder, so it works only in one that is its own."""
    marker = out / _MARKER_NAME
    if out.exists() and not marker.exists() and (out.is_file() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and was not made by the demo. Choose another --out or remove it first.")
    write_text_atomically(marker, "Made by `prunebench demo`, which replaces stale parts of this folder.\n")


@contextmanager
def _terminate_like_ctrl_c() -> Iterator[None]:
    """SIGTERM unwinds the same way as Ctrl-C, so that children end and partial results go."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write_corpus(out: Path, split: Split) -> Path:
    path = out / f"python-{split}.txt"
    text = "\n<|endoftext|>\n".join(load_corpus(split).texts)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text_atomically(path, text)
    return path


def _variant(out: Path, wanted: plan.VariantPlan, texts: dict[str, Path], progress: Progress) -> VariantManifest:
    folder = out / "variants" / wanted.name
    manifest = _reusable_variant(folder, wanted, texts["calibration"])
    if manifest is None:
        _discard(folder)
        manifest = compress(_compression(folder, wanted, texts["calibration"]), _prefixed(progress, wanted.name))
    if not _is_evaluated(manifest, texts["held_out"]):
        request = EvaluationRequest(
            model=folder,
            text=texts["held_out"],
            reference=plan.MODEL_DIR,
            length_tokens=plan.EVALUATION_LENGTH_TOKENS,
        )
        evaluation = evaluate(request, _prefixed(progress, wanted.name))
        manifest = record_quality(folder, evaluation.records(plan.REFERENCE))
    return manifest


def _is_evaluated(manifest: VariantManifest, text: Path) -> bool:
    """Losses of different texts cannot be compared, and the text follows the interpreter's version."""
    wanted = (sha256_of_file(text), plan.EVALUATION_LENGTH_TOKENS)
    return any((record.corpus_sha256, record.length_tokens) == wanted for record in manifest.quality)


def _compression(folder: Path, wanted: plan.VariantPlan, calibration: Path) -> CompressionRequest:
    return CompressionRequest(
        model=str(plan.MODEL_DIR),
        out=folder,
        method=wanted.method,
        ratio=wanted.ratio,
        units=wanted.units,
        calibration=str(calibration) if wanted.calibrated else None,
        calibration_tokens=plan.CALIBRATION_TOKENS,
        seed=plan.SEED,
        multiple_of=plan.MULTIPLE_OF,
        keep_unfinished=False,
    )


def _reusable_variant(folder: Path, wanted: plan.VariantPlan, calibration: Path) -> VariantManifest | None:
    """The manifest, if the folder holds exactly what would be made now and no byte of it has changed."""
    try:
        manifest = load_variant(folder)
        verify_checksums(folder, manifest)
    except PrunebenchError:
        return None
    text = (manifest.calibration.sha256, manifest.calibration.tokens) if manifest.calibration else None
    same = (
        (manifest.method.name, manifest.method.units, manifest.ratios.nominal)
        == (wanted.method, wanted.units, wanted.ratio)
        and (manifest.method.seed, manifest.method.multiple_of) == (plan.SEED, plan.MULTIPLE_OF)
        and text == ((sha256_of_file(calibration), plan.CALIBRATION_TOKENS) if wanted.calibrated else None)
        and manifest.base.sha256 == sha256_of_folder(plan.MODEL_DIR, "*.safetensors")
    )
    return manifest if same else None


def _measure_runs(out: Path, manifests: list[VariantManifest], progress: Progress) -> None:
    """Serves the fleet and measures the levels that have no valid run yet; serves nothing if all have."""
    missing = [level for level in plan.LEVELS if not _has_valid_run(out, level, manifests)]
    if not missing:
        return
    reference = next(m for m in manifests if m.name == plan.REFERENCE)
    measure_cpu(reference.footprint.weights_bytes).save(out / _HARDWARE_NAME)
    with running_server(_write_fleet(out), out / "server.log", progress) as url:
        for level in missing:
            _discard(_run_folder(out, level))
            run_load_test(_load_test(out, url, level), progress)


def _write_fleet(out: Path) -> Path:
    entries = tuple(
        VariantEntry(name=wanted.name, model=str((out / "variants" / wanted.name).resolve()))
        for wanted in plan.VARIANTS
    )
    fleet = Fleet(variants=entries, max_model_len=plan.MAX_MODEL_LEN)
    fleet.save(out / "fleet.json")
    return out / "fleet.json"


def _load_test(out: Path, url: str, level: Level) -> LoadTestRequest:
    return LoadTestRequest(
        url=url,
        models=_measured_names(),
        against=plan.REFERENCE,
        level=level,
        workload=plan.WORKLOAD,
        duration_s=plan.MEASURED_S,
        out=_run_folder(out, level),
        blocks=plan.BLOCKS,
        warmup_s=plan.LEAD_IN_S,
    )


def _has_valid_run(out: Path, level: Level, manifests: list[VariantManifest]) -> bool:
    fingerprints = {manifest.name: manifest.fingerprint for manifest in manifests}
    return measured_already(_load_test(out, "http://127.0.0.1", level), fingerprints) is not None


def _measured_names() -> tuple[str, ...]:
    return tuple(wanted.name for wanted in plan.VARIANTS if wanted.name != plan.REFERENCE)


def _run_folder(out: Path, level: Level) -> Path:
    return out / "runs" / level_folder(level)


def _discard(folder: Path) -> None:
    """Removes one of our own earlier results, which is no longer what would be made."""
    shutil.rmtree(folder, ignore_errors=True)


def _prefixed(progress: Progress, name: str) -> Progress:
    def report(stage: str, done: float, total: float) -> None:
        progress(f"{name}: {stage}", done, total)

    return report
