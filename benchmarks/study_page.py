"""What did the studies of the demo model find? Verdicts on the papers' claims first, then what they rest on.

    python benchmarks/study_page.py [--render-only]

Reads the committed cells of the study of laws and of the one that serves, fits and judges them together as `prunebench
study report` does, and writes the raw data and the page.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.study import CellRecord
from artifacts.units import format_seconds
from benchmarks.pages import draw_page, made_with, page_parser, write_raw
from benchmarks.study_cost import costs_of
from laws.claims.catalogue import CLAIMS
from laws.claims.claim import Number
from laws.claims.evidence import grouped
from laws.studies.comparison import analyse
from laws.studies.findings import find
from laws.studies.joining import join
from laws.studies.records import MEAN_OF_TASKS, Study, accuracy_of, loss_of, measured_on, method_label, read_study
from laws.studies.report import format_number, short_number
from laws.studies.speeds import speed_points

STEM = Path(__file__).with_name("demo_laws_cpu_202611")
SERVING = Path(__file__).with_name("demo_serving_cpu_202611")
UNTESTABLE = "not testable here"
PICTURES = {
    "loss": "Loss over the dense loss against the ratio, with the law that was least wrong at ratios it had not seen",
    "accuracy": "Accuracy over the dense accuracy",
    "recovery": "The share of the pruned model's loss that recovery takes away",
    "critical": "Up to which ratio quality is kept: by the laws, and as seen",
    "paper-speed": "Speed of a forward pass",
    "serving-speed": "Speed when served",
    "load": "Speed-up against the load, darker for larger ratios",
    "adjusted": "Speed-up times the share of accuracy that is kept",
    "residuals": "What two laws leave over",
}


def main() -> None:
    if not page_parser(__doc__).parse_args().render_only:
        write_raw(STEM, measured([read_study(STEM), read_study(SERVING)]))
    draw_page(STEM, render)


def measured(studies: Sequence[Study]) -> dict[str, Any]:
    """All that the page says, from the cells."""
    together = reduce(join, studies)
    return {
        "studies": [_told(study) for study in studies],
        "findings": find(analyse(together)).model_dump(mode="json"),
        "values": list(_values(together)),
        "speeds": list(_speeds(together)),
        "pictures": sorted(path.stem for path in (STEM / "pictures").glob("*.png")),
    }


def _told(study: Study) -> dict[str, Any]:
    where = {"folder": study.folder.name, "measured_on": measured_on(study.cells), "failed": len(study.failed)}
    # The file has the folder's name without the machine and the month.
    return where | {"file": "-".join(study.folder.name.split("_")[:-2]), "cost": costs_of(study)}


def _values(study: Study) -> Iterator[dict[str, Any]]:
    """Means over seeds by method, budget and ratio: loss on each text, accuracy on all tasks."""
    kinds: list[tuple[str, str, Callable[[CellRecord, str], tuple[float, float] | None]]]
    kinds = [("loss", name, loss_of) for name in study.loss_sets]
    kinds += [("accuracy", MEAN_OF_TASKS, accuracy_of)] if study.tasks else []
    arms = grouped(study.cells, lambda cell: (method_label(cell), cell.recovery, cell.recovery_tokens, cell.ratio))
    for kind, name, value_of in kinds:
        for (method, recovery, tokens, ratio), cells in arms.items():
            found = [pair[0] for cell in cells if (pair := value_of(cell, name))]
            if found:
                spread = stdev(found) if len(found) > 1 else None
                where = {"kind": kind, "name": name, "method": method, "recovery": recovery, "tokens": tokens}
                yield where | {"ratio": ratio, "mean": fmean(found), "spread": spread, "n": len(found)}


def _speeds(study: Study) -> Iterator[dict[str, Any]]:
    for point in speed_points(study):
        at = point.at.model_dump(include={"mode", "level", "quantity", "speedup", "low", "high", "pairs"})
        yield {"method": point.method, "ratio": point.cell.ratio} | at


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    found = raw["findings"]
    folders = " ".join(f"benchmarks/{study['folder']}" for study in raw["studies"])
    parts = [
        "# The laws of pruning, measured on the demo model",
        "\n".join(_opening(study) for study in raw["studies"]),
        *_verdicts(found["verdicts"]),
        *_measurements(raw),
        *_laws(found["comparisons"]),
        *_pictures(raw),
        "## What it takes",
        *(_cost(study) for study in raw["studies"]),
        "## Where this comes from",
        "Every cell is a file. Pages and tables are made from them:",
        f"```\nprunebench study report {folders} --out report.html\n"
        f"prunebench study results benchmarks/{raw['studies'][0]['folder']} --out tables\n```",
        f"First cell: {made_with(found['provenance'])}.",
    ]
    return "\n\n".join(parts) + "\n"


def _opening(study: dict[str, Any]) -> str:
    failed = f", {study['failed']} failed" if study["failed"] else ", none failed"
    return (
        f"* `prunebench study run studies/{study['file']}.toml`: {study['cost']['cells']} cells in "
        f"[`{study['folder']}/cells`]({study['folder']}/cells){failed}; {study['measured_on']}."
    )


def _verdicts(verdicts: Sequence[dict[str, Any]]) -> Iterator[str]:
    tested = [verdict for verdict in verdicts if verdict["verdict"] != UNTESTABLE]
    yield "## The papers' claims"
    counts = Counter(_word(verdict) for verdict in verdicts)
    yield f"{', '.join(f'{count} {word}' for word, count in sorted(counts.items()))}."
    yield (
        "A claim is supported if its number lies in the range with all of its 95 % interval; **refuted** says that all "
        "of the interval lies outside, **open** that it reaches beyond. One row for each method, text and load level "
        "that the claim can be asked of. The claims and their ranges are in `laws/claims/catalogue.py`."
    )
    rows = [["claim", "asked of", "verdict", "numbers with 95 % intervals", "n", "holds if", "conditions"]]
    yield _table(rows + [_verdict_row(verdict) for verdict in tested])
    untested: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict["verdict"] == UNTESTABLE and verdict["reason"] not in untested.setdefault(verdict["claim"], []):
            untested[verdict["claim"]].append(verdict["reason"])
    if untested:
        yield "Not testable here:"
        yield "\n".join(f"* {claim}, {_statement(claim)}: {' '.join(why)}" for claim, why in untested.items())


def _verdict_row(verdict: dict[str, Any]) -> list[str]:
    numbers = [Number.parse(number, "a number") for number in verdict["numbers"]]
    mode = f", {verdict['mode']} mode" if verdict["mode"] else ""
    return [
        f"{verdict['claim']}: {_statement(verdict['claim'])}",
        f"{verdict['scope']}{mode}",
        _word(verdict),
        "; ".join(format_number(number) for number in numbers),
        ", ".join(dict.fromkeys(str(number.n) for number in numbers)),
        verdict["threshold"],
        verdict["conditions"],
    ]


def _word(verdict: dict[str, Any]) -> str:
    words = {"refuted": "not supported: **refuted**", "open": "not supported: **open**"}
    told = words.get(verdict["certainty"], str(verdict["verdict"]))
    return f"{told} (no interval)" if verdict["certainty"] == "no interval" else told


def _statement(claim: str) -> str:
    return next(each.statement for each in CLAIMS if each.id == claim)


def _measurements(raw: dict[str, Any]) -> Iterator[str]:
    yield "## What was measured"
    for (kind, name), rows in grouped(raw["values"], lambda row: (row["kind"], row["name"])).items():
        dense = next(row for row in rows if row["ratio"] == 0)
        unit = "nats per token" if kind == "loss" else "of the questions"
        yield f"**{kind.capitalize()}, {name}**, {unit}: dense {dense['mean']:.3f}; means ± deviations over seeds."
        yield _table(_by_ratio([row for row in rows if row["ratio"] > 0], _arm, _mean))
    for (mode, level), rows in grouped(raw["speeds"], lambda row: (row["mode"], row["level"])).items():
        yield f"**Speed-up over the dense model, {mode} mode, {level}**, with 95 % intervals over {_pairs(rows)} pairs:"
        yield _table(_by_ratio(rows, lambda row: str(row["method"]), _speedup))


def _by_ratio(
    rows: Sequence[dict[str, Any]], arm_of: Callable[[dict[str, Any]], str], told: Callable[[dict[str, Any]], str]
) -> list[list[str]]:
    ordered = sorted(rows, key=lambda row: (row["method"], row.get("tokens", 0)))
    arms = tuple(dict.fromkeys(arm_of(row) for row in ordered))
    at = {(row["ratio"], arm_of(row)): told(row) for row in rows}
    ratios = sorted({row["ratio"] for row in rows})
    return [["r", *arms], *([f"{ratio:g}", *(at.get((ratio, arm), "") for arm in arms)] for ratio in ratios)]


def _arm(row: dict[str, Any]) -> str:
    return f"{row['method']}, {row['recovery']} {row['tokens']:,}" if row["tokens"] else str(row["method"])


def _mean(row: dict[str, Any]) -> str:
    return f"{row['mean']:.3f}" + (f" ± {row['spread']:.3f}" if row["spread"] is not None else "")


def _speedup(row: dict[str, Any]) -> str:
    ends = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['speedup']:.2f}×{ends}"


def _pairs(rows: Sequence[dict[str, Any]]) -> str:
    return " or ".join(dict.fromkeys(str(row["pairs"]) for row in rows))


def _laws(comparisons: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Errors at higher ratios by sample and law, the least in bold."""
    names = tuple(dict.fromkeys(_name(law) for each in comparisons for law in each["laws"]))
    rows = []
    for each in comparisons:
        errors = {_name(law): _held_out(law) for law in each["laws"]}
        known = [error for error in errors.values() if error is not None]
        if known:
            told = [_bold(errors.get(name), min(known)) for name in names]
            recovered = "" if each["recovery"] == "none" else f" + {each['recovery']}"
            rows.append([f"{each['method']}{recovered} · {each['name']}", *told])
    if rows:
        yield "## Which law predicts"
        yield ("Fitted up to r = 0.6, tested above: root mean squared error over the dense value, the least in bold.")
        yield _table([["sample", *names], *rows])


