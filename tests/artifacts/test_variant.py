"""The variant manifest: ratios, checksums, quality records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from artifacts.errors import CheckpointError, ConfigError
from artifacts.files import sha256_of_file
from artifacts.variant import (
    MANIFEST_NAME,
    MethodRef,
    QualityRecord,
    Ratios,
    is_variant,
    load_variant,
    record_quality,
    verify_checksums,
)
from tests.manifests import DENSE, SMALL, small_manifest


def loss(value: float, corpus: str = "c") -> QualityRecord:
    return QualityRecord(
        metric="loss_nats", value=value, corpus=corpus, corpus_sha256=corpus, length_tokens=8, tokens=9
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    manifest = small_manifest(checksums={"model.safetensors": sha256_of_file(tmp_path / "model.safetensors")})
    manifest.save(tmp_path / MANIFEST_NAME)
    return tmp_path


def test_ratios_are_removed_shares() -> None:
    ratios = Ratios.between(0.5, DENSE, SMALL)
    assert ratios.params_total == pytest.approx(0.4)
    assert ratios.params_blocks == pytest.approx(0.5)
    assert ratios.kv_bytes_per_token == 0
    assert ratios.flops_per_token == pytest.approx(0.4)


def test_manifest_survives_the_disk(folder: Path) -> None:
    manifest = load_variant(folder)
    assert is_variant(folder)
    assert manifest == small_manifest(checksums=manifest.checksums)


def test_intact_folder_verifies(folder: Path) -> None:
    verify_checksums(folder, load_variant(folder))


@pytest.mark.parametrize(
    ("damage", "word"), [(b"weightz", "damaged"), (None, "missing")], ids=["one byte differs", "file is gone"]
)
def test_damage_is_named(folder: Path, damage: bytes | None, word: str) -> None:
    shard = folder / "model.safetensors"
    if damage is None:
        shard.unlink()
    else:
        shard.write_bytes(damage)
    with pytest.raises(CheckpointError, match=word) as caught:
        verify_checksums(folder, load_variant(folder))
    assert "model.safetensors" in str(caught.value)


def test_fingerprint_follows_the_weights() -> None:
    one, same, other = (small_manifest(checksums={"w": digest}).fingerprint for digest in ("aa", "aa", "ab"))
    assert one == same != other
    assert len(one) == 12


def test_recorded_quality_replaces_its_own_kind_only(folder: Path) -> None:
    record_quality(folder, (loss(2.0), loss(3.0, "other")))
    manifest = record_quality(folder, (loss(1.5),))
    assert {(r.corpus, r.value) for r in manifest.quality} == {("c", 1.5), ("other", 3.0)}
    assert load_variant(folder) == manifest


def score(value: float, **changes: Any) -> QualityRecord:
    asked = {
        "task": "copa",
        "questions": 9,
        "through": "endpoint",
        "metric": "acc",
        "corpus": "c",
        "corpus_sha256": "c",
    }
    return QualityRecord(value=value, length_tokens=8, tokens=9, **{**asked, **changes})


def test_a_tasks_score_is_replaced_by_the_same_task_scored_the_same_way(folder: Path) -> None:
    others = [{"through": "transformers"}, {"metric": "acc_norm"}, {"task": "arc"}, {"corpus_sha256": "first 100"}]
    record_quality(folder, (score(0.5), loss(2.0), *(score(0.1, **other) for other in others)))
    manifest = record_quality(folder, (score(0.6, stderr=0.1, harness="lm_eval 9"),))
    assert sorted(r.value for r in manifest.quality) == [0.1, 0.1, 0.1, 0.1, 0.6, 2.0]
    assert load_variant(folder) == manifest


def test_a_manifest_from_before_tasks_still_loads(folder: Path) -> None:
    record_quality(folder, (loss(2.0),))
    raw = json.loads((folder / MANIFEST_NAME).read_text())
    new = {"task", "questions", "stderr", "through", "harness"}
    raw["quality"] = [{key: value for key, value in record.items() if key not in new} for record in raw["quality"]]
    (folder / MANIFEST_NAME).write_text(json.dumps(raw))
    assert load_variant(folder).quality == (loss(2.0),)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"task": None}, "metric 'acc' of a text is none of loss_nats"),
        ({"questions": None}, "'copa' lacks its questions"),
        ({"through": None}, "what it was scored through"),
        ({"through": "telepathy"}, "through"),
    ],
)
def test_records_that_could_not_be_compared(changes: dict[str, Any], fragment: str) -> None:
    with pytest.raises(ValidationError, match=fragment):
        score(0.5, **changes)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "cannot be read"), ("{}", "not a valid VariantManifest"), ('{"surprise": 1}', "not a valid")],
)
def test_bad_manifest_is_one_sentence(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load_variant(tmp_path)


def test_missing_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_variant(tmp_path)


@pytest.mark.parametrize(("compensate", "repair"), [(True, "ridge"), (False, "none")])
def test_a_manifest_from_before_repairs_had_names_is_read(compensate: bool, repair: str) -> None:
    former = {"name": "wanda_sp", "config": {}, "units": ["ffn"], "seed": 0, "multiple_of": 1}
    assert MethodRef.model_validate({**former, "compensate": compensate}).repair == repair
