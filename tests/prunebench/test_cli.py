"""The command line: fast help, lazy imports, one JSON object on the last line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from artifacts.errors import ConfigError
from artifacts.keys import Role
from compressors.allocation import ALLOCATORS
from compressors.methods import REGISTRY
from prunebench.choices import Allocation, KeyRole, Method, parse_step, parse_units
from tests.prunebench.conftest import MODEL, Verb

VERBS = ("compress", "recover", "evaluate", "serve", "key", "loadtest", "search", "sweep", "report", "demo")


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    """Under 0.5 s of processor time: wall time would measure the neighbours on a busy machine."""
    program = (
        "import sys, time, resource\n"
        "sys.argv = ['prunebench', '--help']\n"
        "from prunebench.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "use = resource.getrusage(resource.RUSAGE_SELF)\n"
        "heavy = {'torch', 'peft', 'transformers', 'vllm', 'locust', 'fastapi', 'plotly', 'numpy'} & set(sys.modules)\n"
        "sys.stderr.write(f'{use.ru_utime + use.ru_stime} {sorted(heavy)}')\n"
    )
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(3)]
    cpu_s = min(float(run.stderr.split()[0]) for run in runs)
    assert cpu_s < 0.5
    assert runs[0].stderr.endswith(" []")
    assert all(name in runs[0].stdout for name in VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_teaches_itself(verb: Verb, name: str) -> None:
    outcome = verb(name, "--help")
    assert outcome.code == 0
    assert "--out" in outcome.stdout or name in ("evaluate", "serve", "key")
    assert f" {name} [OPTIONS]" in outcome.stdout


def test_offered_methods_are_the_registered_ones() -> None:
    assert {method.value for method in Method} == set(REGISTRY.names)
    assert [allocation.value for allocation in Allocation] == [allocator.name for allocator in ALLOCATORS]
    assert [role.value for role in KeyRole] == [*get_args(Role)]


@pytest.mark.parametrize(
    ("given", "units"),
    [(None, None), ("ffn", ("ffn",)), ("ffn,kv", ("ffn", "kv")), ("kv, ffn", ("kv", "ffn")), ("layers", ("layers",))],
)
def test_units(given: str | None, units: tuple[str, ...] | None) -> None:
    assert parse_units(given) == units


@pytest.mark.parametrize("given", ["", "heads", "ffn,ffn", "ffn;kv"])
def test_units_that_are_none(given: str) -> None:
    with pytest.raises(ConfigError, match="Allowed: ffn, kv"):
        parse_units(given)


def test_units_of_the_residual_stream_and_of_halves() -> None:
    assert parse_units("attention_sublayers, ffn_sublayers") == ("attention_sublayers", "ffn_sublayers")
    assert parse_units("hidden") == ("hidden",)


@pytest.mark.parametrize(
    ("given", "method", "ratio", "units"),
    [
        ("wanda_sp:0.5", "wanda_sp", 0.5, None),
        ("wanda_sp:0.5:ffn,kv", "wanda_sp", 0.5, ("ffn", "kv")),
        ("greedy_kl:0.1:attention_sublayers", "greedy_kl", 0.1, ("attention_sublayers",)),
    ],
)
def test_a_further_step(given: str, method: str, ratio: float, units: tuple[str, ...] | None) -> None:
    assert parse_step(given) == {"method": method, "ratio": ratio, "units": units, "settings": ()}


@pytest.mark.parametrize("given", ["", "wanda_sp", "wanda_sp:half", "wanda_sp::ffn"])
def test_steps_that_are_none(given: str) -> None:
    with pytest.raises(ConfigError, match=r"is not METHOD:RATIO\[:UNITS\]"):
        parse_step(given)


def test_depth_then_width(verb: Verb, tmp_path: Path, text: Path) -> None:
    out = tmp_path / "both"
    made = verb(
        *("compress", MODEL, "--out", out, "--method", "block_influence", "--ratio", 0.25),
        *("--then", "wanda_sp:0.5:ffn", "--calibration", text, "--calibration-tokens", 1024),
    )
    assert made.code == 0, made.stderr
    config = json.loads((out / "config.json").read_text())
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (6, 384)
    assert made.result["ratios"]["kv_bytes_per_token"] == 0.25
    refused = verb(
        "compress", MODEL, "--out", tmp_path / "c", "--method", "random", "--ratio", 0.2, "--then", "flip:0.1"
    )
    assert refused.code == 2 and "method 'flip' is unknown" in refused.stderr


def test_compress_then_evaluate_and_record(verb: Verb, tmp_path: Path, text: Path) -> None:
    out = tmp_path / "ffn-25"
    made = verb(
        *("compress", MODEL, "--out", out, "--method", "wanda_sp", "--ratio", 0.25, "--units", "ffn"),
        *("--calibration", text, "--calibration-tokens", 2048, "--multiple-of", 16),
    )
    assert made.code == 0, made.stderr
    assert made.result["ratios"]["nominal"] == 0.25
    assert json.loads((out / "config.json").read_text())["intermediate_size"] == 576
    measured = verb(
        *("evaluate", out, "--text", text, "--reference", MODEL, "--length", 128, "--max-tokens", 1024, "--record")
    )
    assert measured.code == 0, measured.stderr
    assert measured.result["kl_nats"] > 0
    assert measured.result["tokens"] <= 1024
    recorded = {q["metric"]: q["value"] for q in json.loads((out / "variant.json").read_text())["quality"]}
    assert recorded["loss_nats"] == measured.result["loss_nats"]


def test_relative_paths_mean_the_working_directory(verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = verb("compress", MODEL, "--out", "variants/half", "--method", "magnitude", "--ratio", 0.5)
    assert made.code == 0, made.stderr
    assert (tmp_path / "variants" / "half" / "variant.json").is_file()


def test_evaluating_a_model_against_itself_finds_no_divergence(verb: Verb, text: Path) -> None:
    measured = verb("evaluate", MODEL, "--text", text, "--reference", MODEL, "--length", 128, "--max-tokens", 512)
    assert measured.result["kl_nats"] == pytest.approx(0, abs=1e-6)
    assert measured.result["top1_agreement"] == 1
