"""schemathesis as a program of its own, against a server that runs: does it keep what its `/openapi.json` promises?

In this process its plug-in for pytest would not live with warnings as errors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES = 20
ANSWERED_WITHIN_S = 10
# Most requests name a variant that is there. What a forwarded route wants besides `model` is not in our schema but its
# worker's to say: there alone a request that fits the schema may be refused with 400 and 404.
SETTINGS = """
[dictionaries.names]
values = {names}

[parameters]
"body.model" = {{ dictionary = "names", probability = 0.8 }}
"path.name" = {{ dictionary = "names", probability = 0.8 }}
"query.variant" = {{ dictionary = "names", probability = 0.5 }}

[[operations]]
include-tag = "forwarded"

[operations.checks.positive_data_acceptance]
expected-statuses = ["200", "400", "404"]
"""


@dataclass(frozen=True)
class Fuzzed:
    """schemathesis' own report of one run."""

    report: dict[str, Any]

    @property
    def requests(self) -> int:
        return int(self.report["test_cases"]["generated"])

    @property
    def faults(self) -> list[Any]:
        """Every broken promise, and whatever kept it from trying."""
        return [*self.report["failures"], *self.report["errors"]]

    def accepted(self, operation: str) -> int:
        """How many requests that fit the schema had success."""
        return sum(phase["accepted"] for phase in self.report["valid_rates"][operation].values())


def fuzz_command(folder: Path, url: str, names: Sequence[str], *chosen: str) -> list[str]:
    """All checks on what is `chosen`, the same requests each time. Afterwards `fuzzed` in this folder has the result.

    `names`: of variants that are there.
    """
    settings = folder / "schemathesis.toml"
    settings.write_text(SETTINGS.format(names=json.dumps(names)))
    run = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run", f"{url}/openapi.json"]
    bounds = ["--max-examples", str(EXAMPLES), "--request-timeout", str(ANSWERED_WITHIN_S), "--no-shrink"]
    # Of how long drawing a request takes on a busy machine.
    bounds += ["--suppress-health-check", "all"]
    told = ["--report", "json", "--report-json-path", str(folder / "report.json"), "--no-color"]
    return [*run, *chosen, *bounds, *told, "--checks", "all", "--generation-deterministic"]


def fuzzed(folder: Path) -> Fuzzed:
    return Fuzzed(json.loads((folder / "report.json").read_text()))
