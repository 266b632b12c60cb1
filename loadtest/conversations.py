"""Which conversations does a chat file hold, and how is one made new to every prefix cache?

One JSON object per line: OpenAI's `messages`, or MT-bench's `turns`, of which the first is asked (the second would need
the answer to the first).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.document import Document
from artifacts.errors import ConfigError

MAX_FILE_BYTES = 1 << 26
_NUMBERS = (10**8, 10**9)


class Message(Document):
    """One message of a conversation."""

    role: str
    content: str


Conversation = tuple[Message, ...]


def read_conversations(path: Path) -> tuple[Conversation, ...]:
    """All conversations, each up to its last user message: what follows is a recorded answer.

    They are kept in the plan, so the file may hold 64 MiB at most. Raises ConfigError, with the line, for what is no
    conversation, and for a file that cannot be read, is too large or holds none.
    """
    try:
        size_bytes, lines = path.stat().st_size, path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}). Give a file of JSON lines.") from error
    if size_bytes > MAX_FILE_BYTES:
        raise ConfigError(
            f"{path} holds {size_bytes >> 20} MiB, allowed are {MAX_FILE_BYTES >> 20}. Give a part of it."
        )
    found = tuple(_conversation(path, number, line) for number, line in enumerate(lines, start=1) if line.strip())
    if not found:
        raise ConfigError(f"{path} holds no conversation. Give a file with one JSON object per line.")
    return found


def salted(conversation: Conversation, seed: tuple[int, ...]) -> list[dict[str, str]]:
    """The messages with a nine-digit number in front of the first one's text.

    A prefix cache matches from the front, so nothing behind the number can hit. Nine digits because tokenizers that cut
    numbers into single digits or into threes give all of them equally many tokens; models make nothing of it.
    """
    number = int(np.random.default_rng(seed).integers(*_NUMBERS))
    first, *rest = (message.model_dump() for message in conversation)
    return [first | {"content": f"[{number}] {first['content']}"}, *rest]


def _conversation(path: Path, number: int, line: str) -> Conversation:
    try:
        messages = _messages(json.loads(line))
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ConfigError(
            f'{path}, line {number} is no conversation. Give {{"messages": [{{"role": ..., "content": ...}}]}} '
            'or {"turns": ["..."]}, with text and a user\'s message, one per line.'
        ) from error
    return messages


def _messages(row: dict[str, Any]) -> Conversation:
    if "messages" not in row:
        return (Message(role="user", content=row["turns"][0]),)
    found = [Message(role=message["role"], content=message["content"]) for message in row["messages"]]
    last = max(index for index, message in enumerate(found) if message.role == "user")
    return tuple(found[: last + 1])
