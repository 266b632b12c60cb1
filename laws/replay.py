"""Which command measures it again? One line per run, comparison, search and sweep, from what each recorded."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from artifacts.arrivals import Gamma
from artifacts.campaign import Campaign
from artifacts.capacity import CapacitySearch
from artifacts.run import Level, RunManifest
from artifacts.sweep import Sweep
from artifacts.units import number


def loadtest_command(out: str, run: RunManifest) -> str:
    against = f"--against {run.against}" if run.against else ""
    context = f"--context-tokens {run.context_tokens}" if run.clipped_requests else ""
    trace = run.trace.options if run.trace else ""
    times = f"--duration {run.duration_s:g} --blocks {run.blocks}"
    load = (against, run.level.options, trace, context, times)
    return _command("loadtest", run.url, run.models, *load, run.workload.options, out=out)


def compare_command(out: str, campaign: Campaign, run: RunManifest) -> str:
    """`run` is any of its levels': they share window and lead-in."""
    blocks = campaign.design.blocks
    times = f"--blocks {blocks} --window {number(run.duration_s / blocks)} --warmup {number(run.warmup_s)}"
    load = _levels([level.level for level in campaign.levels], spaced=True)
    control = "" if campaign.controls else "--no-control"
    asked = (f"--against {campaign.against}", load, times, control, campaign.workload.options)
    return _command("compare", campaign.url, campaign.models, *asked, out=out)


def sweep_command(out: str, sweep: Sweep) -> str:
    load = _levels([point.level for point in sweep.variants[0].points], spaced=False)
    times = f"--duration {number(sweep.duration_s)} --blocks {sweep.blocks}"
    slo = f"--slo {shlex.quote(sweep.slo.text)}" if sweep.slo else ""
    models = [variant.model for variant in sweep.variants]
    return _command("sweep", sweep.url, models, load, times, slo, sweep.workload.options, out=out)


def search_command(out: str, search: CapacitySearch) -> str:
    policy = search.policy
    rates = {
        "start-rate": policy.start_rate_per_s,
        "lowest-rate": policy.lowest_rate_per_s,
        "highest-rate": policy.highest_rate_per_s,
        "precision": policy.precision,
        "look": search.look_s,
        "most-looks": policy.most_looks,
        "warmup": search.warmup_s,
    }
    asked = " ".join(f"--{option} {number(value)}" for option, value in rates.items())
    burstiness = "" if search.burstiness is None else f"--burstiness {number(search.burstiness)}"
    arrivals = f"--arrivals {search.arrivals}"
    models = [variant.model for variant in search.variants]
    slo = f"--slo {shlex.quote(search.slo.text)}"
    return _command("search", search.url, models, slo, asked, arrivals, burstiness, search.workload.options, out=out)


def _command(verb: str, url: str, models: Iterable[str], *asked: str, out: str) -> str:
    named = " ".join(f"--model {model}" for model in models)
    parts = (f"prunebench {verb} --url {url}", named, *asked, f"--out {out}")
    return " ".join(part for part in parts if part)


def _levels(levels: list[Level], *, spaced: bool) -> str:
    """`spaced`: the verb also asks how requests are spaced."""
    streams = ",".join(str(level.concurrency) for level in levels if level.concurrency is not None)
    opened = [level for level in levels if level.arrivals is not None]
    rates = ",".join(number(level.rate_per_s) for level in opened if level.rate_per_s is not None)
    parts = [f"--levels {streams}"] if streams else []
    if rates:
        parts.append(f"--rates {rates}")
    if spaced and opened and opened[0].arrivals:
        arrivals = opened[0].arrivals  # the verb asks for one kind
        parts.append(f"--arrivals {arrivals.kind}")
        parts += [f"--burstiness {number(arrivals.burstiness)}"] if isinstance(arrivals, Gamma) else []
    return " ".join(parts)
