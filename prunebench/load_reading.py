"""What do the traffic options of `prunebench loadtest` come to? Faults are told by the option that has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from artifacts.arrivals import Spacing
from artifacts.errors import ConfigError
from artifacts.lengths import Length, TraceTokens
from artifacts.run import Level, Workload
from artifacts.traffic import ChatFile, TraceFormat, TraceSource
from prunebench.choices import parse_widths
from prunebench.load_options import LENGTH_LAWS

_DEFAULT_PROMPT_TOKENS, _DEFAULT_OUTPUT_TOKENS = 128, 64
_LENGTHS = {
    "uniform": ("low", "high"),
    "lognormal": ("median", "p95"),
    "normal": ("mean", "std", "low", "high"),
}


def read_level(load: dict[str, Any], trace: Path | None, spacing: Spacing, burstiness: float | None) -> Level:
    """`load` holds --concurrency, --rate, --step and --ramp, of which one is given, or none beside a trace."""
    given = {option: value for option, value in load.items() if value is not None}
    if len(given) > 1 or not (given or trace):
        raise ConfigError(
            f"The load is not defined: give one of {', '.join(load)} or --trace, "
            f"not {' and '.join(given) or 'none of them'}."
        )
    option, value = next(iter(given.items()), ("--trace", ""))
    if (burstiness is not None) != (spacing == "gamma") or (
        spacing == "gamma" and option in ("--concurrency", "--trace")
    ):
        raise ConfigError(
            "--arrivals gamma and --burstiness SHAPE belong together and to --rate, --step or --ramp. "
            "Give both or none."
        )
    if option == "--concurrency":
        return Level.parse({"concurrency": value}, option)
    spaced = {"spacing": spacing} | ({} if burstiness is None else {"burstiness": burstiness})
    arrivals: dict[str, Any] = {"kind": "trace"}
    if option == "--rate":
        arrivals = {"kind": spacing, "rate_per_s": value} | ({} if burstiness is None else {"burstiness": burstiness})
    elif option == "--step":
        arrivals = {"kind": "step", "steps": _steps(value)} | spaced
    elif option == "--ramp":
        start, end = _numbers(option, value, ":", "FROM:TO in requests per second, as in 1:8")
        arrivals = {"kind": "ramp", "from_rate_per_s": start, "to_rate_per_s": end} | spaced
    return Level.parse({"arrivals": arrivals}, f"{option} {value}".strip())


def read_levels(
    streams: str | None, rates: str | None, spacing: Spacing = "poisson", burstiness: float | None = None
) -> tuple[Level, ...]:
    """Closed loops of --levels streams, then open loops of --rates requests/s. Either list may be missing."""
    closed = [
        read_level({"--concurrency": count}, None, "poisson", None) for count in parse_widths("--levels", streams) or ()
    ]
    opened = [read_level({"--rate": rate}, None, spacing, burstiness) for rate in _rates(rates)]
    return (*closed, *opened)


def _rates(text: str | None) -> tuple[float, ...]:
    try:
        return () if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--rates {text!r} is not a list of numbers, as in 0.5,1,2.") from error


def read_trace_source(
    path: Path | None, layout: TraceFormat, span: str | None, time_scale: float | None, length_scale: float | None
) -> TraceSource | None:
    """Raises ConfigError for what only a trace can use where there is none."""
    scales = {"--trace-span": span, "--time-scale": time_scale, "--length-scale": length_scale}
    if path is None:
        unused = [option for option, value in scales.items() if value is not None]
        if unused:
            raise ConfigError(f"{unused[0]} has no effect without --trace. Give --trace FILE or leave it out.")
        return None
    start, _, end = (span or "0:").partition(":")
    fields = {
        "path": str(path),
        "format": layout,
        "from_s": start or 0,
        "to_s": end or None,
        "time_scale": 1.0 if time_scale is None else time_scale,
        "length_scale": 1.0 if length_scale is None else length_scale,
    }
    return TraceSource.parse(fields, f"--trace {path}")


def read_workload(
    lengths: tuple[str | None, str | None],
    seed: int,
    trace: TraceSource | None = None,
    chat: Path | None = None,
    shared: tuple[float | None, int | None] = (None, None),
    natural_ends: bool = False,
) -> Workload:
    """`lengths` are --prompt-tokens and --output-tokens, `shared` are --prefix-share and --prefixes."""
    prompt, output = lengths
    prefix_share, prefixes = shared
    if chat is not None and prompt is not None:
        raise ConfigError("--prompt-tokens has no effect with --chat: conversations are as long as they are.")
    if prefixes is not None and prefix_share is None:
        raise ConfigError("--prefixes has no effect without --prefix-share. Give both or leave it out.")
    shares = trace is not None and trace.format == "mooncake"
    prompts = TraceTokens(shared_blocks=shares) if trace else _DEFAULT_PROMPT_TOKENS
    outputs = TraceTokens() if trace else _DEFAULT_OUTPUT_TOKENS
    prefix = {"share": prefix_share, "prefixes": prefixes or 1}
    fields = {
        "prompt_tokens": None if chat else prompts if prompt is None else read_length("--prompt-tokens", prompt, 1),
        "output_tokens": outputs if output is None else read_length("--output-tokens", output, 2),
        "seed": seed,
        "prefix": None if prefix_share is None else prefix,
        "chat": None if chat is None else ChatFile(path=str(chat)),
        "natural_ends": natural_ends,
    }
    return Workload.parse(fields, "the workload")


def read_length(option: str, text: str, least: int) -> Length:
    """'128' or 'lognormal:128:512' → what it says. Raises ConfigError for anything else, and a number below `least`."""
    name, *values = text.split(":")
    fields: Any = dict(zip(_LENGTHS.get(name, ()), values, strict=False)) | {"kind": name}
    if name not in _LENGTHS:
        fields = name if not values else text
    elif not 2 <= len(values) <= len(_LENGTHS[name]):
        raise _no_length(option, text, least)
    try:
        found: Length = TypeAdapter(Length).validate_python(fields)
    except ValidationError as error:
        raise _no_length(option, text, least) from error
    if isinstance(found, int) and found < least:
        raise _no_length(option, text, least)
    return found


def _no_length(option: str, text: str, least: int) -> ConfigError:
    return ConfigError(f"{option} {text!r} is no length. Allowed: a number of tokens from {least} up, {LENGTH_LAWS}.")


def _steps(text: str) -> list[dict[str, float]]:
    steps = [
        _numbers("--step", part, "x", "RATExSECONDS[,RATExSECONDS...], as in 2x10,4x10") for part in text.split(",")
    ]
    return [{"rate_per_s": rate, "for_s": seconds} for rate, seconds in steps]


def _numbers(option: str, text: str, between: str, form: str) -> tuple[float, float]:
    try:
        first, second = map(float, text.split(between))
    except ValueError as error:
        raise ConfigError(f"{option} {text!r} is not {form}.") from error
    return first, second
