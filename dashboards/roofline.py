"""How near is the hardware's limit, and what does a token cost in energy?

vLLM estimates the operations and the bytes of each step from the model's shape (`--enable-mfu-metrics`). Beside the
peaks, which a person enters, they say whether memory or arithmetic binds an engine (Williams et al. 2009), and so
whether removing weights can make it faster at all.
"""

from __future__ import annotations

from dashboards.boards import Board
from dashboards.metrics import (
    FLOPS,
    GPU_ENERGY,
    GPU_MEMORY_CLOCK,
    GPU_MEMORY_USED,
    GPU_POWER,
    GPU_POWER_LIMIT,
    GPU_SM_CLOCK,
    GPU_TEMPERATURE,
    GPU_THROTTLED,
    OUTPUT_TOKENS,
    READ_BYTES,
    WRITE_BYTES,
    Metric,
)
from dashboards.panels import Line, Panel, Row, Unit
from dashboards.promql import CHOSEN, gauge, rate, total


def flops() -> str:
    return total(rate(FLOPS, CHOSEN), "variant")


def moved_bytes() -> str:
    read, written = (total(rate(metric, CHOSEN), "variant") for metric in (READ_BYTES, WRITE_BYTES))
    return f"({read} + {written})"


def intensity() -> str:
    """FLOP per byte: left of peak FLOP/s over peak bytes/s memory binds, right of it arithmetic."""
    return f"{flops()} / {moved_bytes()}"


def share_of_bandwidth() -> str:
    return f"{moved_bytes()} / ($peak_bandwidth * 1e9)"


def share_of_flops() -> str:
    return f"{flops()} / ($peak_flops * 1e12)"


def bytes_per_token() -> str:
    return f"{moved_bytes()} / {total(rate(OUTPUT_TOKENS, CHOSEN), 'variant')}"


def joules_per_token() -> str:
    """Of all boards and all variants: a board's counter does not know for whom it worked."""
    return f"{total(rate(GPU_ENERGY))} / {total(rate(OUTPUT_TOKENS))}"


def _modelled(title: str, about: str, expr: str, unit: Unit) -> Panel:
    return Panel(title=title, about=about, lines=(Line(expr, "{{variant}}"),), unit=unit, needs="mfu")


def _roofline() -> Row:
    return Row(
        "Roofline",
        (
            _modelled(
                "Share of peak bandwidth",
                "Bytes moved per second over the peak you entered. Decoding at small batches should come near 1; far "
                "below it the host, not the memory, is the limit.",
                share_of_bandwidth(),
                "percentunit",
            ),
            _modelled(
                "Share of peak arithmetic (MFU)",
                "Operations per second over the peak you entered. Prefill and large batches drive it up.",
                share_of_flops(),
                "percentunit",
            ),
            _modelled(
                "Arithmetic intensity",
                "Operations per byte. Below peak FLOP/s over peak bytes/s (206 for the defaults) memory is the limit.",
                intensity(),
                "suffix: FLOP/byte",
            ),
            _modelled("Operations/s", "Per device.", flops(), "suffix: FLOP/s"),
            _modelled("Bytes moved/s", "Read and written, per device.", moved_bytes(), "Bps"),
            _modelled(
                "Bytes moved per output token",
                "What pruning is to lower: weights shared by the batch, and the sequence's own KV cache.",
                bytes_per_token(),
                "bytes",
            ),
        ),
    )


def _gpu(title: str, about: str, expr: str, unit: Unit, legend: str = "GPU {{gpu}}", width: int = 6) -> Panel:
    return Panel(title=title, about=about, lines=(Line(expr, legend),), unit=unit, needs="gpu", width=width)


def _reading(title: str, about: str, metric: Metric, unit: Unit) -> Panel:
    return _gpu(title, about, gauge(metric), unit)


def _energy() -> Row:
    power = Panel(
        title="Power",
        about="What the boards draw, and their cap. At the cap clocks fall, and with them every latency.",
        lines=(Line(gauge(GPU_POWER), "GPU {{gpu}}"), Line(gauge(GPU_POWER_LIMIT), "cap of GPU {{gpu}}")),
        unit="watt",
        needs="gpu",
        width=6,
    )
    return Row(
        "Energy and clocks",
        (
            power,
            _gpu(
                "Energy per output token",
                "From the boards' energy counters, idle power included; all boards and variants together, so ask it "
                "while one variant has all the traffic.",
                joules_per_token(),
                "suffix: J/token",
                "all boards",
            ),
            _reading("Multiprocessor clock", "Level while measuring, or runs do not compare.", GPU_SM_CLOCK, "hertz"),
            _reading("Memory clock", "Decoding is as fast as this is.", GPU_MEMORY_CLOCK, "hertz"),
            _reading("Temperature", "Healthy: below the board's slowdown point.", GPU_TEMPERATURE, "celsius"),
            _reading("Memory in use", "Weights, KV caches and what the engines reserve.", GPU_MEMORY_USED, "bytes"),
            _gpu(
                "Clocks held down",
                "1 while the reason holds: power cap, heat, brake. Healthy: 0; a measurement during 1 is void.",
                gauge(GPU_THROTTLED),
                "none",
                "GPU {{gpu}} {{reason}}",
                12,
            ),
        ),
    )


BOARD = Board(
    name="roofline",
    title="Prunebench: roofline and energy",
    about="How near the hardware's limit the engines are, and what a token costs in energy.",
    variables=("variant", "peak_bandwidth", "peak_flops"),
    rows=(_roofline(), _energy()),
)
