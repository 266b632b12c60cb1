"""Chat files: what is read, what is refused by its line, and how a conversation is made new."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from plans import small_plan, workload

from artifacts.errors import ConfigError
from loadtest import conversations
from loadtest.conversations import Message, read_conversations, salted
from loadtest.plan import Segment
from loadtest.prompts import messages, request_body

MT_BENCH = Path(__file__).resolve().parents[2] / "../shared/data/tasks/mt_bench/question.jsonl"
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
SALT = re.compile(r"^\[\d{9}\] ")


def written(folder: Path, *rows: Any) -> Path:
    (folder / "chat.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return folder / "chat.jsonl"


def test_messages_are_read_up_to_the_last_question(tmp_path: Path) -> None:
    answered = {"messages": [*ASKED, {"role": "assistant", "content": "Because."}], "id": 3}
    follow_up = {"messages": [*answered["messages"], {"role": "user", "content": "Really?", "name": "me"}]}
    plain, longer = read_conversations(written(tmp_path, answered, "", follow_up))
    assert [m.model_dump() for m in plain] == ASKED
    assert [m.role for m in longer] == ["system", "user", "assistant", "user"]


def test_of_turns_the_first_is_asked(tmp_path: Path) -> None:
    (found,) = read_conversations(written(tmp_path, {"question_id": 81, "turns": ["One?", "Two?"]}))
    assert found == (Message(role="user", content="One?"),)


@pytest.mark.skipif(not MT_BENCH.exists(), reason="the shared test data are not beside this repository")
def test_mt_bench_is_read_as_it_is() -> None:
    found = read_conversations(MT_BENCH)
    assert len(found) == 80
    assert found[0][0].content.startswith("Compose an engaging travel blog post")


@pytest.mark.parametrize(
    "line",
    [
        "{oops",
        "[1]",
        {"text": "no messages"},
        {"turns": []},
        {"turns": [["a list"]]},
        {"messages": [{"role": "assistant", "content": "nobody asked"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user"}]},
    ],
    ids=str,
)
def test_what_is_no_conversation_is_told_by_its_line(tmp_path: Path, line: object) -> None:
    with pytest.raises(ConfigError, match=r"line 2 is no conversation\. Give .*turns"):
        read_conversations(written(tmp_path, {"messages": ASKED}, line))


def test_a_file_that_is_empty_missing_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="holds no conversation"):
        read_conversations(written(tmp_path, "", ""))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_conversations(tmp_path / "none.jsonl")
    monkeypatch.setattr(conversations, "MAX_FILE_BYTES", 10)
    with pytest.raises(ConfigError, match="Give a part of it"):
        read_conversations(written(tmp_path, {"messages": ASKED}))


def test_a_salt_stands_first_and_changes_nothing_else() -> None:
    one, two = (salted(tuple(Message(**m) for m in ASKED), (seed,)) for seed in (1, 2))
    assert one[0]["content"] != two[0]["content"]
    assert SALT.sub("", one[0]["content"]) == SALT.sub("", two[0]["content"]) == "Be brief."
    assert one[1:] == two[1:] == ASKED[1:]
    assert [m["role"] for m in one] == ["system", "user"]


def test_arms_get_the_same_conversations_and_every_request_a_salt_of_its_own() -> None:
    rows = [[{"role": "user", "content": f"Question {k}"}] for k in range(5)]
    plan = small_plan(conversations=rows, **workload(prompt_tokens=None, chat={"path": "c"}))
    said = {
        (arm, block, index): messages(plan, Segment(arm=arm, block=block), index)[0]["content"]
        for arm in (0, 1)
        for block in (0, 1)
        for index in range(30)
    }
    texts = {place: SALT.sub("", content) for place, content in said.items()}
    assert all(SALT.match(content) for content in said.values())
    assert len(set(said.values())) == len(said)
    assert [texts[0, b, i] for b in (0, 1) for i in range(30)] == [texts[1, b, i] for b in (0, 1) for i in range(30)]
    assert set(texts.values()) == {f"Question {k}" for k in range(5)}
    assert plan.path == "/v1/chat/completions"


@pytest.mark.parametrize(("natural", "exact"), [(False, (9, True)), (True, (None, None))])
def test_a_chat_body_asks_for_messages_and_ends_as_it_is_told(natural: bool, exact: tuple[Any, Any]) -> None:
    body = json.loads(request_body("m", ASKED, 9, natural))
    assert "prompt" not in body
    assert (body["messages"], body["max_tokens"], body["stream"]) == (ASKED, 9, True)
    assert (body.get("min_tokens"), body.get("ignore_eos")) == exact
