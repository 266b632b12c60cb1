"""The two numbers of a machine that bound a decoder's speed: how fast it reads its memory, how fast it multiplies."""

from __future__ import annotations

from artifacts.document import Document


class Hardware(Document):
    """What the serving machine can do, measured or stated."""

    name: str
    memory_bytes_per_s: float
    flops_per_s: float
    source: str
