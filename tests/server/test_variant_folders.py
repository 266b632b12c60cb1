"""Is what a variant folder says about itself shown to clients, and a folder that lies refused?"""

from __future__ import annotations

from pathlib import Path

import pytest
from serving_process import Start, simulated

from artifacts.files import sha256_of_file
from artifacts.variant import MANIFEST_NAME, QualityRecord, VariantManifest
from tests.manifests import small_manifest


@pytest.fixture
def variant(tmp_path: Path) -> tuple[Path, VariantManifest]:
    """A folder that passes every check, without weights that any engine could load."""
    folder = tmp_path / "pruned-50"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    quality = QualityRecord(
        metric="perplexity", value=12.5, corpus="c", corpus_sha256="0" * 64, length_tokens=64, tokens=640
    )
    checksums = {"config.json": sha256_of_file(folder / "config.json")}
    manifest = small_manifest(name="pruned-50", quality=(quality,), checksums=checksums)
    manifest.save(folder / MANIFEST_NAME)
    return folder, manifest


def test_shapes_ratios_quality_and_fingerprint_are_listed(start: Start, variant: tuple[Path, VariantManifest]) -> None:
    folder, manifest = variant
    serving = start([{**simulated("pruned-50"), "model": str(folder)}, simulated("plain")]).until_ready()
    about = serving.client.get("/v1/models/pruned-50").json()["prunebench"]
    assert VariantManifest.model_validate(about["manifest"]) == manifest
    assert about["manifest"]["quality"][0]["value"] == 12.5
    assert about["manifest"]["footprint"]["weights_bytes"] == 200
    assert about["fingerprint"] == manifest.fingerprint
    assert (about["state"], about["restarts"]) == ("ready", 0)
    answer = serving.client.post("/v1/completions", json={"model": "pruned-50", "prompt": "x"})
    assert answer.headers["x-prunebench-fingerprint"] == manifest.fingerprint
    assert "ratios" not in serving.client.get("/v1/models/plain").json()["prunebench"]


DAMAGE = [
    ("config.json", "{}", "config.json is damaged: its SHA-256 differs from variant.json", "a changed file"),
    ("config.json", None, "has no config.json", "a missing file"),
    (MANIFEST_NAME, "{", "cannot be read", "a manifest that is no JSON"),
    (MANIFEST_NAME, "{}", "is not a valid VariantManifest", "a manifest without entries"),
]


@pytest.mark.parametrize(("name", "text", "says", "what"), DAMAGE, ids=[what for *_, what in DAMAGE])
def test_a_damaged_variant_is_refused_before_any_engine_starts(
    start: Start, variant: tuple[Path, VariantManifest], name: str, text: str | None, says: str, what: str
) -> None:
    folder, _ = variant
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    serving = start([simulated("good"), {**simulated("bad"), "model": str(folder)}])
    _, errors = serving.process.communicate(timeout=20)
    assert serving.process.returncode == 1
    assert says in errors, what
    assert "starting" not in errors


def test_a_state_folder_that_cannot_be_written_is_named(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    serving = start([simulated("a")], state_dir=str(tmp_path / "file" / "logs"))
    _, errors = serving.process.communicate(timeout=20)
    assert "could not be written (Not a directory)" in errors
