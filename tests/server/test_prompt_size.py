"""What counts as a prompt's text, and is what is longer refused before a worker sees it?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opened_gateway import ask, opened, run

from artifacts.errors import ServingError
from server.prompt_size import require_short_prompt, text_chars

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000}}
TOOL_CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

TEXTS: list[tuple[object, int]] = [
    ("", 0),
    ("abc", 3),
    ("äöü€😀", 5),
    (["ab", "", "c"], 3),
    ([1, 2, 3, 40_000], 4),
    ([[1, 2], [3]], 3),
    ([], 0),
    ([1, "abc"], 3),
    (None, 0),
    (7, 0),
    (True, 0),
    ({"text": "abc"}, 3),
    ([{"role": "user", "content": "abc"}], 3),
    ([{"role": "system", "content": "ab"}, {"role": "user", "content": "cd"}], 4),
    ([{"role": "user", "content": [{"type": "text", "text": "abc"}, IMAGE]}], 3),
    ([{"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}], len("1") + len("f") + len("{}")),
    ([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "abc"}]}], 3),
    ([{"role": "user", "content": [[["abc"]]]}], 3),
]


@pytest.mark.parametrize(("value", "chars"), TEXTS, ids=[str(index) for index in range(len(TEXTS))])
def test_text_is_counted(value: object, chars: int) -> None:
    assert text_chars(value) == chars


BODIES: list[tuple[dict[str, Any], str | None]] = [
    ({"prompt": "x" * 10}, None),
    ({"prompt": "x" * 11}, "prompt"),
    ({"prompt": ["x" * 5, "x" * 6]}, "prompt"),
    ({"prompt": [1] * 11}, "prompt"),
    ({"prompt": "€" * 10}, None),
    ({"input": "x" * 11}, "input"),
    ({"messages": [{"role": "user", "content": "x" * 11}]}, "messages"),
    ({"messages": [{"role": "user", "content": "x"}] * 10}, None),
    ({"messages": [{"role": "user", "content": "x" * 6}], "system": "y" * 5}, "system"),
    ({"input": "x" * 6, "instructions": "y" * 5}, "instructions"),
    ({"other": "x" * 100}, None),
    ({}, None),
]


@pytest.mark.parametrize(("fields", "param"), BODIES, ids=[str(index) for index in range(len(BODIES))])
def test_the_limit_holds_for_all_text_together(tmp_path: Path, fields: dict[str, Any], param: str | None) -> None:
    if param is None:
        require_short_prompt(fields, 10)
    else:
        with pytest.raises(ServingError, match="has 11 characters; the limit here is 10") as refused:
            require_short_prompt(fields, 10)
        assert (refused.value.param, refused.value.status) == (param, 400)

    async def test() -> None:
        async with opened(tmp_path, limits={"max_prompt_chars": 10}) as gateway:
            answer = await gateway.asked(ask(json.dumps({"model": "a", **fields}).encode()))
            assert answer.status == (200 if param is None else 400)
            assert param is None or answer.code == "context_length_exceeded"
            assert len(gateway.requests) == (param is None)

    run(test())


def test_without_a_limit_any_length_goes(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as gateway:
            body = json.dumps({"model": "a", "prompt": "x" * 1_000_000}).encode()
            assert (await gateway.asked(ask(body))).status == 200
            assert gateway.requests[0].endswith(body)

    run(test())
