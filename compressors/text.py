"""Reading text files and turning them into token windows, for calibration and for evaluation alike."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.errors import ConfigError

_SEPARATOR = re.compile(r"^<\|endoftext\|>[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TextCorpus:
    """Documents of one text, and the SHA-256 of the text they came from."""

    name: str
    documents: tuple[str, ...]
    sha256: str


def read_corpus(path: Path) -> TextCorpus:
    """Splits the file at lines that hold only `<|endoftext|>`. Raises ConfigError if missing, unreadable or empty."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist. Give the path of a text file.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text ({error}). Give a plain text file.") from error
    return corpus_of(path.name, text)


def corpus_of(name: str, text: str) -> TextCorpus:
    """Raises ConfigError if the text holds nothing but white space and separators."""
    documents = tuple(piece.strip("\r\n") for piece in _SEPARATOR.split(text) if piece.strip())
    if not documents:
        raise ConfigError(f"{name} is empty. Give a file with text in it.")
    return TextCorpus(name, documents, hashlib.sha256(text.encode()).hexdigest())


def encode_documents(tokenizer: Any, corpus: TextCorpus) -> list[list[int]]:
    """Token ids per document, without any special token."""
    encoded: list[list[int]] = tokenizer(list(corpus.documents), add_special_tokens=False, verbose=False)["input_ids"]
    return encoded


def window_prefix(tokenizer: Any) -> list[int]:
    """The begin-of-sequence id in front of each window, or nothing for a tokenizer that has none."""
    return [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
