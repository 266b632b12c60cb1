"""How many bytes each stage of a compression holds beside blocks, from shapes alone.

Every formula counts the tensors that are alive at the stage's worst moment, in the code it names; what is not alive at
the same time is not added up. Only the hidden states grow with the calibration text and only the statistics with the
square of the widths. `tests/compressors/test_buffers.py` counts the real ones against them.
"""

from __future__ import annotations

from dataclasses import replace

from compressors.divergence import STATES_BYTES, logit_tokens
from compressors.level_store import MEMORY_BYTES
from compressors.second_order import COMPACT_COLUMNS, MOST_ROWS, round_columns
from compressors.shards import PIECE_ROWS
from compressors.statistics import WIDE
from compressors.workload import FLOAT32_BYTES, LIVE_BESIDE, Consumer, Workload

_FLOAT64 = 8
# Values of a consumer's width in a forward pass, with everything that a backward pass keeps and returns.
_LIVE_BACKWARD = 8
# Kept rows of weights while a ridge is solved: products, ridge times base, right side twice, solution, base.
_LIVE_ROWS = 6
# Logits in slices, joined and as log-probabilities, with the products that a divergence or a gradient adds.
_LIVE_LOGITS = 4
_LIVE_LOGIT_GRADIENTS = 6
# A damped Gram matrix's factor, its inverse, that one's factor and a solver's working space.
_FACTORS = 4
# Of a matrix that is swept: optimum, transposed copy, scores, their order, mask, steps; of an FFN's three the results.
_LIVE_SWEEP = 9
# Values of an FFN's width while those of a piece are updated, by damped Newton steps.
_LIVE_UPDATE = 20
_PROBE_TOKENS = 24

Purposes = dict[str, int]


def stage_buffers(workload: Workload) -> dict[str, Purposes]:
    """By stage in order of time, by purpose, bytes; stages and purposes without any are left out."""
    stages = {
        "gradients": _gradients(workload) if workload.gradients else {},
        "allocate": _SURVEYS[workload.survey](workload),
        "prune": _prune_stage(workload) if workload.streams else {},
        "export": _export(workload),
    }
    held = {stage: {name: size for name, size in purposes.items() if size} for stage, purposes in stages.items()}
    return {stage: purposes for stage, purposes in held.items() if purposes}


def _prune_stage(workload: Workload) -> Purposes:
    return _masking(workload) if workload.masks else _pruning(workload)


def _masking(workload: Workload) -> Purposes:
    """`masking`: sums of all that a layer's matrices read; a Hessian's factors beside the matrix that is swept; where
    an FFN is masked whole, what is remembered of every token and the products of its new values (`alternation`).
    """
    reads = (workload.hidden, workload.attention_width, workload.hidden, workload.ffn_width)
    sums = sum(columns**2 * _width_of(columns) for columns in reads) if workload.products else 0
    matrix = workload.ffn_width * workload.hidden * _width_of(workload.ffn_width)
    factors = _FACTORS * max(columns**2 * _width_of(columns) for columns in reads) if workload.products else 0
    whole = (_LIVE_UPDATE * workload.piece * workload.ffn_width * FLOAT32_BYTES) if workload.remembered else 0
    return {
        "hidden states of the calibration text": max(
            workload.streams * workload.states_bytes, workload.states_bytes + _embedded_rows(workload)
        ),
        "values of every token": workload.tokens * workload.remembered * FLOAT32_BYTES,
        "Gram and cross products": sums,
        "intermediate values, masks": max(factors + _LIVE_SWEEP * matrix, whole + factors, workload.forward_bytes),
    }


def _pruning(workload: Workload) -> Purposes:
    """`sequential`: the streams, and for the consumer that needs most its sums and what is done with them. Where a half
    is refined, what is remembered of every token and one of `alternation`'s rounds; where blocks go `together`, the
    streams in front, and behind each block its target and those of two attempts, with a piece on its way back.
    """
    sums, work = max(
        ((_sums(workload, consumer), _work(workload, consumer)) for consumer in workload.consumers),
        key=sum,
        default=(0, workload.forward_bytes),
    )
    return {
        "hidden states of the calibration text": max(
            workload.streams * workload.states_bytes, workload.states_bytes + _embedded_rows(workload)
        ),
        "streams between blocks": _between(workload) * workload.states_bytes,
        "values of every token": workload.tokens * workload.remembered * FLOAT32_BYTES,
        "Gram and cross products": sums + _alternated_sums(workload),
        "intermediate values, choice or repair": max(work, workload.forward_bytes, _way_back(workload)),
    }


