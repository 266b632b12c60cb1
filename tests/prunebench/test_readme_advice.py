"""The README's questions: what stands below a command is what it prints, from the committed studies."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.prunebench.conftest import Verb

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ANSWERED = re.findall(r"```\n\$ prunebench (advise [^\n]*)\n(.*?)```", README, re.DOTALL)


def test_there_are_three_questions_of_both_studies() -> None:
    assert len(ANSWERED) == 3
    for command, _ in ANSWERED:
        assert shlex.split(command)[1:3] == ["benchmarks/demo_laws_cpu_202611", "benchmarks/demo_serving_cpu_202611"]


@pytest.mark.parametrize(("command", "answer"), ANSWERED, ids=[command.partition("--")[2] for command, _ in ANSWERED])
def test_an_answer_is_what_the_command_prints(
    command: str, answer: str, verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    outcome = verb(*shlex.split(command))
    assert outcome.code == 0 and outcome.stderr.endswith(answer)
    assert outcome.result["recommended"]["name"] in answer
