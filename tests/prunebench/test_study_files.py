"""The studies that come with the project are valid and have the cells they promise."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from artifacts.study import PaperSpeed, ServingSpeed
from prunebench.study.cost import known_params, learn
from prunebench.study.demo_corpus import demo_text, line_end_questions
from prunebench.study.run import OpenStudy, open_study

STUDIES = Path(__file__).parents[2] / "studies"


def opened(name: str, *, needs_texts: bool = True) -> OpenStudy:
    return open_study(STUDIES / f"{name}.toml", needs_texts=needs_texts)


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_study_can_be_planned(path: Path) -> None:
    study = open_study(path, needs_texts=False)
    prices = learn(known_params(study.file.models, study.folder, ()), study.plans, ())
    assert len({plan.cell for plan in study.plans}) == len(study.plans) > 5
    assert prices.total_s(study.plans) > 60


def test_laws_on_the_demo_model_need_nothing_but_the_demo() -> None:
    study = opened("demo-laws")
    kinds = Counter((plan.at.method, plan.at.recovery_tokens) for plan in study.plans)
    assert len(study.plans) >= 100
    assert kinds["random", 0] == kinds["obs", 0] == kinds["hidden_slice", 0] == 9 * 3
    assert kinds["random", 25_000] == 5 * 3 and kinds["random", 100_000] == 5
    assert {plan.at.seed for plan in study.plans} == {0, 1, 2}
    named = {text for plan in study.plans for text in plan.sources}
    assert named == {"demo:calibration", "demo:held_out", "demo:line_ends"}


def test_the_papers_grid_is_the_papers() -> None:
    study = opened("paper-grid", needs_texts=False)
    assert len(study.file.models) == 8 and {plan.device for plan in study.plans} == {"cuda"}
    assert {plan.at.ratio for plan in study.plans} == {0.0, *(n / 10 for n in range(1, 10))}
    budgets = {plan.at.recovery_tokens for plan in study.plans if plan.recovery}
    assert min(budgets) == 1_000_000 and max(budgets) == 25_000_000
    with pytest.raises(ConfigError, match="does not exist, and the study names it as a text"):
        opened("paper-grid")


def test_the_headline_on_a_gpu_comes_first_and_takes_ten_minutes() -> None:
    study = opened("h200-shapes")
    prices = learn(known_params(study.file.models, study.folder, ()), study.plans, ())
    first = study.plans[:6]
    models = ("qwen2.5-14b", "qwen2.5-7b", "llama-3-8b")
    assert [(plan.at.model, plan.at.method, plan.at.ratio) for plan in first] == [
        each for model in models for each in ((model, "dense", 0.0), (model, "ffn", 0.9))
    ]
    assert prices.total_s(first) <= 570, "and the engines must end within the ten minutes"
    (levels,) = {speed.levels for plan in first for speed in plan.speeds if isinstance(speed, ServingSpeed)}
    assert [level.concurrency for level in levels] == [1, 32]
    second = study.plans[6:11]
    assert {plan.round for plan in second} == {2} and {plan.at.model for plan in second} == {"qwen2.5-14b"}
    assert {plan.at.method for plan in second} == {"ffn", "depth", "kv", "per_layer", "fp8"}
    assert all(prices.of(plan).total_s < 200 for plan in second), "a minute more is a cell more"
    assert all(prices.of(plan).total_s < 800 for plan in study.plans)


def test_every_shape_is_measured_in_every_way_on_a_gpu() -> None:
    study = opened("h200-shapes")
    whole = [plan for plan in study.plans if plan.round is None and not plan.at.is_dense]
    assert Counter(plan.at.model for plan in whole) == {model.name: 9 for model in study.file.models}
    pruned = {(plan.at.method, plan.at.ratio) for plan in whole}
    assert pruned >= {*(("ffn", r) for r in (0.3, 0.5, 0.7, 0.9)), ("depth", 0.25), ("depth", 0.5), ("kv", 0.5)}
    for plan in whole:
        assert [speed.tokens for speed in plan.speeds if isinstance(speed, PaperSpeed)] == [2048]
        served = {speed.name: speed for speed in plan.speeds if isinstance(speed, ServingSpeed)}
        decoding = [*served["decode"].levels, *served["loaded"].levels]
        assert [level.concurrency for level in decoding] == [1, 8, 32, 128, 256]
        assert served["prefill"].prompt_tokens == 2048 and served["prefill"].output_tokens == 16
        is_large = plan.at.model in ("qwen2.5-14b", "qwen2.5-7b", "llama-3-8b")
        assert ("equal_memory" in served) == (is_large and plan.at.method != "per_layer")
    fairness = {speed.fairness for plan in whole for speed in plan.speeds if isinstance(speed, ServingSpeed)}
    assert fairness == {"kv", "memory"}


def test_the_raw_data_of_a_level_can_be_carried_home() -> None:
    """16 MiB a file, at two bytes a token (`artifacts.run` says why) and 300 tokens/s for each stream."""
    study = opened("h200-shapes")
    for speed in study.file.speeds:
        if isinstance(speed, ServingSpeed):
            streams = max(level.concurrency or 0 for level in speed.levels)
            load_s = 3 * speed.blocks * (speed.window_s + speed.warmup_s)
            assert streams * 300 * load_s * 2.2 < 16 << 20, speed.name


def test_the_tiny_twin_asks_for_the_same_kinds_of_cells() -> None:
    tiny, real = opened("tiny-shapes"), opened("h200-shapes")

    def kinds(study: OpenStudy) -> set[object]:
        methods = {(method.method, method.units, method.allocation) for method in study.file.methods}
        served = [speed for speed in study.file.speeds if isinstance(speed, ServingSpeed)]
        return methods | {(speed.name, speed.fairness, speed.round) for speed in served if speed.round != 2}

    assert kinds(tiny) == kinds(real)
    assert any(isinstance(speed, PaperSpeed) for speed in tiny.file.speeds)


def test_questions_from_the_demos_text_have_one_right_answer() -> None:
    questions = [json.loads(line) for line in line_end_questions().splitlines()]
    assert len(questions) >= 160 and line_end_questions() == line_end_questions()
    text = " ".join(demo_text("demo:held_out").split())
    assert {len(question["choices"]) for question in questions} == {4}
    assert Counter(question["gold"] for question in questions).keys() == {0, 1, 2, 3}
    for question in questions:
        right = question["choices"][question["gold"]]
        last = question["query"].splitlines()[-1]
        assert " ".join(f"{last} {right}".split()) in text
    assert max(Counter(question["gold"] for question in questions).values()) < 0.4 * len(questions)
