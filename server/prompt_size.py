"""How long is a request's prompt, before any worker spends time on it?

Characters, because the gateway has no tokenizer; a token id counts as one. Images and sound are not text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server import faults

PROMPTS = ("prompt", "input", "messages", "system", "instructions")
_NOT_TEXT = frozenset(("image_url", "audio_url", "video_url", "input_audio", "image", "source", "file", "role", "type"))


def require_short_prompt(fields: Mapping[str, Any], limit_chars: int) -> None:
    """Raises ServingError (400) if what is to be read is longer than the limit, all of it together."""
    total = 0
    for name in PROMPTS:
        if name in fields:
            total += text_chars(fields[name])
            if total > limit_chars:
                raise faults.prompt_too_long(name, total, limit_chars)


def text_chars(value: object) -> int:
    """Of all text in it: a string, token ids, messages, parts of messages, or lists of any of them."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return len(value) if set(map(type, value)) == {int} else sum(map(text_chars, value))
    if isinstance(value, dict):
        return sum(text_chars(part) for name, part in value.items() if name not in _NOT_TEXT)
    return 0
