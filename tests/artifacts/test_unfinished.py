"""One folder for equal work, one process in it, and nothing of it left behind."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import ConfigError
from artifacts.unfinished import key_of, remove_working_folder, working_folder

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
from pathlib import Path
from artifacts.unfinished import working_folder

with working_folder(Path(sys.argv[1]), "key") as folder:
    (folder / "work").write_text("half")
    print("held", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_key_is_short_and_stays_what_it_is() -> None:
    assert key_of({"ratio": 0.5, "out": Path("x")}) == key_of({"out": "x", "ratio": 0.5}) == "111bf55b2a6a"


@pytest.mark.parametrize("other", [{"seed": 1}, {"seed": "0"}, ["seed", 0], None])
def test_other_content_has_another_key(other: Any) -> None:
    assert key_of(other) != key_of({"seed": 0})


def test_what_was_left_is_found_by_the_same_key_alone(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "result"
    with working_folder(final, "one") as folder:
        (folder / "work").write_text("half")
    with working_folder(final, "one") as again, working_folder(final, "two") as other:
        assert (again / "work").read_text() == "half" and not (other / "work").exists()
        assert again == folder == final.with_name("result.partial-one")


def test_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    with working_folder(tmp_path / "result", "key") as folder:
        (folder / "deep" / "deeper").mkdir(parents=True)
        (folder / "deep" / "file").touch()
        (folder / ".hidden").touch()
        remove_working_folder(folder)
        remove_working_folder(folder)
    assert names(tmp_path) == []


@pytest.mark.parametrize("killed", [False, True])
def test_another_process_is_refused_until_the_first_has_ended(tmp_path: Path, killed: bool) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    final = tmp_path / "result"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(final)], cwd=ROOT, text=True, **pipes) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        before = names(tmp_path)
        with pytest.raises(ConfigError) as caught, working_folder(final, "key"):
            pytest.fail("the block must not run")
        assert str(caught.value) == f"{final} is being made by another process. Wait for it or choose another --out."
        assert names(tmp_path) == before
        if killed:
            holder.kill()
        else:
            holder.communicate()
    with working_folder(final, "key") as folder:
        assert (folder / "work").read_text() == "half"


def test_an_owner_that_ends_in_between_takes_its_lock_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file was opened before its owner removed it and locked behind that: others would lock a file of their own."""
    flock, removed = fcntl.flock, []

    def late(stream: Any, operation: int) -> None:
        if not removed:
            removed.append(Path(stream.name).parent)
            remove_working_folder(removed[0])
        flock(stream, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with working_folder(tmp_path / "result", "key") as folder:
        assert removed == [folder] and folder.is_dir()
        with pytest.raises(ConfigError, match="by another process"), working_folder(tmp_path / "result", "key"):
            pytest.fail("the block must not run")


@pytest.mark.parametrize("left", [[], ["result.partial-key/work"]])
def test_a_result_that_came_in_between_is_refused_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: list[str]
) -> None:
    final, flock = tmp_path / "result", fcntl.flock
    for name in left:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()

    def late(stream: Any, operation: int) -> None:
        flock(stream, operation)
        final.mkdir()
        (final / "mine").touch()

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(ConfigError, match="already exists"), working_folder(final, "key"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == sorted(["result", "result/mine", *left, *(["result.partial-key"] if left else [])])


def test_a_place_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="could not be written"), working_folder(tmp_path / "file" / "x", "key"):
        pytest.fail("the block must not run")
