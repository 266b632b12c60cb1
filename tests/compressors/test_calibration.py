"""Windows are seeded, disjoint, of equal length, and refused when the text cannot give them."""

from __future__ import annotations

import hashlib
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_models import VOCABULARY, random_text, save_tokenizer, word

from artifacts.errors import ConfigError
from compressors.calibration import CalibrationSet, draw_calibration
from compressors.source import load_tokenizer
from compressors.text import corpus_of, read_corpus


@pytest.fixture(params=[True, False], ids=["bos", "no-bos"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    save_tokenizer(tmp_path / "tokenizer", bos=request.param)
    return load_tokenizer(tmp_path / "tokenizer")


def draw(text: Path | str, tokenizer: Any, total: int = 64, window: int = 16, seed: int = 0) -> CalibrationSet:
    return draw_calibration(
        str(text), tokenizer, total_tokens=total, window_tokens=window, seed=seed, vocabulary=VOCABULARY
    )


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "text.txt").write_text(text)
    return tmp_path / "text.txt"


def test_windows_are_the_starts_of_long_documents(tmp_path: Path, tokenizer: Any) -> None:
    text = random_text(9, 20) + "\n<|endoftext|>\nw3 w4"
    drawn = draw(written(tmp_path, text), tokenizer)
    bos = [1] if tokenizer.bos_token_id is not None else []
    starts = [
        bos + tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in text.split("\n<|endoftext|>\n")
    ]
    assert drawn.windows.shape == (4, 16)
    rows = drawn.windows.tolist()
    assert all(any(row == start[:16] for start in starts) for row in rows)
    assert len({tuple(row) for row in rows}) == 4, "no document twice"


def test_the_seed_decides(tmp_path: Path, tokenizer: Any) -> None:
    path = written(tmp_path, random_text(30, 20))
    first, again, other = (draw(path, tokenizer, seed=seed).windows.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_the_reference_says_what_was_drawn(tmp_path: Path, tokenizer: Any) -> None:
    path = written(tmp_path, random_text(9, 20))
    reference = draw(path, tokenizer, total=70, seed=7).reference
    assert (reference.corpus, reference.tokens, reference.window_tokens, reference.seed) == ("text.txt", 64, 16, 7)
    assert reference.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_text_without_separators_gives_disjoint_slots(tmp_path: Path, tokenizer: Any) -> None:
    """All 93 words in order: every window is a run of consecutive words, and no word is in two windows."""
    drawn = draw(written(tmp_path, " ".join(word(i) for i in range(3, VOCABULARY))), tokenizer, total=64)
    own = [row[1:] if tokenizer.bos_token_id is not None else row for row in drawn.windows.tolist()]
    if tokenizer.bos_token_id is not None:
        assert all(row[0] == 1 for row in drawn.windows.tolist())
    ids = [token for row in own for token in row if token != 1]
    assert len(ids) == len(set(ids))
    assert all(b - a == 1 for row in own for a, b in pairwise(row) if 1 not in (a, b))


def test_many_short_documents_are_joined(tmp_path: Path, tokenizer: Any) -> None:
    assert draw(written(tmp_path, random_text(40, 5)), tokenizer).windows.shape == (4, 16)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "text.txt is empty"),
        (" \n<|endoftext|>\n\n", "text.txt is empty"),
        ("w3 w4 w5", "too short: it gives 0 windows of 16 tokens, 4 were asked for"),
        (random_text(1, 40), "windows of 16 tokens, 4 were asked for"),
    ],
)
def test_text_that_cannot_give_the_windows(tmp_path: Path, tokenizer: Any, text: str, fragment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        draw(written(tmp_path, text), tokenizer)
    assert fragment in str(caught.value)


@pytest.mark.parametrize(("total", "window"), [(15, 16), (64, 1), (0, 16)])
def test_sizes_that_make_no_window(tmp_path: Path, tokenizer: Any, total: int, window: int) -> None:
    with pytest.raises(ConfigError, match="make no window"):
        draw(written(tmp_path, random_text(9, 20)), tokenizer, total=total, window=window)


def test_missing_file(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.txt does not exist"):
        draw(tmp_path / "nowhere.txt", tokenizer)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "noise.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ConfigError, match="cannot be read as UTF-8"):
        read_corpus(tmp_path / "noise.txt")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    path = written(tmp_path, random_text(9, 20))
    with pytest.raises(ConfigError, match="the model knows 50"):
        draw_calibration(str(path), tokenizer, total_tokens=64, window_tokens=16, seed=0, vocabulary=50)


def test_separators_must_stand_alone() -> None:
    corpus = corpus_of("t", "one\n<|endoftext|>\ntwo <|endoftext|> two\n<|endoftext|>  \n\nthree\n")
    assert corpus.documents == ("one", "two <|endoftext|> two", "three")


def test_hub_datasets_need_the_optional_package(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match="need the package datasets"):
        draw("owner/corpus", tokenizer)


def test_hub_dataset_rows_are_documents(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Any:
        asked.append((name, config, split, streaming))
        return iter([{"text": random_text(1, 20, seed)} for seed in range(1000)])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    drawn = draw("owner/corpus:small", tokenizer)
    assert asked == [("owner/corpus", "small", "train", True)]
    assert drawn.windows.shape == (4, 16) and drawn.reference.corpus == "owner/corpus:small"


def test_an_unreachable_dataset_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(ConfigError, match=r"neither a file nor a hub dataset .*\(no network\)"):
        draw("owner/corpus", tokenizer)
