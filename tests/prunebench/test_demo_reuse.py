"""Does the demo keep exactly what it would make again, and nothing else?"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifacts.files import sha256_of_file, sha256_of_folder
from artifacts.fleet import Fleet
from artifacts.progress import silent
from artifacts.provenance import collect_provenance
from artifacts.run import RUN_NAME, ArmSummary, Gate, Level, RunManifest
from artifacts.variant import (
    MANIFEST_NAME,
    BaseModelRef,
    CalibrationRef,
    MethodRef,
    Ratios,
    Unit,
    VariantManifest,
    load_variant,
)
from prunebench import demo
from prunebench import demo_plan as plan
from tests.manifests import DENSE, SMALL, small_manifest

WEIGHTS = "model.safetensors"
PRUNED = plan.VARIANTS[1]
Change = Callable[[VariantManifest], VariantManifest]


def write_variant(folder: Path, wanted: plan.VariantPlan, calibration: Path) -> VariantManifest:
    """A variant as the demo would make it, but for its weights, which are its name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_text(wanted.name)
    text = CalibrationRef(
        corpus="t", sha256=sha256_of_file(calibration), tokens=plan.CALIBRATION_TOKENS, window_tokens=512, seed=0
    )
    manifest = small_manifest(
        name=wanted.name,
        base=BaseModelRef(
            name="demo_model",
            sha256=sha256_of_folder(plan.MODEL_DIR, "*.safetensors"),
            architecture="LlamaForCausalLM",
            footprint=DENSE,
        ),
        method=MethodRef(
            name=wanted.method,
            config={},
            units=wanted.units,
            repair="none",
            seed=plan.SEED,
            multiple_of=plan.MULTIPLE_OF,
        ),
        calibration=text if wanted.calibrated else None,
        ratios=Ratios.between(wanted.ratio, DENSE, SMALL),
        checksums={WEIGHTS: sha256_of_file(folder / WEIGHTS)},
    )
    manifest.save(folder / MANIFEST_NAME)
    return manifest


def write_run(out: Path, level: Level, manifests: list[VariantManifest], /, **changes: Any) -> Path:
    """A valid run of the demo at this level, of these variants; keyword arguments replace its values."""
    arms = tuple(
        ArmSummary(
            model=manifest.name,
            fingerprint=manifest.fingerprint,
            requests=1,
            failures=0,
            failures_by_kind={},
            output_tokens=1,
            measures={},
        )
        for manifest in manifests
    )
    values: dict[str, Any] = {
        "url": "http://127.0.0.1:1",
        "models": tuple(m.name for m in manifests[1:]),
        "against": plan.REFERENCE,
        "level": level,
        "workload": plan.WORKLOAD,
        "duration_s": plan.MEASURED_S,
        "blocks": plan.BLOCKS,
        "warmup_s": plan.LEAD_IN_S,
        "gates": (gate(passed=True),),
        "arms": arms,
        "comparisons": (),
        "provenance": collect_provenance(),
    }
    folder = out / "runs" / level.label.replace(" ", "-")
    RunManifest(**(values | changes)).save(folder / RUN_NAME)
    return folder


def gate(*, passed: bool) -> Gate:
    return Gate(name="errors", observed=0, limit=1, unit="", passed=passed, cause="It broke.", remedy="Mend it.")


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    path = tmp_path / "python-calibration.txt"
    path.write_text("def f(): ...\n")
    return path


@pytest.fixture
def manifests(tmp_path: Path, calibration: Path) -> list[VariantManifest]:
    """All the variants of the plan, in their places."""
    return [write_variant(tmp_path / "variants" / v.name, v, calibration) for v in plan.VARIANTS]


@pytest.mark.parametrize("wanted", plan.VARIANTS, ids=lambda wanted: wanted.name)
def test_an_unchanged_variant_is_kept(tmp_path: Path, calibration: Path, wanted: plan.VariantPlan) -> None:
    made = write_variant(tmp_path / "v", wanted, calibration)
    assert demo._reusable_variant(tmp_path / "v", wanted, calibration) == made


def of_method(**values: Any) -> Change:
    return lambda manifest: manifest.model_copy(update={"method": manifest.method.model_copy(update=values)})


