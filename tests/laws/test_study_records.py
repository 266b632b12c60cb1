"""What a study's cells say, which of them a law is fitted to, and what is fitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from artifacts.errors import ConfigError
from artifacts.study import StudyFile, StudyMethod, StudyModel, StudyText
from artifacts.variant import Ratios
from laws.forms import MILLION
from laws.studies.comparison import RAW, analyse
from laws.studies.records import (
    MEAN_OF_TASKS,
    Study,
    accuracy_of,
    loss_of,
    measured_on,
    method_label,
    read_study,
    study_folder,
    variant_key,
    variant_name,
)
from laws.studies.samples import RATIO_KINDS, Scope, sample_of, scopes_of
from prunebench.laws_verbs import RatioName
from tests.laws.synthetic import PROVENANCE, World, study_of, write_study

GIGA = 1_000_000_000
WORLD = World(
    models={"a": GIGA, "b": 3 * GIGA},
    methods=("random",),
    ratios=(0.1, 0.3, 0.5, 0.7, 0.9),
    budgets=(0, 1_000_000, 25_000_000),
    tasks=("piqa", "arc_easy"),
    seeds=(0, 1),
)
LOSS = Scope(kind="loss", name="wikitext2", method="random", recovery="full")


def test_a_study_is_read_from_its_folder_or_beside_its_file(tmp_path: Path) -> None:
    folder = write_study(replace(WORLD, ratios=(0.5,)), tmp_path / "my.study")
    study = read_study(folder)
    assert len(study.cells) == 2 + 2 * 3 * 2
    assert study_folder(tmp_path / "my.toml") == folder
    assert (study.title, study.models, study.methods) == ("my", ("a", "b"), ("random",))
    assert study.params_of("b") == 3 * GIGA


def test_what_was_asked_for_stands_beside_the_cells(tmp_path: Path) -> None:
    folder = write_study(replace(WORLD, ratios=(0.5,)), tmp_path / "my.study")
    assert read_study(folder).needs_data("obs") and not read_study(folder).needs_data("random_rows")
    StudyFile(
        title="A title",
        models=(StudyModel(name="a", source="demo"),),
        methods=(StudyMethod(name="random", method="random", calibrated=True),),
        ratios=(0.5,),
        calibration="text",
        texts=(StudyText(set="wikitext2", text="held_out.txt"),),
    ).save(folder / "study.json")
    study = read_study(folder)
    assert study.title == "A title" and study.needs_data("random")


def test_failed_cells_are_counted_and_used_for_nothing(tmp_path: Path) -> None:
    folder = write_study(replace(WORLD, ratios=(0.5,)), tmp_path / "my.study")
    study = read_study(folder)
    broken = study.cells[-1].model_copy(update={"status": "failed", "error": "no memory", "losses": ()})
    broken.save(folder / "cells" / f"{broken.cell}.json")
    again = read_study(folder)
    assert len(again.cells) == len(study.cells) - 1
    assert [cell.error for cell in again.failed] == ["no memory"]


def test_a_folder_without_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no cells/"):
        read_study(tmp_path)
    (tmp_path / "cells").mkdir()
    with pytest.raises(ConfigError, match="No cell of"):
        read_study(tmp_path)


def test_a_variant_has_a_name_and_a_cell_per_seed() -> None:
    study = study_of(WORLD)
    names = {variant_name(key): len(cells) for key, cells in study.variants.items()}
    assert names["a"] == 1 and names["a random 0.5"] == 2
    assert names["b random 0.9, full 25 M tokens"] == 2
    assert len(names) == 2 + 2 * 5 * 3


def test_labels_tell_what_is_not_plain() -> None:
    cell = study_of(WORLD).cells[-1]
    assert method_label(cell) == "random"
    assert method_label(cell.model_copy(update={"repair": "ridge"})) == "random (ridge)"
    assert variant_key(cell) != variant_key(cell.model_copy(update={"repair": "ridge"}))


def test_qualities_of_a_cell() -> None:
    cell = study_of(replace(WORLD, noise=0.0)).cells[-1]
    assert cell.accuracies[0].accuracy < cell.accuracies[0].base_accuracy
    both = accuracy_of(cell, MEAN_OF_TASKS)
    assert both == pytest.approx((cell.accuracies[0].accuracy, cell.accuracies[0].base_accuracy))
    assert accuracy_of(cell, "none") is None and loss_of(cell, "none") is None
    assert loss_of(cell, "wikitext2") == (cell.losses[0].loss_nats, cell.losses[0].base_loss_nats)


def test_hardware_and_commits_are_named_once() -> None:
    cell = study_of(replace(WORLD, ratios=(0.5,))).cells[0]
    other = PROVENANCE.model_copy(update={"gpus": ("NVIDIA H200",), "commit_dirty": True})
    cells = [cell, cell, cell.model_copy(update={"provenance": other})]
    assert measured_on(cells) == "A processor, 2 cores; NVIDIA H200; commit 0123456789ab, 0123456789ab+"


def test_scopes_are_every_text_and_method_without_and_with_recovery() -> None:
    study = study_of(WORLD)
    assert [scope.label for scope in scopes_of(study, "loss")] == ["random · wikitext2", "random + full · wikitext2"]
    assert [scope.name for scope in scopes_of(study, "accuracy")] == [MEAN_OF_TASKS] * 2
    each = scopes_of(study, "accuracy", each_task=True)
    assert [scope.name for scope in each] == ["piqa", "piqa", "arc_easy", "arc_easy"]


def test_a_sample_holds_what_the_scope_says() -> None:
    study = study_of(WORLD)
    sample = sample_of(study, LOSS)
    assert len(sample) == 2 * 5 * 3 * 2
    assert set(sample.at.tokens) == {0, 1e6, 25e6}
    assert set(sample.at.d) == {0, 1, 25}
    bare = sample_of(study, replace(LOSS, recovery="none"))
    assert len(bare) == 2 * 5 * 2 and set(bare.at.tokens) == {0}
    assert (sample.at.params < sample.at.base_params).all()


def test_what_was_recovered_from_one_pruned_model_is_one_cluster() -> None:
    sample = sample_of(study_of(WORLD), LOSS)
    assert sample.cluster_count == 2 * 5 * 2
    first = sample.clusters == sample.clusters[0]
    assert first.sum() == 3 and len(set(sample.at.tokens[first])) == 3


def test_a_score_is_the_inverse_loss() -> None:
    study = study_of(WORLD)
    loss, score = sample_of(study, LOSS), sample_of(study, replace(LOSS, kind="score"))
    assert score.observed == pytest.approx(1 / loss.observed)
    assert score.at.base == pytest.approx(1 / loss.at.base)


@pytest.mark.parametrize(("ratio", "scale"), [("nominal", 1.0), ("params_total", 0.7), ("params_blocks", 1.0)])
def test_any_ratio_can_stand_for_r(ratio: str, scale: float) -> None:
    sample = sample_of(study_of(WORLD), LOSS, ratio)
    assert sorted(set(np.round(sample.at.ratio, 6))) == pytest.approx([scale * r for r in WORLD.ratios])


def test_a_ratio_that_no_cell_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="has the ratio 'kv_bytes_per_token'"):
        sample_of(study_of(WORLD), LOSS, "kv_bytes_per_token")


def test_the_command_line_offers_every_ratio() -> None:
    assert tuple(name.value for name in RatioName) == RATIO_KINDS == tuple(Ratios.model_fields)


def test_the_true_law_wins_and_the_unit_of_d_shows() -> None:
    """The world follows v1 with D in millions; in raw tokens it cannot tell 1 M from 25 M."""
    analysis = analyse(study_of(WORLD), replicates=50, on="wikitext2")
    bare, recovered = analysis.comparisons
    assert recovered.best is not None and recovered.best.name == "v1"
    millions, raw = recovered.law("v1"), recovered.law("v1, raw tokens")
    assert millions is not None and raw is not None
    assert (millions.fit.d_unit, raw.fit.d_unit) == (MILLION, RAW)
    assert millions.fit.aic < raw.fit.aic - 50
    assert millions.fit.parameter("beta").value == pytest.approx(2, abs=0.05)
    assert bare.law("v1, raw tokens") is None
    assert "different values of tokens" in bare.unfitted["P2"]
    assert {error.split for error in millions.held_out} == {"higher ratios", "rolling", "another model"}


def test_analysis_is_the_same_twice() -> None:
    one, two = (analyse(study_of(WORLD), replicates=30, on=MEAN_OF_TASKS) for _ in range(2))
    assert one.comparisons == two.comparisons
    assert {c.kind for c in one.comparisons} == {"accuracy"}


def test_critical_ratios_have_intervals_around_the_closed_form() -> None:
    (_, recovered) = analyse(study_of(WORLD), replicates=60, on="wikitext2").comparisons
    law = recovered.law("v1")
    assert law is not None
    for critical in law.critical:
        assert critical.low is not None and critical.high is not None
        assert critical.low <= critical.ratio <= critical.high
        assert critical.ratio == pytest.approx(critical.kept**0.5 - 1, abs=0.01)


def test_values_of_zero_are_left_out_of_logarithms() -> None:
    study = study_of(replace(WORLD, tasks=("piqa",)))
    zero = study.cells[-1].accuracies[0].model_copy(update={"accuracy": 0.0})
    cells = (*study.cells[:-1], study.cells[-1].model_copy(update={"accuracies": (zero,)}))
    changed = Study(study.folder, cells, (), None)
    log, natural = (
        analyse(changed, scale=scale, replicates=0, on=MEAN_OF_TASKS).comparisons[1].laws[0].fit.n
        for scale in ("log", "natural")
    )
    assert (log, natural) == (59, 60)
