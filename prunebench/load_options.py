"""What traffic do the options of `prunebench loadtest` ask for? Their help, and their reading."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from artifacts.arrivals import Spacing
from artifacts.errors import ConfigError
from artifacts.lengths import Length, TraceTokens
from artifacts.run import Level, Workload
from artifacts.traffic import ChatFile, TraceFormat, TraceSource
from prunebench.choices import Arrivals, TraceLayout

DEFAULT_DURATION_S = 60.0
DEFAULT_PROMPT_TOKENS, DEFAULT_OUTPUT_TOKENS = 128, 64
_LENGTHS = {
    "uniform": ("low", "high"),
    "lognormal": ("median", "p95"),
    "normal": ("mean", "std", "low", "high"),
}
_ALLOWED = "uniform:LOW:HIGH, lognormal:MEDIAN:P95 or normal:MEAN:STD[:LOW:HIGH]"

Concurrency = Annotated[
    int | None,
    typer.Option(min=1, help="Closed loop: so many streams kept busy; each asks again when its answer has ended."),
]
RateOption = Annotated[
    float | None, typer.Option(help="Open loop: this many requests per second, whatever the server does.")
]
ArrivalsOption = Annotated[
    Arrivals,
    typer.Option(help="How requests are spaced: equally, as independent users (poisson), or in bursts (gamma)."),
]
BurstinessOption = Annotated[
    float | None,
    typer.Option(help="For gamma: shape of the gaps, as in vLLM's benchmark. 1 is poisson, 0.5 burstier, 4 smoother."),
]
StepOption = Annotated[
    str | None,
    typer.Option(metavar="RATExSECONDS,...", help="Open loop, in each block: 2x10,4x10 is 2/s for 10 s, then 4/s."),
]
RampOption = Annotated[
    str | None, typer.Option(metavar="FROM:TO", help="Open loop: a rate that rises or falls over each block's window.")
]
TraceOption = Annotated[
    Path | None,
    typer.Option(help="Recorded traffic: its times, unless a load is given, and its lengths, unless they are given."),
]
TraceFormatOption = Annotated[
    TraceLayout,
    typer.Option(
        help="azure: TIMESTAMP, ContextTokens, GeneratedTokens. mooncake: timestamp in ms, input_length, "
        "output_length, hash_ids. generic: time_s, prompt_tokens, output_tokens. CSV, or JSON lines if named .jsonl."
    ),
]
TraceSpanOption = Annotated[
    str | None, typer.Option(metavar="FROM:TO", help="Only these recorded seconds, as in 600:1200. Default: all.")
]
TimeScaleOption = Annotated[
    float | None, typer.Option(help="Multiplies recorded times: 0.1 replays ten times as fast. Default: 1.")
]
LengthScaleOption = Annotated[
    float | None, typer.Option(help="Multiplies recorded lengths, to fit a smaller model. Default: 1.")
]
Duration = Annotated[
    float | None, typer.Option(help="Measured seconds per model. Default: 60, or what --step comes to.")
]
ClientProcesses = Annotated[
    int, typer.Option(min=1, help="Processes of the load client, which share the schedule; each wants a core.")
]
Calibrated = Annotated[
    bool, typer.Option("--calibrate", help="Measure the client as well, before and after, under the same load.")
]
StopOn = Annotated[
    str, typer.Option(help="End the run after a block in which it is so, as in ttft_p95>500ms,errors>1%.")
]
ContextOption = Annotated[
    int | None,
    typer.Option(min=2, help="Cut drawn lengths to fit into this many tokens. Default: the models' own context."),
]
PromptTokens = Annotated[
    str | None, typer.Option(metavar="LENGTH", help=f"Tokens of each prompt, exactly: 128, or {_ALLOWED}.")
]
OutputTokens = Annotated[
    str | None, typer.Option(metavar="LENGTH", help="Tokens of each answer, exactly: 64, or a law as for prompts.")
]
ChatOption = Annotated[
    Path | None,
    typer.Option(help="Ask conversations instead of token ids: JSON lines with `messages`, or MT-bench's `turns`."),
]
PrefixShare = Annotated[
    float | None,
    typer.Option(help="To measure a prefix cache: this share of each prompt, from its start, is shared with others."),
]
Prefixes = Annotated[int | None, typer.Option(min=1, help="How many different shared prefixes there are. Default: 1.")]
NaturalEnds = Annotated[
    bool,
    typer.Option("--natural-ends", help="Let models end answers themselves: real, but models do different work then."),
]


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
    trace: TraceSource | None,
    chat: Path | None,
    seed: int,
    extras: dict[str, Any],
) -> Workload:
    """`lengths` are --prompt-tokens and --output-tokens; `extras` holds prefix_share, prefixes and natural_ends."""
    prompt, output = lengths
    if chat is not None and prompt is not None:
        raise ConfigError("--prompt-tokens has no effect with --chat: conversations are as long as they are.")
    if extras["prefixes"] is not None and extras["prefix_share"] is None:
        raise ConfigError("--prefixes has no effect without --prefix-share. Give both or leave it out.")
    shares = trace is not None and trace.format == "mooncake"
    prompts = TraceTokens(shared_blocks=shares) if trace else DEFAULT_PROMPT_TOKENS
    outputs = TraceTokens() if trace else DEFAULT_OUTPUT_TOKENS
    prefix = {"share": extras["prefix_share"], "prefixes": extras["prefixes"] or 1}
    fields = {
        "prompt_tokens": None if chat else prompts if prompt is None else read_length("--prompt-tokens", prompt, 1),
        "output_tokens": outputs if output is None else read_length("--output-tokens", output, 2),
        "seed": seed,
        "prefix": None if extras["prefix_share"] is None else prefix,
        "chat": None if chat is None else ChatFile(path=str(chat)),
        "natural_ends": extras["natural_ends"],
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
    return ConfigError(f"{option} {text!r} is no length. Allowed: a number of tokens from {least} up, {_ALLOWED}.")


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