def _between(workload: Workload) -> int:
    return 3 * workload.together + 2 if workload.together > 1 else 0


def _way_back(workload: Workload) -> int:
    """`together`: a piece on its way through a block and back, in one of its halves."""
    widest = max(workload.ffn_width, workload.attention_width)
    values = _LIVE_BACKWARD * workload.piece * (widest + workload.hidden) * FLOAT32_BYTES
    return values if workload.together > 1 else 0


def _alternated_sums(workload: Workload) -> int:
    """`alternation`: what the producers read, with its factor, and what they are to write."""
    if not workload.remembered:
        return 0
    squares = 2 * workload.hidden**2 + 2 * workload.hidden * workload.ffn_width
    return squares * _width_of(workload.hidden)


def _alternation(workload: Workload, consumer: Consumer) -> int:
    """A piece's new values, beside what the last round summed and factorised of what the consumer reads."""
    if not workload.remembered:
        return 0
    squares = 2 * consumer.columns**2 * _element(consumer)
    return _LIVE_UPDATE * workload.piece * workload.ffn_width * FLOAT32_BYTES + squares


def _sums(workload: Workload, consumer: Consumer) -> int:
    """`statistics`: X^T X and Y^T X."""
    if not workload.products:
        return 0
    return consumer.columns * (consumer.columns + workload.hidden) * _element(consumer)


def _work(workload: Workload, consumer: Consumer) -> int:
    observed = _observation(workload, consumer)
    chosen = _choice(workload, consumer) if workload.second_order else 0
    work = max(observed, chosen, _refit(workload, consumer) if workload.products else 0)
    return work + _alternation(workload, consumer)


def _observation(workload: Workload, consumer: Consumer) -> int:
    """`statistics`: a piece's inputs beside their float64 copy or beside a product on its way to a float64 sum."""
    inputs = workload.piece * consumer.columns * FLOAT32_BYTES
    product = consumer.columns * max(consumer.columns, workload.hidden) * FLOAT32_BYTES
    sums_directly = consumer.columns > WIDE or not workload.products
    hidden = workload.piece * workload.hidden * FLOAT32_BYTES
    return inputs + max(2 * inputs, 0 if sums_directly else product) + LIVE_BESIDE * hidden


def _refit(workload: Workload, consumer: Consumer) -> int:
    """`compensation`: the kept Gram matrix and its factor, then the factor and the solver's copy of it."""
    squares = 2 * consumer.kept**2 + _LIVE_ROWS * consumer.kept * workload.hidden
    return squares * _element(consumer)


def _choice(workload: Workload, consumer: Consumer) -> int:
    """`second_order`: factor and inverse in one place, optimal weights, the downdate; greedy choice inside the pool, a
    batch's removal, or dropping what is gone. A search may remove anything, hence all. Of many rows there are sums.
    """
    columns, unit = consumer.columns, consumer.unit_columns
    hidden = min(workload.hidden, MOST_ROWS)
    gone, left = columns - consumer.kept or columns, columns - COMPACT_COLUMNS
    batch = min(round_columns(columns, unit), gone)
    pool = min(columns, 2 * round_columns(columns, unit))
    standing = columns**2 + columns * (hidden + unit + gone) + pool * (pool + hidden + gone)
    choosing = 3 * pool**2
    removing = (4 * batch + unit) * columns + batch * (gone + 2 * hidden)
    compacting = left * (gone + COMPACT_COLUMNS + hidden) if gone >= COMPACT_COLUMNS else 0
    fitting = columns**2 + (5 if workload.hidden > MOST_ROWS else 3) * columns * hidden
    return max(fitting, standing + max(choosing, removing, compacting)) * _element(consumer)


def _gradients(workload: Workload) -> Purposes:
    """`gradients`: the states in front of every block, and a piece on its way back."""
    logits = _LIVE_LOGIT_GRADIENTS * workload.piece * workload.vocabulary
    widest = max(workload.ffn_width, workload.attention_width)
    backward = _LIVE_BACKWARD * workload.piece * (widest + workload.hidden)
    scores = widest * workload.hidden * 4 * _FLOAT64 // FLOAT32_BYTES
    return {
        "hidden states in front of every block": (workload.layers + 3) * workload.states_bytes,
        "logits or gradients": max(logits, backward, scores) * FLOAT32_BYTES,
    }


def _nothing(workload: Workload) -> Purposes:
    return {}