def _name(law: dict[str, Any]) -> str:
    return f"{law['fit']['law']}, raw tokens" if law["fit"]["d_unit"] == 1 else str(law["fit"]["law"])


def _held_out(law: dict[str, Any]) -> float | None:
    return next((e["rmse_of_base"] for e in law["held_out"] if e["split"] == "higher ratios"), None)


def _bold(error: float | None, least: float) -> str:
    if error is None:
        return "–"
    return f"**{short_number(error)}**" if error == least else short_number(error)


def _pictures(raw: dict[str, Any]) -> Iterator[str]:
    if raw["pictures"]:
        yield "## Pictures"
        yield (
            "Points are cells, lines laws, bands and whiskers 95 % intervals; filled marks and full lines are without "
            "recovery."
        )
    for name, caption in PICTURES.items():
        if name in raw["pictures"]:
            yield f"{caption}:\n\n![{caption}]({STEM.name}/pictures/{name}.png)"


def _cost(study: dict[str, Any]) -> str:
    cost = study["cost"]
    if cost["by_the_clock"]:
        return f"`{study['file']}`: {format_seconds(cost['recorded_wall_s'])} of load tests, alone on the machine."
    read = f"{cost['read']} of {cost['cells']} cells recorded processor time, in all {format_seconds(cost['read_s'])}"
    if cost["read"] < cost["cells"]:
        read += (
            f"; for each of the others it is taken from a cell of the same size and as much training that did, the "
            f"costliest there is. That makes at most {format_seconds(cost['processor_s'])}"
        )
    return (
        f"`{study['file']}`: {read}. Cells whose speed is measured run alone, the others share two cores; two idle "
        f"ones do all in about **{format_seconds(cost['wall_s'])}**. It was not run in one go on an idle machine. Wall "
        f"times in the records, {format_seconds(cost['recorded_wall_s'])} in all, hold pauses and other programs' work."
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    cells = [[text.replace("|", "\\|") for text in row] for row in rows]
    lines = [cells[0], ["---"] * len(cells[0]), *cells[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
