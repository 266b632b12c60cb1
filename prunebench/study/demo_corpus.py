"""What a study can name without a file: parts of the text the demo model knows, and questions drawn from it.

A question is the beginning of a line of held-out code with the lines before it; the choices are how the line goes on,
and how three lines of other files do. Whoever guesses is right one time in four.
"""

from __future__ import annotations

import json
from functools import cache
from random import Random
from typing import get_args

from artifacts.errors import ConfigError
from modeling.python_corpus import Split, load_corpus

PREFIX = "demo:"
QUESTIONS = "demo:line_ends"
_CHOICES = 4
_CONTEXT_LINES = 4
_FEWEST_WORDS = 4
_PER_FILE = 24


def demo_text(name: str) -> str:
    """The part of the demo model's corpus that `demo:PART` names. Raises ConfigError for another part."""
    for part in get_args(Split):
        if name == PREFIX + part:
            return "\n<|endoftext|>\n".join(_texts(part))
    raise ConfigError(f"{name} is no part of the demo's corpus. Use {', '.join(PREFIX + p for p in get_args(Split))}.")


def line_end_questions(part: Split = "held_out") -> str:
    """JSON lines for `evaluate --task`, the same on every machine with this interpreter; files take turns."""
    draw = Random(0)
    cases = [_cases(text, draw) for text in _texts(part)]
    asked = []
    for turn in range(_PER_FILE):
        for index, own in enumerate(cases):
            if turn < len(own):
                others = [other for place, other in enumerate(cases) if place != index and other]
                wrong = [draw.choice(other)[1] for other in draw.sample(others, _CHOICES - 1)]
                asked.append(_question(*own[turn], wrong, draw))
    return "".join(json.dumps(question, ensure_ascii=False) + "\n" for question in asked)


@cache
def _texts(part: Split) -> tuple[str, ...]:
    """Every file of the standard library is read for it, and a plan asks several times."""
    return load_corpus(part).texts


def _cases(text: str, draw: Random) -> list[tuple[str, str]]:
    """(what stands before, how the line goes on), from lines far enough apart to share no context."""
    lines = [line for line in text.splitlines() if line.strip()]
    starts = range(_CONTEXT_LINES, len(lines), _CONTEXT_LINES + 1)
    long = [index for index in starts if len(lines[index].split()) >= _FEWEST_WORDS]
    return [_split(lines, index) for index in draw.sample(long, min(_PER_FILE, len(long)))]


def _split(lines: list[str], index: int) -> tuple[str, str]:
    words = lines[index].split(" ")
    solid = [place for place, word in enumerate(words) if word]
    half = solid[len(solid) // 2]
    before = [*lines[index - _CONTEXT_LINES : index], " ".join(words[:half]).rstrip(" ") or words[0]]
    return "\n".join(before), " ".join(words[half:]).strip()


def _question(query: str, right: str, wrong: list[str], draw: Random) -> dict[str, object]:
    gold = draw.randrange(_CHOICES)
    return {"query": query, "choices": [*wrong[:gold], right, *wrong[gold:]], "gold": gold}
