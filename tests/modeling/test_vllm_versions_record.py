"""The record of vLLM versions: its page is what the script draws, and what it says of the plug-in is so."""

from __future__ import annotations

import ast
import copy
import importlib.util
import json
import re
import runpy
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEM = ROOT / "benchmarks" / "vllm_versions_202611"
PER_LAYER, STOCK = "tests/modeling/test_served_per_layer.py", "tests/compressors/test_engine.py"
CLASSES = {
    "LlamaAttention": "models/llama.py:LlamaAttention.__init__",
    "LlamaMLP": "models/llama.py:LlamaMLP.__init__",
    "Qwen3Attention": "models/qwen3.py:Qwen3Attention.__init__",
    "RMSNorm": "layers/layernorm.py:RMSNorm.__init__",
}
REPORT = """<testsuites><testsuite>
<testcase name="good" time="2.5"/>
<testcase name="bad" time="1"><failure message="Failed: not healthy:&#10;a&#10;the cause">text</failure></testcase>
<testcase name="left out" time="0"><skipped message="no data"/></testcase>
</testsuite></testsuites>"""
# A Python that has one vLLM, and whose pytest has one case, which passes unless deselected; it keeps what it was asked.
INTERPRETER = """#!/bin/sh
if [ "$1" = -c ]; then
  echo '{{"source": "{source}", "vllm": "0.99.0", "torch": "2", "transformers": "5", "python": "3"}}'
else
  report='{report}'
  for word; do case "$word" in --deselect=*) report='<s/>';; esac; done
  for word; do case "$word" in --junitxml=*) echo "$report" > "${{word#*=}}";; esac; done
  echo "$@" >> {calls}
fi
"""


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "vllm_versions.py"))


@pytest.fixture
def raw() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(STEM.with_suffix(".json").read_text())
    return content


def run(version: str, test: str, *outcomes: str) -> dict[str, Any]:
    cases = [{"name": f"c{i}", "outcome": o, "seconds_s": 2.0, "message": "why"} for i, o in enumerate(outcomes)]
    made_with = {"commit": "a" * 40, "commit_dirty": False}
    facts = {"vllm": version, "torch": "2", "transformers": "5", "setup": "so", "test": test}
    return {**facts, "cases": [{**case, **made_with} for case in cases]}


def test_the_page_is_generated_from_the_raw_data(script: dict[str, Any], raw: dict[str, Any]) -> None:
    assert script["render"](raw) == STEM.with_suffix(".md").read_text()


def test_every_claimed_minor_version_serves_layers_that_differ(script: dict[str, Any], raw: dict[str, Any]) -> None:
    """The claim is the lower bound in pyproject.toml. One family at least ran with each, all with the oldest."""
    oldest = re.search(r'gpu = \["vllm>=0\.(\d+)"\]', (ROOT / "pyproject.toml").read_text())
    assert oldest is not None
    runs = [entry for entry in raw["runs"] if entry["test"] == PER_LAYER and script["has_passed"](entry)]
    assert sorted(int(entry["vllm"].split(".")[1]) for entry in runs) == list(range(int(oldest[1]), 34))
    families = {"llama-tied", "mistral", "qwen2", "qwen3-tied"}
    for entry in runs:
        ran = {re.search(r"\[(.*)\]", case["name"])[1] for case in entry["cases"]}  # type: ignore[index]
        assert {"llama-tied"} <= ran <= families
        assert ran == families or not entry["vllm"].startswith(f"0.{oldest[1]}.")
        assert not any(case["commit_dirty"] for case in entry["cases"])


def test_no_version_is_recorded_twice(raw: dict[str, Any]) -> None:
    keys = [(entry["vllm"], entry["test"]) for entry in raw["runs"]]
    assert len(set(keys)) == len(keys)


def test_what_did_not_pass_says_why(script: dict[str, Any]) -> None:
    good, bad, skipped = script["cases_of"](REPORT)
    assert good == {"name": "good", "outcome": "passed", "seconds_s": 2.5, "message": ""}
    assert (bad["outcome"], bad["message"]) == ("failure", "Failed: not healthy: ... the cause")
    assert (skipped["outcome"], skipped["message"]) == ("skipped", "no data")


@pytest.mark.parametrize(
    ("outcomes", "passed", "cell"),
    [
        (("passed", "passed"), True, "2 of 2, 4 s"),
        (("passed", "failure"), False, "1 of 2, 4 s"),
        (("skipped",), False, "0 of 1, 2 s"),
        ((), False, "0 of 0, 0 s"),
    ],
)
def test_only_what_ran_and_passed_has_passed(
    script: dict[str, Any], outcomes: tuple[str, ...], passed: bool, cell: str
) -> None:
    entry = run("0.30.0", STOCK, *outcomes)
    assert script["has_passed"](entry) is passed
    assert script["_cell"](entry) == cell


def test_a_failure_changes_the_answer_and_is_listed(script: dict[str, Any], raw: dict[str, Any]) -> None:
    worse = copy.deepcopy(raw)
    worse["runs"].append(run("0.100.0", PER_LAYER, "passed", "error"))
    page = script["render"](worse)
    assert "**No: " in page and " Not so: 0.100.0." in page
    assert page.index("| 0.26.0 |") < page.index("| 0.100.0 |")  # by number, not by letter
    assert "| 0.100.0 | 2 | 5 | 1 of 2, 4 s | not run | so |" in page
    assert "* 0.100.0, `c1`: error. why" in page


