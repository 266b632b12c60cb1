"""The demo's text: disjoint splits that do not depend on the interpreter's version."""

from __future__ import annotations

from pathlib import Path

import pytest

from modeling.python_corpus import load_corpus, split_of


@pytest.fixture
def stdlib(tmp_path: Path) -> Path:
    for index in range(400):
        (tmp_path / f"module_{index}.py").write_text(f"x = {index}\n" * 50)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_it.py").write_text("not for training\n" * 50)
    (tmp_path / "config-3.11").mkdir()
    (tmp_path / "config-3.11" / "build.py").write_text("not for training\n" * 50)
    (tmp_path / "tiny.py").write_text("too short")
    return tmp_path


def test_every_file_is_in_exactly_one_split(stdlib: Path) -> None:
    corpora = [load_corpus(split, stdlib) for split in ("train", "calibration", "held_out")]
    texts = [text for corpus in corpora for text in corpus.texts]
    assert len(texts) == len(set(texts)) == 400
    assert [len(c.texts) > 5 for c in corpora] == [True, True, True]


def test_excluded_text_never_appears(stdlib: Path) -> None:
    text = "".join(t for split in ("train", "calibration", "held_out") for t in load_corpus(split, stdlib).texts)
    assert "not for training" not in text
    assert "too short" not in text


def test_split_follows_the_path_not_the_content(stdlib: Path) -> None:
    before = load_corpus("held_out", stdlib)
    for path in stdlib.glob("*.py"):
        path.write_text(path.read_text() + "# changed in a later version\n")
    after = load_corpus("held_out", stdlib)
    assert len(before.texts) == len(after.texts)
    assert before.sha256 != after.sha256


@pytest.mark.parametrize(
    ("name", "split"), [("argparse.py", "train"), ("asyncio/events.py", "train"), ("calendar.py", "train")]
)
def test_known_files_keep_their_split(name: str, split: str) -> None:
    """The committed model was trained on this assignment: changing it would train on held-out text."""
    assert split_of(name) == split


def test_running_interpreter_carries_enough_text() -> None:
    assert load_corpus("train").characters > 3_000_000
    assert load_corpus("held_out").characters > 50_000