def _influence(workload: Workload) -> Purposes:
    """`streams.hidden_states`: those under way, before and after; then a new copy of them."""
    return {
        "hidden states of the calibration text": 3 * workload.states_bytes,
        "intermediate values": max(workload.forward_bytes, workload.states_bytes),
    }


def _candidates(workload: Workload) -> Purposes:
    """`divergence`: embedded and dense states; those of all candidates before and behind a half layer; logits."""
    each = workload.states_bytes
    together = min(workload.candidates * each, max(each, STATES_BYTES))
    passes = {
        "hidden states of the calibration text": 2 * each,
        "hidden states of candidates": 2 * together,
        "intermediate values": workload.forward_bytes,
    }
    ends = {
        "hidden states of the calibration text": 2 * each,
        "hidden states of candidates": together,
        **_export(workload),
        "logits": _LIVE_LOGITS
        * min(workload.tokens, logit_tokens(workload.vocabulary))
        * workload.vocabulary
        * FLOAT32_BYTES,
    }
    return max((passes, ends, _influence(workload)), key=_total)


def _basis(workload: Workload) -> Purposes:
    """`hidden_slice`: states as they pass, their second moment and its eigenvectors with the solver's working space."""
    return {
        "hidden states of the calibration text": 3 * workload.states_bytes,
        "second moment and directions": 5 * workload.hidden**2 * _FLOAT64,
        "intermediate values": workload.forward_bytes,
    }


def _rankings(workload: Workload) -> Purposes:
    """`global_threshold`: what pruning would hold."""
    return _pruning(workload) if workload.streams else {}


def _levels(workload: Workload) -> Purposes:
    """A search: the model, the levels, and the most of building and judging them. The bench lives all the while."""
    building = {**_pruning(workload), "dense predictions": 2 * workload.states_bytes} if workload.streams else {}
    half = max(workload.ffn_width * 3, workload.attention_width * 4) * workload.hidden * FLOAT32_BYTES
    judging = {**_candidates(workload), "levels of one half layer": 4 * half}
    return {
        "the model": workload.resident_bytes,
        "repaired levels": min(MEMORY_BYTES, workload.level_bytes),
        **max((building, judging), key=_total),
    }


def _export(workload: Workload) -> Purposes:
    """`blocks`: the head as it passes, as stored and in float32, and the probe's logits in slices and joined."""
    rows = min(PIECE_ROWS, workload.vocabulary)
    logits = 2 * _PROBE_TOKENS * workload.vocabulary
    return {"rows of the head": (rows * workload.hidden * 3 // 2 + logits) * FLOAT32_BYTES}


def _embedded_rows(workload: Workload) -> int:
    """The distinct tokens' rows of the embedding, while they are spread over the text."""
    return min(workload.vocabulary, workload.tokens) * workload.hidden * FLOAT32_BYTES


def _element(consumer: Consumer) -> int:
    return _width_of(consumer.columns)


def _width_of(columns: int) -> int:
    """Bytes of a value of sums over this many columns."""
    return _FLOAT64 if columns <= WIDE else FLOAT32_BYTES


def _total(purposes: Purposes) -> int:
    return sum(purposes.values())


def _masks(workload: Workload) -> Purposes:
    """`masked_loss`: the model, the text in front of it, and what a step's masks run through, before and behind a half
    layer; before that the dense model is ranked. A masked consumer's input stands beside what it was."""
    _, drawn = workload.drawn
    ranking: Purposes = {"dense predictions": workload.states_bytes, **_rankings(workload)}
    states = drawn * workload.hidden * FLOAT32_BYTES
    tokens = min(drawn, logit_tokens(workload.vocabulary))
    # All masks of a step run together, which may be more than the text itself has.
    wide = replace(workload, tokens=max(drawn, workload.tokens))
    masked = min(drawn, wide.piece) * max(workload.ffn_width, workload.attention_width) * FLOAT32_BYTES
    steps: Purposes = {
        "hidden states of the calibration text": workload.states_bytes + _embedded_rows(workload),
        "hidden states of drawn masks": 2 * states,
        "intermediate values": wide.forward_bytes + masked,
        "logits": _LIVE_LOGITS * tokens * workload.vocabulary * FLOAT32_BYTES,
    }
    most: Purposes = max((ranking, steps), key=_total)
    return {"the model": workload.resident_bytes, **most}


_SURVEYS = {
    "none": _nothing,
    "influence": _influence,
    "candidates": _candidates,
    "basis": _basis,
    "rankings": _rankings,
    "levels": _levels,
    "masks": _masks,
}