def fewer_tokens(manifest: VariantManifest) -> VariantManifest:
    assert manifest.calibration is not None
    halved = manifest.calibration.model_copy(update={"tokens": plan.CALIBRATION_TOKENS // 2})
    return manifest.model_copy(update={"calibration": halved})


UNITS: tuple[Unit, ...] = ("ffn", "kv")
CHANGES: list[tuple[Change, str]] = [
    (of_method(seed=plan.SEED + 1), "another seed draws other calibration windows"),
    (of_method(name="magnitude"), "another method chooses other units"),
    (of_method(units=UNITS), "other kinds of units were pruned"),
    (of_method(multiple_of=plan.MULTIPLE_OF * 2), "widths were rounded to other multiples"),
    (
        lambda m: m.model_copy(update={"ratios": m.ratios.model_copy(update={"nominal": 0.4})}),
        "less was removed than is wanted now",
    ),
    (lambda m: m.model_copy(update={"calibration": None}), "the statistics came from no text"),
    (fewer_tokens, "the statistics came from less text"),
    (
        lambda m: m.model_copy(update={"base": m.base.model_copy(update={"sha256": "0" * 64})}),
        "the model it came from has other weights",
    ),
]


@pytest.mark.parametrize(("change", "why"), CHANGES, ids=[why for _, why in CHANGES])
def test_a_variant_that_would_be_made_otherwise_is_stale(
    tmp_path: Path, calibration: Path, change: Change, why: str
) -> None:
    change(write_variant(tmp_path, PRUNED, calibration)).save(tmp_path / MANIFEST_NAME)
    assert demo._reusable_variant(tmp_path, PRUNED, calibration) is None, why


def flip_a_bit(folder: Path) -> None:
    damaged = bytearray((folder / WEIGHTS).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(damaged))


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (flip_a_bit, "one bit of the weights is another"),
    (lambda folder: (folder / WEIGHTS).unlink(), "the weights are gone"),
    (lambda folder: (folder / MANIFEST_NAME).unlink(), "the manifest is gone"),
    (lambda folder: (folder / MANIFEST_NAME).write_text("{"), "the manifest was cut off"),
    (lambda folder: (folder / MANIFEST_NAME).write_text("{}"), "the manifest is of another kind"),
]


@pytest.mark.parametrize(("damage", "why"), DAMAGE, ids=[why for _, why in DAMAGE])
def test_a_damaged_variant_is_made_again(
    tmp_path: Path, calibration: Path, damage: Callable[[Path], object], why: str
) -> None:
    folder = tmp_path / "v"
    write_variant(folder, PRUNED, calibration)
    damage(folder)
    assert demo._reusable_variant(folder, PRUNED, calibration) is None, why


def test_a_changed_calibration_text_touches_only_what_was_calibrated_on_it(
    tmp_path: Path, calibration: Path, manifests: list[VariantManifest]
) -> None:
    calibration.write_text("def g(): ...\n")
    kept = [
        wanted.name
        for wanted in plan.VARIANTS
        if demo._reusable_variant(tmp_path / "variants" / wanted.name, wanted, calibration) is not None
    ]
    assert kept == [wanted.name for wanted in plan.VARIANTS if not wanted.calibrated] == [plan.REFERENCE]


@pytest.mark.parametrize("level", plan.LEVELS, ids=lambda level: level.label)
def test_a_valid_run_of_the_same_variants_is_kept(
    tmp_path: Path, manifests: list[VariantManifest], level: Level
) -> None:
    write_run(tmp_path, level, manifests)
    assert [demo._has_valid_run(tmp_path, at, manifests) for at in plan.LEVELS] == [at == level for at in plan.LEVELS]


STALE_RUNS: list[tuple[dict[str, Any], str]] = [
    ({"gates": (gate(passed=True), gate(passed=False))}, "one gate failed: its numbers are worth nothing"),
    ({"level": Level(concurrency=3)}, "the folder holds another load"),
    ({"workload": plan.WORKLOAD.model_copy(update={"output_tokens": 49})}, "the answers were longer"),
    ({"workload": plan.WORKLOAD.model_copy(update={"seed": 1})}, "the prompts were others"),
    ({"arms": ()}, "nobody was measured"),
]


@pytest.mark.parametrize(("changes", "why"), STALE_RUNS, ids=[why for _, why in STALE_RUNS])
def test_a_run_that_would_be_made_otherwise_is_stale(
    tmp_path: Path, manifests: list[VariantManifest], changes: dict[str, Any], why: str
) -> None:
    write_run(tmp_path, plan.LEVELS[0], manifests, **changes)
    assert not demo._has_valid_run(tmp_path, plan.LEVELS[0], manifests), why


def test_a_run_of_earlier_weights_is_stale(tmp_path: Path, calibration: Path, manifests: list[VariantManifest]) -> None:
    """The names and the load are the same; only the fingerprint tells that the weights are not."""
    write_run(tmp_path, plan.LEVELS[0], manifests)
    retrained = manifests[1].model_copy(update={"checksums": {WEIGHTS: "f" * 64}})
    assert demo._has_valid_run(tmp_path, plan.LEVELS[0], manifests)
    assert not demo._has_valid_run(tmp_path, plan.LEVELS[0], [manifests[0], retrained, *manifests[2:]])
    assert not demo._has_valid_run(tmp_path, plan.LEVELS[0], manifests[:-1])


def test_a_measured_quality_does_not_make_a_run_stale(tmp_path: Path, manifests: list[VariantManifest]) -> None:
    write_run(tmp_path, plan.LEVELS[0], manifests)
    described = [manifest.model_copy(update={"versions": {"torch": "9"}}) for manifest in manifests]
    assert demo._has_valid_run(tmp_path, plan.LEVELS[0], described)


def test_nothing_is_served_or_measured_if_every_level_is_there(
    tmp_path: Path, manifests: list[VariantManifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the demo began to measure")

    monkeypatch.setattr(demo, "running_server", forbidden)
    monkeypatch.setattr(demo, "measure_cpu", forbidden)
    for level in plan.LEVELS:
        write_run(tmp_path, level, manifests)
    before = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
    demo._measure_runs(tmp_path, manifests, silent)
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*")) == before


def test_the_fleet_names_each_variant_and_its_folder(tmp_path: Path) -> None:
    fleet = Fleet.load(demo._write_fleet(tmp_path))
    assert [entry.name for entry in fleet.variants] == [wanted.name for wanted in plan.VARIANTS]
    assert all(entry.model == str((tmp_path / "variants" / entry.name).resolve()) for entry in fleet.variants)
    assert plan.WORKLOAD.prompt_tokens + plan.WORKLOAD.output_tokens <= plan.MAX_MODEL_LEN


def test_each_level_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = [demo._run_folder(tmp_path, level) for level in plan.LEVELS]
    assert len(set(folders)) == len(plan.LEVELS)
    requests = [demo._load_test(tmp_path, "http://h", level) for level in plan.LEVELS]
    assert [request.out for request in requests] == folders
    assert {request.arms for request in requests} == {tuple(wanted.name for wanted in plan.VARIANTS)}


def test_the_corpus_is_written_once_and_mended_if_it_differs(tmp_path: Path) -> None:
    path = demo._write_corpus(tmp_path, "calibration")
    written = path.read_bytes()
    os.utime(path, ns=(1, 1))
    assert demo._write_corpus(tmp_path, "calibration").stat().st_mtime_ns == 1
    path.write_text("somebody's edit")
    assert demo._write_corpus(tmp_path, "calibration").read_bytes() == written


def test_only_an_empty_folder_or_its_own_is_claimed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty", "new"):
        demo._claim(tmp_path / name)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [demo._MARKER_NAME]


def test_termination_unwinds_like_ctrl_c_and_the_handler_is_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), demo._terminate_like_ctrl_c():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_stages_of_variants_are_told_apart() -> None:
    seen: list[tuple[str, float, float]] = []
    report = demo._prefixed(lambda *call: seen.append(call), "ffn-50")
    report("prune", 1, 2)
    assert seen == [("ffn-50: prune", 1, 2)]


def test_a_manifest_on_disk_is_what_the_run_is_compared_with(tmp_path: Path, manifests: list[VariantManifest]) -> None:
    read_back = [load_variant(tmp_path / "variants" / wanted.name) for wanted in plan.VARIANTS]
    assert [m.fingerprint for m in read_back] == [m.fingerprint for m in manifests]
    assert len({m.fingerprint for m in manifests}) == len(plan.VARIANTS)
