"""`evaluate`: text, tasks or both; what is printed is what is recorded; options that nothing would use are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifacts.variant import load_variant
from tests.prunebench.conftest import MODEL, Verb


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = [
        {"query": f"def f_{i}(value):", "choices": ["    return value", "zebra quill"], "gold": int(i % 4 == 3)}
        for i in range(8)
    ]
    path = tmp_path / "returns.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def variant(verb: Verb, tmp_path: Path) -> Path:
    out = tmp_path / "half"
    made = verb("compress", MODEL, "--out", out, "--method", "magnitude", "--ratio", 0, "--units", "ffn")
    assert made.code == 0, made.stderr
    return out


def test_tasks_and_text_are_printed_and_recorded(verb: Verb, variant: Path, questions: Path, text: Path) -> None:
    pytest.importorskip("lm_eval", reason="the eval extra is not installed")
    measured = verb(
        *("evaluate", variant, "--text", text, "--reference", MODEL, "--length", 128, "--max-tokens", 256),
        *("--task", questions, "--limit", 6, "--record"),
    )
    assert measured.code == 0, measured.stderr
    (task,) = measured.result["tasks"]
    assert (task["task"], task["questions"], task["through"]) == ("returns", 6, "transformers")
    assert task["scores"]["acc"]["value"] == pytest.approx(5 / 6), "returning a value is likelier than a zebra"
    assert measured.result["js_nats"] == pytest.approx(0, abs=1e-6)
    recorded = {(record.metric, record.task): record.value for record in load_variant(variant).quality}
    assert recorded["acc", "returns"] == task["scores"]["acc"]["value"]
    assert recorded["js_nats", None] == measured.result["js_nats"]
    assert {metric for metric, name in recorded if name is None} == {
        *("loss_nats", "perplexity", "kl_nats", "js_nats", "top1_agreement")
    }
    assert "score returns: 100 %" in measured.stderr


def test_a_task_needs_no_text(verb: Verb, questions: Path) -> None:
    pytest.importorskip("lm_eval", reason="the eval extra is not installed")
    measured = verb("evaluate", MODEL, "--task", questions)
    assert list(measured.result) == ["tasks"]
    assert measured.result["tasks"][0]["scores"]["acc"]["value"] == pytest.approx(6 / 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("--text FILE", "--task NAME")),
        (("--text", "t", "--limit", 5), ("--limit has no effect without --task",)),
        (("--text", "t", "--url", "http://127.0.0.1:9"), ("--url has no effect without --task",)),
        (("--task", "q.jsonl", "--reference", MODEL), ("--reference has no effect without --text",)),
        (("--task", "q.jsonl", "--max-tokens", 5), ("--max-tokens has no effect without --text",)),
        (("--task", "q.jsonl", "--model", "dense"), ("--model", "needs --url")),
    ],
)
def test_options_that_nothing_would_use(verb: Verb, options: tuple[object, ...], words: tuple[str, ...]) -> None:
    outcome = verb("evaluate", MODEL, *options)
    assert outcome.code == 2 and outcome.stderr.startswith("error: ")
    assert [word for word in words if word not in outcome.stderr] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--limit", 0), ("limit 0", "1 or more")),
        (("--url", "http://127.0.0.1:9"), ("http://127.0.0.1:9", "Start the server")),
        (("--task", "no-such-task-anywhere.jsonl"), ("no-such-task-anywhere.jsonl",)),
        (("--text", "none.txt"), ("none.txt does not exist",)),
        (("--record",), ("variant.json",)),
    ],
)
def test_bad_values(verb: Verb, questions: Path, options: tuple[object, ...], words: tuple[str, ...]) -> None:
    pytest.importorskip("lm_eval", reason="the eval extra is not installed")
    outcome = verb("evaluate", MODEL, "--task", questions, *options)
    assert outcome.code == 2
    last = outcome.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and [word for word in words if word not in last] == []
    assert outcome.stdout == "", "nothing is measured before what was given is found good"
