"""Is a variant's quality measured again when the text or the window changed, so that the losses stay comparable?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from artifacts.progress import silent
from artifacts.variant import MANIFEST_NAME, QualityRecord, VariantManifest
from compressors.quality import EvaluationRequest
from prunebench import demo
from prunebench import demo_plan as plan
from tests.prunebench.test_demo_reuse import write_variant

REFERENCE = plan.VARIANTS[0]


def quality(text: Path, length_tokens: int) -> QualityRecord:
    return QualityRecord(
        metric="loss_nats",
        value=2.0,
        corpus=text.name,
        corpus_sha256=hashlib.sha256(text.read_bytes()).hexdigest(),
        length_tokens=length_tokens,
        tokens=1000,
    )


@dataclass
class Evaluator:
    """Stands for the evaluation; notes what it was asked for."""

    asked: list[EvaluationRequest] = field(default_factory=list)

    def __call__(self, request: EvaluationRequest, progress: object) -> Evaluator:
        self.asked.append(request)
        return self

    def records(self, reference: str) -> tuple[QualityRecord, ...]:
        request = self.asked[-1]
        return (quality(Path(request.text), request.length_tokens),)


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Path]:
    made = {split: tmp_path / f"{split}.txt" for split in ("calibration", "held_out")}
    for path in made.values():
        path.write_text(f"{path.name}\n")
    return made


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    evaluator = Evaluator()
    monkeypatch.setattr(demo, "evaluate", evaluator)
    return evaluator


def kept(tmp_path: Path, texts: dict[str, Path], *records: QualityRecord) -> VariantManifest:
    """The reference in its place, with these values already measured."""
    folder = tmp_path / "variants" / REFERENCE.name
    manifest = write_variant(folder, REFERENCE, texts["calibration"]).model_copy(update={"quality": records})
    manifest.save(folder / MANIFEST_NAME)
    return manifest


def test_a_quality_of_the_same_text_is_kept(tmp_path: Path, texts: dict[str, Path], evaluator: Evaluator) -> None:
    made = kept(tmp_path, texts, quality(texts["held_out"], plan.EVALUATION_LENGTH_TOKENS))
    assert demo._variant(tmp_path, REFERENCE, texts, silent) == made
    assert evaluator.asked == []


def test_a_variant_without_quality_is_evaluated_on_the_held_out_text(
    tmp_path: Path, texts: dict[str, Path], evaluator: Evaluator
) -> None:
    kept(tmp_path, texts)
    manifest = demo._variant(tmp_path, REFERENCE, texts, silent)
    assert [(request.text, request.length_tokens) for request in evaluator.asked] == [
        (texts["held_out"], plan.EVALUATION_LENGTH_TOKENS)
    ]
    assert manifest.quality == (quality(texts["held_out"], plan.EVALUATION_LENGTH_TOKENS),)


@pytest.mark.parametrize("stale", ["text", "window"])
def test_a_quality_of_another_text_or_window_is_measured_again(
    tmp_path: Path, texts: dict[str, Path], evaluator: Evaluator, stale: str
) -> None:
    """The reference is calibrated on nothing, so that another interpreter's text alone would leave it as it is."""
    length_tokens = plan.EVALUATION_LENGTH_TOKENS // (2 if stale == "window" else 1)
    kept(tmp_path, texts, quality(texts["held_out"], length_tokens))
    if stale == "text":
        texts["held_out"].write_text("what a later interpreter carries\n")
    manifest = demo._variant(tmp_path, REFERENCE, texts, silent)
    assert len(evaluator.asked) == 1
    assert manifest.quality[-1] == quality(texts["held_out"], plan.EVALUATION_LENGTH_TOKENS)
