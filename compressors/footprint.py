"""What a checkpoint weighs: five quantities derived from tensor shapes alone.

With blocks b, tensors t of a block, |t| the element count, and e bytes per element of the checkpoint's type:

* params_blocks      = sum over blocks of |t|, norms and biases included;
* params_total       = params_blocks + embedding + final norm + output head (a tied head is the embedding: once);
* weights_bytes      = sum of |t| * bytes of t's own type, over all tensors in the files;
* kv_bytes_per_token = sum over blocks of |rows of k_proj| + |rows of v_proj|, times e. The rows are KV heads x head
  width; a key and a value are cached per row;
* flops_per_token    = 2 * (elements of all matrices in the blocks + vocabulary x hidden for the head): one multiply and
  one add per weight. The embedding is a look-up and costs none; attention scores depend on the context and are apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from artifacts.variant import Footprint
from compressors.headers import TensorHeader, element_bytes, read_headers

_BLOCK = re.compile(r"^model\.layers\.(\d+)\.")
_CACHED = ("self_attn.k_proj.weight", "self_attn.v_proj.weight")
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def footprint_of_folder(folder: Path, *, tied: bool) -> Footprint:
    """Raises CheckpointError if the weight files cannot be read."""
    return footprint_of_tensors(read_headers(folder), tied=tied)


def footprint_of_tensors(tensors: Mapping[str, TensorHeader], *, tied: bool) -> Footprint:
    """The formulas above. A tied head that is stored as a tensor of its own all the same counts in no quantity."""
    counted = {name: t for name, t in tensors.items() if not (tied and name == HEAD)}
    blocks = {name: t for name, t in counted.items() if _BLOCK.match(name)}
    cached_rows = sum(t.shape[0] for name, t in blocks.items() if name.endswith(_CACHED))
    matrices = sum(t.elements for t in blocks.values() if len(t.shape) == 2)
    head = counted.get(HEAD, counted[EMBEDDING])
    return Footprint(
        params_total=sum(t.elements for t in counted.values()),
        params_blocks=sum(t.elements for t in blocks.values()),
        weights_bytes=sum(t.size_bytes for t in counted.values()),
        kv_bytes_per_token=cached_rows * element_bytes(head.dtype),
        flops_per_token=2 * (matrices + head.elements),
    )