def test_what_was_not_run_is_said(script: dict[str, Any], raw: dict[str, Any]) -> None:
    raw["runs"] = [run("0.26.1", PER_LAYER, "passed"), run("0.33.0", PER_LAYER, "passed", "passed")]
    page = script["render"](raw)
    assert "**No: 2 of 8 versions pass what was run with them.** Not tried: 0.27, 0.28, 0.29, 0.30, 0.31, 0.32." in page
    assert " Not all families of layers that differ were run with: 0.26.1.\n" in page
    assert "All there are: 2 (layers that differ).\n" in page
    raw["runs"] = [run(f"0.{minor}.0", PER_LAYER, "passed", "passed") for minor in range(26, 34)]
    assert "**Yes: 8 of 8 versions pass what was run with them.**\n" in script["render"](raw)
    del raw["runs"][3]["cases"][1:]
    assert "**So far: 8 of 8 " in script["render"](raw)


def test_signatures_are_read_without_importing(script: dict[str, Any], tmp_path: Path) -> None:
    folder = source_tree(script, tmp_path)
    (folder / "models/qwen3.py").write_text("raise SystemExit\nclass Qwen3Attention:\n    x: int = 1\n")
    found = script["signatures"](folder)
    assert found["models/llama.py:LlamaMLP.__init__"] == "self, one: int=1, *, two=(1, 2)"
    assert found["models/utils.py:extract_layer_index"] == "self, one: int=1, *, two=(1, 2)"
    assert found["models/qwen3.py:Qwen3Attention.forward"] == "absent"


def test_changes_are_named_by_argument(script: dict[str, Any]) -> None:
    name = "f.py:C.go"
    versions = {
        "0.10.0": {name: "self, a: dict[str, Any] | None=None, c=1"},
        "0.9.0": {name: "self, a: dict[str, Any] | None=None, b: int=4, *, c=1"},
        "0.11.0": {name: "absent"},
        "0.12.0": {name: "absent"},
    }
    assert script["changes"](versions) == ["In 0.10.0 `C.go` lost `b: int=4`, `*`.", "0.11.0 has no `C.go`."]


def test_a_passed_case_is_not_run_again(script: dict[str, Any], tmp_path: Path) -> None:
    script["measure"].__globals__["STEM"] = tmp_path / "record"
    python, calls = tmp_path / "python", tmp_path / "calls"
    report = '<s><testcase name="c[1]" time="1"/></s>'
    source_tree(script, tmp_path / "vllm" / "model_executor")
    python.write_text(INTERPRETER.format(source=tmp_path / "vllm", report=report, calls=calls))
    python.chmod(0o755)
    script["measure"](python, "by hand", [STOCK])
    script["measure"](python, "by hand", [STOCK, PER_LAYER], "some")
    first, again, other = calls.read_text().splitlines()
    assert "--deselect" not in first + other and " -k some" in again and " -k some" in other
    assert again.endswith(f"--deselect={STOCK}::c[1]")
    record = json.loads((tmp_path / "record.json").read_text())
    assert [entry["test"] for entry in record["runs"]] == [STOCK, PER_LAYER]
    for entry in record["runs"]:
        assert entry["cases"][0].items() >= next(iter(script["cases_of"](report))).items()
        entry["cases"][0]["outcome"] = "failure"
    (tmp_path / "record.json").write_text(json.dumps(record))
    script["measure"](python, "mended", [STOCK])
    runs = {entry["test"]: entry for entry in json.loads((tmp_path / "record.json").read_text())["runs"]}
    assert [entry["cases"][0]["outcome"] for entry in map(runs.get, (STOCK, PER_LAYER))] == ["passed", "failure"]
    assert "--deselect" not in calls.read_text().splitlines()[-1]


@pytest.mark.parametrize("name", CLASSES)
def test_the_plugin_calls_every_version_as_it_wants_to_be_called(raw: dict[str, Any], name: str) -> None:
    """Every argument given is taken, and every argument without a default is given. CUDA-only versions included."""
    given = arguments_given(name)
    for version, by_name in raw["signatures"].items():
        arguments = ast.parse(f"def f({by_name[CLASSES[name]]}): ...").body[0].args  # type: ignore[attr-defined]
        names = [argument.arg for argument in arguments.args][1:]
        required = names[: len(names) - len(arguments.defaults)]
        assert given <= set(names), (version, name)
        assert set(required) <= given | {"hidden_size"}, (version, name)


def test_the_record_describes_the_installed_vllm(script: dict[str, Any], raw: dict[str, Any]) -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("vLLM is not installed")
    version = metadata.version(metadata.packages_distributions()["vllm"][0])
    if version not in raw["signatures"]:
        pytest.skip(f"vLLM {version} is not in the record")
    folder = Path(found.submodule_search_locations[0]) / "model_executor"
    assert script["signatures"](folder) == raw["signatures"][version]


def source_tree(script: dict[str, Any], folder: Path) -> Path:
    """Files in which every function relied on takes the same."""
    for file, name in script["RELIED_ON"]:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        above, _, function = name.rpartition(".")
        line = f"def {function}(self, one: int = 1, *, two=(1, 2)): ...\n"
        old = path.read_text() if path.exists() else ""
        path.write_text(f"{old}class {above}:\n    {line}" if above else old + line)
    return folder


def arguments_given(name: str) -> set[str]:
    """Keywords of the calls of `name` in modeling/vllm.py; those of a dictionary given as a whole are its keys."""
    tree = ast.parse((ROOT / "modeling" / "vllm.py").read_text())
    dictionaries = {
        node.targets[0].id: {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and isinstance(node.targets[0], ast.Name)
    }
    return {word for call in calls_of(tree, name) for word in words_of(call, dictionaries)}


def calls_of(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node


def words_of(call: ast.Call, dictionaries: dict[str, set[str]]) -> Iterator[str]:
    for keyword in call.keywords:
        if keyword.arg is not None:
            yield keyword.arg
        elif isinstance(keyword.value, ast.Name):
            yield from dictionaries[keyword.value.id]
