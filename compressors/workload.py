"""What decides how much memory and time a compression takes: shapes, the calibration's tokens, what looks at them."""

from __future__ import annotations

from dataclasses import dataclass

from compressors.registry import Survey
from compressors.streams import piece_tokens

FLOAT32_BYTES = 4
# Values of a consumer's width alive at once in a forward pass: activated gate, up and their product; in the attention
# queries, what rotates them, and keys and values repeated for every query head.
_LIVE_FFN, _LIVE_ATTENTION = 3, 5
# Of the residual stream's width beside those: normed and in front. Alone, in a norm or behind a half layer, as many as
# statistics see: in front, wanted, subtracted, normed, written, summed.
LIVE_BESIDE, _LIVE_HIDDEN = 2, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """The widest state of a consumer that is cut or refitted: its columns, how many stay, how many a unit has."""

    columns: int
    kept: int
    unit_columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What decides memory and time: shapes, the calibration's tokens, which sums are kept of them, what looks at them.

    `streams` are the hidden states that pruning moves, `candidates` how many a survey judges together at most,
    `resident_bytes` the model that a search keeps in memory, `level_bytes` all its repaired levels. `masks` is whether
    single weights become zero, `drawn` how many steps learn masks and how many tokens a step's masks run through
    together, `remembered` how many float32 values of each token that or an alternation keeps beside the streams,
    `together` how many blocks are cut for what they output together.
    """

    tokens: int
    window_tokens: int
    layers: int
    hidden: int
    ffn_width: int
    attention_width: int
    vocabulary: int
    consumers: tuple[Consumer, ...] = ()
    streams: int = 0
    products: bool = False
    second_order: bool = False
    gradients: bool = False
    survey: Survey = "none"
    candidates: int = 0
    resident_bytes: int = 0
    level_bytes: int = 0
    masks: bool = False
    drawn: tuple[int, int] = (0, 0)
    remembered: int = 0
    together: int = 1

    @property
    def states_bytes(self) -> int:
        """One set of hidden states."""
        return self.tokens * self.hidden * FLOAT32_BYTES

    @property
    def piece(self) -> int:
        """Tokens that go through a half layer at once."""
        windows = max(1, piece_tokens(self.ffn_width) // self.window_tokens)
        return min(self.tokens, windows * self.window_tokens)

    @property
    def forward_bytes(self) -> int:
        """Intermediate values of one piece in one half layer."""
        widest = max(_LIVE_FFN * self.ffn_width, _LIVE_ATTENTION * self.attention_width)
        return self.piece * max(widest + LIVE_BESIDE * self.hidden, _LIVE_HIDDEN * self.hidden) * FLOAT32_BYTES
