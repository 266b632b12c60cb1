"""Where does a plan's randomness come from? One generator per purpose, block and number, so that no draw moves another.

Nothing is drawn in sequence: whoever wants to know something about one request asks for that one alone.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """The last word of a seed. A prompt's own tokens have only three words, which is as if this were 0."""

    PROMPT_LENGTH = 1
    OUTPUT_LENGTH = 2
    TRACE_ROW = 3
    MIX = 4
    PREFIX_CHOICE = 5
    PREFIX = 6
    SHARED_BLOCK = 7
    CONVERSATION = 8


def generator(seed: int, purpose: Purpose, first: int, second: int = 0) -> np.random.Generator:
    """`first` and `second` are block and number of a request, or what else names the thing to be drawn."""
    return np.random.default_rng((seed, first, second, int(purpose)))
