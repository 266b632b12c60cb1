"""Are the published schemas those of the documents, and do real documents satisfy them?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from artifacts.run import Level
from laws.findings import gather_findings
from laws.roofline import Hardware
from laws.studies.comparison import analyse
from laws.studies.findings import Fits, find
from laws.studies.records import read_study
from prunebench.schemas import DOCUMENTS, schema_text, write_schemas
from prunebench.study.run import open_study
from tests.laws.answers import Writer, campaign_folder, search_folder, sweep_folder
from tests.laws.conftest import make_run
from tests.laws.synthetic import World, write_study
from tests.prunebench.small_studies import write_study as write_study_file

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "schemas"


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def save(name: str, run: Any) -> Path:
        run.save(tmp_path / name / "run.json")
        return tmp_path / name

    return save


def schema(name: str) -> Any:
    return json.loads((PUBLISHED / f"{name}.schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_published_schema_is_the_documents(name: str) -> None:
    assert (PUBLISHED / f"{name}.schema.json").read_text(encoding="utf-8") == schema_text(name)


def test_nothing_else_is_published(tmp_path: Path) -> None:
    write_schemas(tmp_path / "new")
    written = {path.name for path in (tmp_path / "new").iterdir()}
    assert {path.name for path in PUBLISHED.iterdir()} == written


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_published_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))


def test_written_documents_satisfy_their_schemas(write: Writer, tmp_path: Path) -> None:
    folders = [campaign_folder(write), sweep_folder(write), search_folder(tmp_path)]
    hardware = Hardware(name="m", memory_bytes_per_s=1, flops_per_s=1, source="stated")
    findings = gather_findings([*folders, write("run", make_run(Level(concurrency=2)))], hardware)
    findings.save(tmp_path / "report.json")
    hardware.save(tmp_path / "hardware.json")
    files = {
        "run": tmp_path / "run" / "run.json",
        "campaign": folders[0] / "campaign.json",
        "sweep": folders[1] / "sweep.json",
        "search": folders[2] / "search.json",
        "report": tmp_path / "report.json",
        "hardware": tmp_path / "hardware.json",
    } | study_files(tmp_path)
    open_study(write_study_file(tmp_path / "asked")).file.save(tmp_path / "study.json")
    files["study"] = tmp_path / "study.json"
    assert files.keys() == DOCUMENTS.keys()
    for name, path in files.items():
        jsonschema.validate(json.loads(path.read_text()), schema(name))


def study_files(folder: Path) -> dict[str, Path]:
    """A small study's."""
    study = write_study(
        World(models={"m": 10**9}, methods=("random",), seeds=(0,), tasks=("piqa",)), folder / "s.study"
    )
    analysis = analyse(read_study(study), replicates=20)
    find(analysis).save(folder / "study_report.json")
    Fits(study="s", comparisons=analysis.comparisons).save(folder / "fits.json")
    return {
        "cell": next((study / "cells").glob("*.json")),
        "fits": folder / "fits.json",
        "study_report": folder / "study_report.json",
    }


def test_a_report_of_version_1_satisfies_the_schema_too() -> None:
    published = json.loads(Path(__file__).with_name("report_version_1.json").read_text())
    assert published["schema_version"] == 1
    jsonschema.validate(published, schema("report"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schema_version": 3}, "a later version"),
        ({"surprise": 1}, "an unknown field"),
        ({"gates": [{"name": "drift"}]}, "a gate without its limit"),
    ],
)
def test_a_schema_refuses_what_the_reader_refuses(changes: dict[str, Any], why: str) -> None:
    document = json.loads(make_run(Level(concurrency=1)).model_dump_json())
    jsonschema.validate(document, schema("run"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | changes, schema("run"))
