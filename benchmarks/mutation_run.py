"""Do the discriminating tests discriminate? Plants one well-known mistake at a time and runs the test that names it.

    python benchmarks/mutation_run.py

Each mistake is planted in a temporary copy of the sources; the test must pass without it and fail with it. Writes
`mutations_202611.md`; exit code 1 if a mistake survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path(__file__).with_name("mutations_202611.md")
COPIED = ("artifacts", "compressors", "modeling", "tests", "pyproject.toml")


@dataclass(frozen=True, slots=True)
class Mutation:
    """In `file`, `right` is replaced by `wrong`; `test` is a file and a name in tests/compressors."""

    mistake: str
    file: str
    right: str
    wrong: str
    test: tuple[str, str]


MUTATIONS = (
    Mutation(
        "the inverse Hessian is not shrunk between two removals",
        "second_order.py",
        "    inverse.addmm_(rows.T, moves, alpha=-1)\n",
        "",
        ("test_second_order.py", "test_order_and_costs_are_those_of_trying_every_removal"),
    ),
    Mutation(
        "the inverse Hessian is not shrunk between two rounds",
        "second_order.py",
        "        rows.addmm_(gone.index_select(0, columns), gone.T, alpha=-1)\n",
        "",
        ("test_second_order.py", "test_the_updated_weights_are_the_joint_least_squares"),
    ),
    Mutation(
        "the survivors are not moved after a removal",
        "second_order.py",
        "        self._weights.addmm_(added, scaled, alpha=-1)\n",
        "",
        ("test_second_order.py", "test_the_updated_weights_are_the_joint_least_squares"),
    ),
    Mutation(
        "second-order scores are taken once instead of after every removal",
        "methods/obs.py",
        "elimination.remove(evidence.most_removed)",
        "elimination.remove(0)",
        ("test_obs.py", "test_the_second_of_two_twins_stays"),
    ),
    Mutation(
        "the second-order score forgets the inverse Hessian",
        "second_order.py",
        "    return _solve(inverse, products).diagonal",
        "    return products.diagonal",
        ("test_obs.py", "test_a_linear_dependency_is_found_that_wanda_takes_for_important"),
    ),
    Mutation(
        "the repair only slices",
        "compensation.py",
        "    consumer.weight = nn.Parameter(fitted.to(consumer.weight), requires_grad=False)\n",
        "    del fitted\n",
        ("test_compensation.py", "test_a_planted_linear_dependency_is_repaired_exactly"),
    ),
    Mutation(
        "the ridge pulls towards zero instead of towards the sliced weights",
        "compensation.py",
        "(cross + ridge * base)",
        "cross",
        ("test_compensation.py", "test_little_text_fades_into_slicing"),
    ),
    Mutation(
        "FLAP's variance is taken about zero",
        "statistics.py",
        "(self.energy / self.tokens - self.means.square())",
        "(self.energy / self.tokens)",
        ("test_width_methods.py", "test_flap_lets_a_steady_channel_go_first_that_wanda_keeps_longest"),
    ),
    Mutation(
        "FLAP's bias is forgotten",
        "repair.py",
        "        refit_bias(consumer, base, statistics, columns)\n",
        "        pass\n",
        ("test_repair.py", "test_a_constant_stands_in_for_steady_channels"),
    ),
    Mutation(
        "Wanda-sp ignores the activations",
        "methods/wanda_sp.py",
        "consumer.weight.abs().sum(dim=0) * input_norms",
        "consumer.weight.abs().sum(dim=0)",
        ("test_scores.py", "test_wanda_does_not_change_when_scale_moves_from_weight_to_input"),
    ),
    Mutation(
        "Taylor scores one matrix of the group only",
        "methods/taylor.py",
        "in group.producers:",
        "in group.producers[:0]:",
        ("test_width_methods.py", "test_taylor_is_the_derivative_along_each_part_of_the_group"),
    ),
    Mutation(
        "a KV group loses one query head instead of all of them",
        "arch.py",
        "attention.o_proj, queries)",
        "attention.o_proj, self.head_dim)",
        ("test_kv_groups.py", "test_a_group_that_nobody_reads_goes_without_a_trace"),
    ),
)


def main() -> int:
    if fails(tuple(mutation.test for mutation in MUTATIONS), None):
        sys.stderr.write("The tests fail without any planted mistake. Mend that first.\n")
        return 1
    lines, survivors = [], 0
    for mutation in MUTATIONS:
        caught = fails((mutation.test,), mutation)
        survivors += not caught
        name = f"`{mutation.test[0]}::{mutation.test[1]}`"
        lines.append(f"| {mutation.mistake} | `{mutation.file}` | {name} | {'fails' if caught else '**passes**'} |")
        sys.stderr.write(f"{'caught' if caught else 'SURVIVES'}: {mutation.mistake}\n")
    PAGE.write_text(page(lines, survivors), encoding="utf-8")
    return int(survivors > 0)


def fails(tests: tuple[tuple[str, str], ...], planted: Mutation | None) -> bool:
    """Whether a test fails in a copy of the sources; raises RuntimeError if they could not be run at all."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        if planted is not None:
            plant(copy / "compressors" / planted.file, planted)
        nodes = [f"tests/compressors/{file}::{name}" for file, name in tests]
        command = [sys.executable, "-m", "pytest", "-x", "-q", *dict.fromkeys(nodes)]
        outcome = subprocess.run(command, cwd=copy, env=os.environ | {"PYTHONPATH": folder}, capture_output=True)
    if outcome.returncode not in (0, 1):
        raise RuntimeError(outcome.stdout.decode())
    return outcome.returncode == 1


def plant(path: Path, mutation: Mutation) -> None:
    """Raises ValueError unless the right text is there exactly once."""
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.right) != 1:
        raise ValueError(f"{mutation.right!r} is {text.count(mutation.right)} times in {path.name}; it must be once.")
    path.write_text(text.replace(mutation.right, mutation.wrong), encoding="utf-8")


def page(lines: list[str], survivors: int) -> str:
    return "\n".join(
        (
            "# Planted mistakes",
            "",
            "*Question: do the tests that name a mistake fail when it is made?*",
            f"**{'No' if survivors else 'Yes'}: {len(lines) - survivors} of {len(lines)} planted mistakes are caught;"
            " without the mistake every one of these tests passes.**",
            "",
            "| mistake | planted in `compressors/` | test | with the mistake it |",
            "| --- | --- | --- | --- |",
            *lines,
            "",
            "Made by `python benchmarks/mutation_run.py`, which plants each mistake in a copy of the sources.",
            "",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
