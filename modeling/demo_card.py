"""The demo model's card, drawn from the facts that its training wrote."""

from __future__ import annotations

import math
from typing import Any

_CARD = """# Prunebench demo model

A {millions:.2f} M-parameter Llama ({layers} layers, hidden {hidden}, FFN {ffn}, {query_heads} query heads in {kv_heads}
KV groups of head width {head_dim}, vocabulary {vocabulary}, tied embeddings, bfloat16), trained from nothing on the
Python standard library's sources and documentation topics. It writes text that looks like Python and knows nothing
else: it is here so that pruning, serving and load tests have something real to work on without a download.

| held-out loss, nats per token | value |
| --- | --- |
| uniform guess | {uniform:.3f} |
| unigram | {unigram_loss_nats:.3f} |
| bigram (Witten-Bell) | {bigram_loss_nats:.3f} |
| this model | **{held_out_loss_nats:.3f}** |

Held out: {held_out_tokens:,} tokens ({held_out_characters:,} characters) in files chosen by a hash of their path,
windows of {window_tokens} tokens; none of them was trained on. In bits per character the model needs
{bits_per_character:.2f}.

* Training: {seen_tokens:,} tokens ({epochs:.1f} passes over {train_tokens:,}), {steps} steps of {batch_windows} x
  {window_tokens} tokens, Muon on the blocks' matrices and AdamW on the rest, seed {seed}, {threads} thread(s),
  CPython {python}, torch {torch}.
* Reproduce: `python -m modeling.train_demo --out prunebench/demo_model`. Another CPython version carries slightly
  different text, so the numbers then differ slightly; the corpus hashes are in `training.json`.
* Licence of the text: the Python Software Foundation License. The weights: Apache-2.0, like the project.
* Not for: anything but measuring. It was not filtered, tuned or aligned.
"""


def render_card(facts: dict[str, Any]) -> str:
    """Markdown; `facts` is the content of `training.json`."""
    recipe = facts["recipe"]
    bits = facts["held_out_loss_nats"] * facts["held_out_tokens"] / facts["held_out_characters"] / math.log(2)
    derived = {
        "millions": facts["parameters"] / 1e6,
        "uniform": math.log(recipe["vocabulary"]),
        "epochs": facts["seen_tokens"] / facts["train_tokens"],
        "bits_per_character": bits,
    }
    return _CARD.format(**{**facts, **recipe, **derived})
