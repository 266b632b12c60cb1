"""General text against the task's own as calibration, and what either does to the other's loss, divergence and answers.

    python benchmarks/calibration_sets.py [--stories MODEL TEXT QUESTIONS --english TEXT] [--render-only]

A study with the calibration set as its axis (after arXiv 2409.11233) on each model. Cells are measured one by one in
this process and kept, so that an interrupted run goes on where it was. No text or question that judges has calibrated.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.files import write_text_atomically
from artifacts.progress import silent
from artifacts.provenance import collect_provenance
from artifacts.study import (
    DEMO,
    CellRecord,
    StudyCalibration,
    StudyFile,
    StudyMethod,
    StudyModel,
    StudyTask,
    StudyText,
)
from benchmarks.calibration_page import render
from benchmarks.pages import draw_page, page_parser, read_raw, write_raw
from benchmarks.stories import SEPARATOR, deal_out, write_parts
from modeling.python_corpus import load_corpus
from prunebench.study.cell import measure_cell
from prunebench.study.demo_corpus import line_end_questions
from prunebench.study.job import CellJob
from prunebench.study.plan import CellPlan, expand

STEM = Path(__file__).with_name("calibration_sets_cpu_202611")
RATIOS = (0.25, 0.5)
SEEDS = (0, 1, 2)
QUESTIONS = 120
METHODS = (
    StudyMethod(name="wanda_sp", method="wanda_sp", units=("ffn",), calibrated=True, multiple_of=1),
    StudyMethod(name="obs", method="obs", units=("ffn",), calibrated=True, repair="ridge", multiple_of=1),
    StudyMethod(name="wanda", method="wanda", units=("weights",), calibrated=True),
)


def main() -> None:
    torch.set_num_threads(1)
    parser = page_parser(__doc__)
    parser.add_argument("--stories", type=Path, nargs=3, metavar=("MODEL", "TEXT", "QUESTIONS"), help="stories260K")
    parser.add_argument("--english", type=Path, metavar="TEXT", help="text of another kind, as a third calibration set")
    options = parser.parse_args()
    if not options.render_only:
        with tempfile.TemporaryDirectory() as folder:
            for study, place in studies(Path(folder), options.stories, options.english):
                measure(study, place)
    draw_page(STEM, render)


def studies(folder: Path, stories: list[Path] | None, english: Path | None) -> Iterator[tuple[StudyFile, Path]]:
    """Each with the folder that its texts were written to."""
    foreign = {} if english is None else {"foreign": [english.read_text(encoding="utf-8")]}
    if stories is not None:
        model, text, questions = stories
        general, judged = deal_out(text)
        known, asked = dealt_questions(questions, general)
        place = folder / "stories260K"
        parts = {"general": general, "task": list(map(answered, known)), **foreign}
        yield _study("stories260K", str(model.resolve()), parts, judged, asked, place), place
    corpora: list[Any] = [load_corpus(split).texts for split in ("calibration", "held_out")]
    ends = {split: _questions(line_end_questions(split)) for split in ("calibration", "held_out")}
    parts = {"general": corpora[0], "task": list(map(answered, ends["calibration"])), **foreign}
    yield _study("demo", DEMO, parts, corpora[1], ends["held_out"], folder / "demo"), folder / "demo"


def dealt_questions(path: Path, general: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Those on stories that calibrate as general text, and those on other stories."""
    told = " ".join(" ".join(general).split())
    questions = _questions(path.read_text(encoding="utf-8"))
    known = [question for question in questions if " ".join(question["query"].split()) in told]
    return known, [question for question in questions if question not in known]


def answered(question: dict[str, Any]) -> str:
    return f"{question['query']} {question['choices'][question['gold']]}"


def _questions(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def _study(
    name: str, source: str, parts: dict[str, Any], judged: Any, asked: list[dict[str, Any]], place: Path
) -> StudyFile:
    place.mkdir()
    write_parts(place, parts)
    write_text_atomically(place / "general-held-out.txt", SEPARATOR.join(judged))
    write_text_atomically(place / "task-held-out.txt", SEPARATOR.join(map(answered, asked)))
    write_text_atomically(place / "questions.jsonl", "".join(json.dumps(question) + "\n" for question in asked))
    texts = tuple(
        StudyText(set=kind, text=f"{kind}-held-out.txt", length_tokens=256, max_tokens=6000, divergence=True)
        for kind in ("general", "task")
    )
    return StudyFile(
        title=name,
        models=(StudyModel(name=name, source=source),),
        methods=METHODS,
        ratios=RATIOS,
        seeds=SEEDS,
        calibrations=tuple(StudyCalibration(name=part, source=f"{part}.txt") for part in parts),
        calibration_tokens=8192,
        texts=texts,
        tasks=(StudyTask(task="questions", source="questions.jsonl", limit=QUESTIONS),),
    )


def measure(study: StudyFile, place: Path) -> None:
    """Adds the cells that are missing, saving after each; the dense cell comes first, and all others need it."""
    raw = read_raw(STEM) if STEM.with_suffix(".json").is_file() else {"cells": []}
    raw |= {"provenance": collect_provenance().model_dump(mode="json")}
    done = {cell["cell"]: CellRecord.model_validate(cell) for cell in raw["cells"]}
    plans = expand(study, place)
    base: CellRecord | None = None
    for plan in plans:
        record = done.get(plan.cell) or _measured(plan, place, base)
        base = base or record
        if plan.cell not in done:
            raw["cells"].append(record.model_dump(mode="json"))
            write_raw(STEM, raw)
            sys.stderr.write(f"{plan.cell}: {record.status} in {record.wall_s:.0f} s\n")


def _measured(plan: CellPlan, place: Path, base: CellRecord | None) -> CellRecord:
    job = CellJob(plan=plan, folder=str(place), scratch=str(place / "scratch"), raw=str(place / "raw"), base=base)
    return measure_cell(job, silent)


if __name__ == "__main__":
    main()
