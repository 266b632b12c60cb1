"""Bad input: one sentence on stderr, exit code 2, nothing under a final name."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.prunebench.conftest import MODEL, Verb


def refused(outcome_code: int, stderr: str, *words: str) -> None:
    """Exit code 2 and an error that holds the words, in one or two short sentences."""
    assert outcome_code == 2, stderr
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert [word for word in words if word not in last] == []
    assert "Traceback" not in stderr


def not_a_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing here")
    return folder


def unsupported(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    return folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder, ("model",)),
        (not_a_model, ("config.json",)),
        (unsupported, ("GPT2LMHeadModel", "LlamaForCausalLM")),
    ],
    ids=["missing folder", "not a model", "unsupported architecture"],
)
def test_models_that_are_none(verb: Verb, tmp_path: Path, make: Callable[[Path], Path], words: tuple[str, ...]) -> None:
    model = make(tmp_path / "given")
    outcome = verb("compress", model, "--out", tmp_path / "out", "--method", "magnitude", "--ratio", 0.5)
    refused(outcome.code, outcome.stderr, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_ratio_outside_its_range(verb: Verb, tmp_path: Path, ratio: float) -> None:
    outcome = verb("compress", MODEL, "--out", tmp_path / "out", "--method", "magnitude", "--ratio", ratio)
    refused(outcome.code, outcome.stderr, f"{ratio:g}", "at least 0 and below 1")


def test_width_that_cannot_be_rounded(verb: Verb, tmp_path: Path) -> None:
    outcome = verb(
        *("compress", MODEL, "--out", tmp_path / "out", "--method", "magnitude", "--ratio", 0.5, "--units", "ffn"),
        *("--multiple-of", 1024),
    )
    refused(outcome.code, outcome.stderr, "1024", "768")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "short"], ids=["empty text", "text shorter than one window"])
def test_calibration_text_that_is_too_little(verb: Verb, tmp_path: Path, content: str) -> None:
    text = tmp_path / "text.txt"
    text.write_text(content)
    outcome = verb(
        *("compress", MODEL, "--out", tmp_path / "out", "--method", "wanda_sp", "--ratio", 0.5),
        *("--calibration", text),
    )
    refused(outcome.code, outcome.stderr, "text.txt")
    assert not (tmp_path / "out").exists()


def test_output_that_exists_is_kept(verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    outcome = verb("compress", MODEL, "--out", tmp_path / "out", "--method", "magnitude", "--ratio", 0.5)
    refused(outcome.code, outcome.stderr, "already exists")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_damaged_shard(verb: Verb, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    shard = model / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:100_000])
    outcome = verb("compress", model, "--out", tmp_path / "out", "--method", "magnitude", "--ratio", 0.5)
    refused(outcome.code, outcome.stderr, "model.safetensors")
    assert not (tmp_path / "out").exists()


def test_taken_port_is_said_before_an_engine_starts(verb: Verb) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = verb("serve", MODEL, "--port", port)
    refused(outcome.code, outcome.stderr, str(port))


def test_model_that_does_not_fit(verb: Verb, tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(f'[[variants]]\nname = "dense"\nmodel = "{MODEL}"\nkv_cache_bytes = {1 << 50}\n')
    outcome = verb("serve", fleet, "--port", free_port())
    refused(outcome.code, outcome.stderr, "dense", "memory")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--concurrency", 2, "--rate", 3), ("--concurrency", "--rate")),
        ((), ("--concurrency", "--rate")),
        (("--concurrency", 2), ("127.0.0.1:9",)),
    ],
    ids=["both loads", "no load", "server unreachable"],
)
def test_load_tests_that_cannot_run(
    verb: Verb, tmp_path: Path, arguments: tuple[object, ...], words: tuple[str, ...]
) -> None:
    outcome = verb(
        *("loadtest", "--url", "http://127.0.0.1:9", "--model", "dense", "--out", tmp_path / "run", *arguments)
    )
    refused(outcome.code, outcome.stderr, *words)
    assert list(tmp_path.iterdir()) == []


def test_report_of_nothing(verb: Verb, tmp_path: Path) -> None:
    outcome = verb("report", tmp_path / "no-run", "--out", tmp_path / "report.html")
    refused(outcome.code, outcome.stderr, "no-run")
    assert list(tmp_path.iterdir()) == []


def test_demo_folder_of_somebody_else_is_kept(verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "variants").mkdir()
    outcome = verb("demo", "--out", tmp_path)
    refused(outcome.code, outcome.stderr, "was not made by the demo")
    assert (tmp_path / "variants").is_dir()
