"""The options of `prunebench loadtest` that say what traffic is asked for, and their help.

They stand apart from their reading, so that `--help` needs nobody's package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunebench.choices import Arrivals, TraceLayout

LENGTH_LAWS = "uniform:LOW:HIGH, lognormal:MEDIAN:P95 or normal:MEAN:STD[:LOW:HIGH]"

Url = Annotated[str, typer.Option(help="The endpoint, e.g. http://127.0.0.1:8000.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides arrivals, lengths and prompts.")]
Models = Annotated[
    list[str],
    typer.Option(help="Model to measure, or a mix as in dense=0.9,pruned=0.1; may be given several times."),
]
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
    str | None, typer.Option(metavar="LENGTH", help=f"Tokens of each prompt, exactly: 128, or {LENGTH_LAWS}.")
]
OutputTokens = Annotated[
    str | None, typer.Option(metavar="LENGTH", help="Tokens of each answer, exactly: 64, or a law as for prompts.")
]
ChatOption = Annotated[
    Path | None,
    typer.Option(help="Ask conversations instead of token ids: JSON lines with `messages`, or MT-bench's `turns`."),
]
HardwareFile = Annotated[
    Path | None,
    typer.Option(help="JSON with memory_bytes_per_s and flops_per_s: prints the ceiling first, then what was reached."),
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
