"""`prunebench recover` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from artifacts.variant import load_variant
from compressors.recovery.methods import METHODS
from prunebench.choices import RecoveryMethod
from tests.prunebench.conftest import MODEL, Outcome, Verb

SMALL = ("--tokens", 512, "--batch-tokens", 512)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Six documents of some 400 tokens."""
    path = tmp_path / "documents.txt"
    pieces = ("\n".join(f"def f_{d}_{i}(value):\n    return value + {i}\n" for i in range(30)) for d in range(6))
    path.write_text("\n<|endoftext|>\n".join(pieces))
    return path


@pytest.fixture
def variant(verb: Verb, tmp_path: Path) -> Path:
    made = verb("compress", MODEL, "--out", tmp_path / "half", "--method", "magnitude", "--ratio", 0.5)
    assert made.code == 0, made.stderr
    return tmp_path / "half"


def refused(outcome: Outcome, *words: str) -> None:
    """Exit code 2 and one error line that holds the words."""
    assert outcome.code == 2, outcome.stderr
    last = outcome.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in outcome.stderr
    assert [word for word in words if word not in last] == []
    assert outcome.stdout == ""


def test_offered_methods_are_the_registered_ones() -> None:
    assert [method.value for method in RecoveryMethod] == list(METHODS)


def test_recover_writes_a_variant_with_its_curve(verb: Verb, tmp_path: Path, variant: Path, documents: Path) -> None:
    out = tmp_path / "healed"
    outcome = verb(
        *("recover", variant, "--out", out, "--method", "distillation", "--teacher", MODEL, "--text", documents),
        *(*SMALL, "--trainable", "lora", "--rank", 4, "--learning-rate", 0.001, "--seed", 2, "--device", "cpu"),
    )
    assert outcome.code == 0, outcome.stderr
    assert outcome.result["out"] == str(out) and len(outcome.stdout.splitlines()) == 1
    recovery = outcome.result["recovery"]
    assert recovery == json.loads((out / "variant.json").read_text())["recovery"]
    assert (recovery["seed"], recovery["tokens"], recovery["steps"]) == (2, 512, 1)
    assert recovery["config"]["trainable"] == "lora" and recovery["config"]["rank"] == 4
    assert recovery["config"]["learning_rate"] == 0.001
    assert {"recovery.json", "recovery.html"} <= load_variant(out).checksums.keys()
    assert f"{recovery['loss_before_nats']:.3f} →" in (out / "recovery.html").read_text()
    assert "train: 100 %" in outcome.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents.txt", "half", "healed"]


def test_evaluated_text_is_refused_by_name(verb: Verb, tmp_path: Path, variant: Path, documents: Path) -> None:
    assert verb("evaluate", variant, "--text", documents, "--max-tokens", 64, "--record").code == 0
    asked = ("recover", variant, "--out", tmp_path / "healed", "--method", "lora", "--text", documents, *SMALL)
    refused(verb(*asked), "documents.txt", "half", "--allow-evaluated-text")
    assert not (tmp_path / "healed").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "distillation"), ("--teacher",)),
        (("--method", "full", "--rank", 8), ("full", "rank", "learning_rate")),
        (("--method", "lora", "--tokens", 0), ("above 0",)),
        (("--method", "lora", "--learning-rate", -1), ("above 0",)),
    ],
)
def test_bad_options_are_one_sentence(
    verb: Verb, tmp_path: Path, variant: Path, documents: Path, options: tuple[object, ...], words: tuple[str, ...]
) -> None:
    refused(verb("recover", variant, "--out", tmp_path / "healed", "--text", documents, *options), *words)
    assert not list(tmp_path.glob("healed*"))


def test_adapters_cost_nothing_until_they_are_used() -> None:
    """Importing PEFT takes seconds: neither the methods' list nor the request does it."""
    program = "import sys, compressors.recovery.recover; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
