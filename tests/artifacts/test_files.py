"""A final name means a complete result."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from artifacts.files import complete_directory, sha256_of_file, sha256_of_folder, write_text_atomically


def test_directory_appears_under_its_name_only_when_complete(tmp_path: Path) -> None:
    final = tmp_path / "result"
    with complete_directory(final) as partial:
        (partial / "a.txt").write_text("a")
        assert not final.exists()
    assert (final / "a.txt").read_text() == "a"
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


def test_interrupted_directory_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), complete_directory(tmp_path / "result") as partial:
        (partial / "a.txt").write_text("a")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_said_in_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No space left on device") as caught, complete_directory(tmp_path / "r"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "free space" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_existing_result_is_refused_and_kept(tmp_path: Path) -> None:
    final = tmp_path / "result"
    final.mkdir()
    (final / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already exists"), complete_directory(final):
        pytest.fail("the block must not run")
    assert (final / "mine.txt").read_text() == "mine"


def test_empty_folder_may_be_used(tmp_path: Path) -> None:
    final = tmp_path / "result"
    final.mkdir()
    with complete_directory(final) as partial:
        (partial / "a").touch()
    assert (final / "a").exists()


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text_atomically(path, "one")
    write_text_atomically(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_unwritable_text_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="could not be written"):
        write_text_atomically(tmp_path / "file" / "below.txt", "text")


def test_folder_hash_depends_on_names_and_contents(tmp_path: Path) -> None:
    one, two, three = (tmp_path / n for n in "abc")
    for folder, name, content in ((one, "x", "1"), (two, "x", "1"), (three, "y", "1")):
        folder.mkdir()
        (folder / name).write_text(content)
    assert sha256_of_folder(one) == sha256_of_folder(two) != sha256_of_folder(three)
    before = sha256_of_folder(one)
    (one / "x").write_text("2")
    assert sha256_of_folder(one) != before
    assert sha256_of_file(two / "x") == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
