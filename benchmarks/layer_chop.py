"""Layers removed by place alone, then trained on: what is lost, and what so many tokens of the corpus bring back.

    python benchmarks/layer_chop.py [--tokens N] [--render-only]

On the embedded demo model, with the two commands that a user would give: `compress --method layer_chop` and `recover
--method full`. Beside it the layers that measured divergence chooses, treated alike. Finished arms are kept.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from artifacts.progress import silent
from artifacts.provenance import collect_provenance
from benchmarks.pages import draw_page, made_with, page_parser, read_raw, write_raw
from benchmarks.stories import write_parts
from compressors.pipeline import compress
from compressors.quality import EvaluationRequest, evaluate
from compressors.recovery.recover import RecoveryRequest, recover
from compressors.request import CompressionRequest
from compressors.verify import verify_variant
from modeling.python_corpus import load_corpus

STEM = Path(__file__).with_name("layer_chop_cpu_202611")
DEMO = Path(__file__).resolve().parent.parent / "prunebench" / "demo_model"
RATIO = 0.25
TOKENS = 25_000
EVALUATED_TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class Arm:
    """`settings` as `--set` takes them."""

    method: str
    settings: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return " ".join((f"`{self.method}`", *self.settings))


ARMS = (
    Arm("layer_chop", ("place=end",)),
    Arm("layer_chop", ("place=interleaved",)),
    Arm("greedy_kl"),
)


def main() -> None:
    torch.set_num_threads(1)
    parser = page_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="training tokens of each arm")
    options = parser.parse_args()
    if not options.render_only:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), options.tokens)
    draw_page(STEM, render)


def measure(folder: Path, tokens: int) -> None:
    """Adds the arms that are missing, saving after each."""
    corpora = [load_corpus(split).texts for split in ("calibration", "held_out")]
    calibration, held_out = write_parts(folder, dict(zip(("calibration", "held_out"), corpora, strict=True)))
    raw = read_raw(STEM) if STEM.with_suffix(".json").is_file() else {"rows": []}
    raw |= {"provenance": collect_provenance().model_dump(mode="json"), "dense": _quality(DEMO, held_out)}
    done = {(row["method"], tuple(row["settings"])) for row in raw["rows"]}
    for arm in ARMS:
        if (arm.method, arm.settings) not in done:
            raw["rows"].append(_row(arm, folder, calibration, held_out, tokens))
            write_raw(STEM, raw)
            sys.stderr.write(f"{arm.label}\n")


def _row(arm: Arm, folder: Path, calibration: Path, held_out: Path, tokens: int) -> dict[str, Any]:
    chopped = folder / "-".join((arm.method, *arm.settings))
    healed = chopped.with_name(chopped.name + "-healed")
    request = CompressionRequest(
        model=str(DEMO),
        out=chopped,
        method=arm.method,
        ratio=RATIO,
        settings=arm.settings,
        units=("layers",),
        calibration=str(calibration),
        calibration_tokens=8192,
    )
    manifest = compress(request, verify=verify_variant)
    after = recover(
        RecoveryRequest(variant=chopped, out=healed, method="full", text=calibration, tokens=tokens),
        silent,
        verify=verify_variant,
    )
    assert after.recovery is not None
    return {
        **asdict(arm),
        "removed_layers": [layer.index for layer in manifest.layers if not layer.present],
        "params_ratio": manifest.ratios.params_total,
        "trained_tokens": after.recovery.tokens,
        "before": _quality(chopped, held_out),
        "after": _quality(healed, held_out),
        "compress_s": manifest.cost.wall_s,
    }


def _quality(folder: Path, text: Path) -> dict[str, float | None]:
    found = evaluate(EvaluationRequest(model=folder, text=text, reference=DEMO, max_tokens=EVALUATED_TOKENS))
    return {"loss_nats": found.loss_nats, "js_nats": found.js_nats}


def render(raw: dict[str, Any]) -> str:
    """The page, from the raw data alone."""
    dense = raw["dense"]["loss_nats"]
    header = ("layers chosen by", "layers gone", "parameters gone", "tokens trained on", "loss before", "loss after")
    lines = [
        "# Layers chopped by place, then trained on",
        "",
        f"The embedded demo model loses {RATIO:.0%} of its layers. Held-out loss in nats per token on "
        f"{EVALUATED_TOKENS:,} predicted tokens, the Jensen-Shannon divergence from the dense model in brackets; dense "
        f"{dense:.3f}. `compress --method layer_chop --ratio {RATIO:g} --units layers`, then `recover --method full "
        f"--tokens N`; the tokens are counted by the recovery's record. One run an arm.",
        "",
        f"Made with {made_with(raw['provenance'])}.",
        "",
        "| " + " | ".join(header) + " |",
        "| " + " | ".join(["---"] * len(header)) + " |",
        *(f"| {' | '.join(cells_of(row))} |" for row in raw["rows"]),
    ]
    return "\n".join(lines) + "\n"


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    gone = ", ".join(map(str, row["removed_layers"]))
    values = (f"{row[when]['loss_nats']:.3f} ({row[when]['js_nats']:.3f})" for when in ("before", "after"))
    label = Arm(row["method"], tuple(row["settings"])).label
    return (label, gone, f"{row['params_ratio']:.1%}", f"{row['trained_tokens']:,}", *values)


if __name__ == "__main__":
    main()
