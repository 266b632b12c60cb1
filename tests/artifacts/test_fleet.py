"""The fleet file and folders as fleets."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from artifacts.fleet import Fleet, fleet_of_folders


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_toml_with_all_kinds_of_variants(tmp_path: Path) -> None:
    text = """
        max_model_len = 512
        [[variants]]
        name = "dense"
        model = "/models/dense"
        [[variants]]
        name = "far"
        url = "http://127.0.0.1:9000"
        [[variants]]
        name = "sim"
        engine = "sim"
        engine_flags = ["--ttft-ms", "5"]
    """
    fleet = Fleet.load(write(tmp_path / "fleet.toml", text))
    assert [v.name for v in fleet.variants] == ["dense", "far", "sim"]
    assert fleet.max_model_len == 512
    assert fleet.variants[2].engine_flags == ("--ttft-ms", "5")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("variants = []", "at least 1 item"),
        ('[[variants]]\nname = "a"', "not both and not neither"),
        ('[[variants]]\nname = "a"\nmodel = "m"\nurl = "http://x"', "not both"),
        ('[[variants]]\nname = "a b"\nmodel = "m"', "pattern"),
        ('[[variants]]\nname = "a"\nmodel = "m"\n[[variants]]\nname = "a"\nmodel = "n"', "repeated: a"),
        ('[[variants]]\nname = "a"\nmodel = "m"\ncolour = "red"', "Extra inputs"),
        ("this is = not [toml", "cannot be read"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        Fleet.load(write(tmp_path / "fleet.toml", text))
    assert "fleet.toml" in str(caught.value)


def test_folders_become_variants_named_by_folder(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / "all" / name).mkdir(parents=True)
        write(tmp_path / "all" / name / "config.json", "{}")
    one = tmp_path / "one"
    one.mkdir()
    write(one / "config.json", "{}")
    fleet = fleet_of_folders([tmp_path / "all", one])
    assert [v.name for v in fleet.variants] == ["a", "b", "one"]
    assert all(Path(v.model or "").is_absolute() for v in fleet.variants)


@pytest.mark.parametrize("make", [False, True], ids=["no such folder", "folder without checkpoints"])
def test_folder_without_checkpoint_is_refused(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError, match="holds no checkpoint" if make else "is not a folder"):
        fleet_of_folders([tmp_path / "x"])
