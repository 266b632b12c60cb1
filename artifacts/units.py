"""The one place that turns quantities into text for people."""

from __future__ import annotations

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


def format_bytes(size_bytes: float) -> str:
    """`format_bytes(10_485_760)` is '10.0 MiB'."""
    value, unit = float(size_bytes), 0
    while abs(value) >= 1024 and unit < len(_BINARY) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.1f} {_BINARY[unit]}"


def format_seconds(duration_s: float) -> str:
    """Three significant figures below a minute, `2 min 05 s` above."""
    if abs(duration_s) >= 60:
        minutes, seconds = divmod(round(duration_s), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
    if abs(duration_s) >= 1 or duration_s == 0:
        return f"{duration_s:.3g} s"
    if abs(duration_s) >= 1e-3:
        return f"{duration_s * 1e3:.3g} ms"
    return f"{duration_s * 1e6:.3g} µs"


def format_count(count: float) -> str:
    """`format_count(5_115_072)` is '5.12 M'."""
    for scale, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= scale:
            return f"{count / scale:.3g} {suffix}"
    return f"{count:.3g}"


def quantity(value: float, unit: str) -> str:
    """`quantity(1.98e9, "Hz")` is '1.98 GHz', `quantity(0.0042, "J")` '4.2 mJ'."""
    small = next((pair for pair in ((1e-3, "m"), (1e-6, "µ")) if pair[0] <= abs(value) < 1e3 * pair[0]), None)
    if small is not None and abs(value) < 1:
        return f"{value / small[0]:.3g} {small[1]}{unit}"
    text = format_count(value)
    return text + unit if text[-1].isalpha() else f"{text} {unit}"


def format_ratio(ratio: float) -> str:
    """A share in [0, 1] as a percentage with one decimal."""
    return f"{ratio * 100:.1f} %"


def number(value: float) -> str:
    """Short, and exact enough to ask for the same again."""
    return f"{value:.15g}"
