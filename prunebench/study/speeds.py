"""How much faster is a cell's checkpoint than the dense model, in the two ways that speed is claimed?

Paper mode is one forward pass of a whole prompt in Transformers; serving mode is a paired load test of both models
behind one endpoint. Both are ratios of pairs that saw the same minutes; a dense time from another hour is of no use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from artifacts.energy import ENERGY_RATIOS, Energy
from artifacts.errors import LoadTestError
from artifacts.fleet import Fleet, VariantEntry
from artifacts.measures import TOTAL_MEASURES
from artifacts.progress import Progress
from artifacts.run import ArmSummary, Comparison, Estimate, load_run
from artifacts.study import DENSE, PaperSpeed, ServingSpeed, SpeedAt
from artifacts.traffic import Workload
from compressors.forward_timing import ForwardRequest, time_forward
from prunebench.study.checkpoints import Checkpoint, Place

_VARIANT = "variant"
_DUMMY = ("--load-format", "dummy")
_TWO_BYTES = 2
_ONE_BYTE_FLAG = "fp8"
# Of the load test's measures, those that sizing a server needs; the ones with a paired ratio have an interval.
_QUANTITIES = (
    "output_tokens_per_s",
    "requests_per_s",
    *(f"{name}_p{p}_s" for name in ("ttft", "tpot", "e2e") for p in (50, 95)),
)


def paper_speeds(
    speed: PaperSpeed, place: Place, base: Checkpoint, made: Checkpoint, progress: Progress
) -> list[SpeedAt]:
    """Raises what loading the models and timing them raises."""
    request = ForwardRequest(
        base=str(base.folder),
        variant=str(made.folder),
        batch=speed.batch,
        tokens=speed.tokens,
        pairs=speed.pairs,
        device=place.device,
        drawn=made.drawn,
    )
    times = time_forward(request, progress)
    (low, high), (base_s, variant_s) = times.interval, times.medians_s
    return [
        SpeedAt(
            mode="paper",
            level=speed.label,
            quantity="forward_s",
            speedup=times.speedup,
            low=low,
            high=high,
            pairs=speed.pairs,
            base_value=base_s,
            value=variant_s,
            unit="s",
        )
    ]


def serving_speeds(
    speed: ServingSpeed, place: Place, base: Checkpoint, made: Checkpoint, raw: Path, progress: Progress
) -> list[SpeedAt]:
    """What the levels gave that passed their gates; the load tests' own files stay in `raw`.

    Raises LoadTestError if no level did, and what starting the engines and the load test raise.
    """
    from loadtest.campaign import CampaignRequest, run_campaign
    from loadtest.design import plan_design
    from loadtest.pairing import SPEEDUPS
    from prunebench.demo_server import running_server

    fleet_file, out = place.scratch / f"{place.plan.cell}-{speed.name}.json", raw / speed.name
    if (out / "campaign.json").is_file():
        return speeds_of(speed, out)
    fleet_of(speed, base, made).save(fleet_file)
    raw.mkdir(parents=True, exist_ok=True)
    with running_server(fleet_file, raw / f"{speed.name}-server.log", progress) as url:
        run_campaign(
            CampaignRequest(
                url=url,
                models=(_VARIANT,),
                against=DENSE,
                levels=speed.levels,
                workload=Workload(prompt_tokens=speed.prompt_tokens, output_tokens=speed.output_tokens),
                design=plan_design(
                    blocks=speed.blocks, wanted=None, spread=None, pilot=None, family=len(speed.levels) * len(SPEEDUPS)
                ),
                window_s=speed.window_s,
                warmup_s=speed.warmup_s,
                out=out,
            ),
            progress,
        )
    fleet_file.unlink()
    return speeds_of(speed, out)


def fleet_of(speed: ServingSpeed, base: Checkpoint, made: Checkpoint) -> Fleet:
    """Both models side by side with equal KV caches, or with equal sums of weights and KV cache."""
    defaults = Fleet(variants=(VariantEntry(name=DENSE, engine="sim"),))
    kv_bytes = speed.kv_cache_bytes or defaults.kv_cache_bytes
    freed = _weights_bytes(base) - _weights_bytes(made) if speed.fairness == "memory" else 0
    drawn = made.drawn and speed.engine == "vllm"
    entries = tuple(
        VariantEntry(
            name=name,
            model=str(each.folder.resolve()),
            engine=speed.engine,
            engine_flags=(*(_DUMMY if drawn else ()), *speed.engine_flags, *each.engine_flags),
            kv_cache_bytes=kv_bytes + extra,
        )
        for name, each, extra in ((DENSE, base, 0), (_VARIANT, made, freed))
    )
    most = max((level.concurrency or defaults.max_num_seqs for level in speed.levels), default=1)
    return Fleet(
        variants=entries,
        max_model_len=speed.max_model_len,
        kv_cache_bytes=kv_bytes,
        max_num_seqs=max(defaults.max_num_seqs, most),
    )


def _weights_bytes(checkpoint: Checkpoint) -> int:
    """As an engine holds them: two bytes a parameter, one where it quantises to eight bits."""
    return checkpoint.params * (1 if _ONE_BYTE_FLAG in checkpoint.engine_flags else _TWO_BYTES)


def speeds_of(speed: ServingSpeed, folder: Path) -> list[SpeedAt]:
    """From a campaign's folder, levels with a failed gate left out. Raises LoadTestError if that leaves none."""
    from artifacts.campaign import load_campaign

    campaign = load_campaign(folder)
    found: list[SpeedAt] = []
    for level in campaign.levels:
        if level.valid:
            label = level.level.label if speed.name == "serving" else f"{speed.name} {level.level.label}"
            run = load_run(folder / level.folder)
            found += _of_level(label, level.comparisons, run.arms)
            found += _energy(label, level.comparisons, run.energy)
    if not found:
        gates = ", ".join(sorted({gate.name for level in campaign.levels for gate in level.failed_gates})) or "nothing"
        raise LoadTestError(f"No level of {speed.name} is valid ({gates}). See {folder}, and measure it again.")
    return found


def _energy(label: str, comparisons: Sequence[Comparison], energy: Energy | None) -> list[SpeedAt]:
    """Joules per output token where meters were read, by kind of device; above 1 the variant needs less."""
    (compared,) = [comparison for comparison in comparisons if not comparison.is_control]
    arms = reversed(energy.arms if energy else ())
    joules = {(arm.kind, arm.model): arm.joules_per_token for arm in arms}
    return [
        SpeedAt(
            mode="serving",
            level=label,
            quantity=f"joules_per_token_{kind}",
            speedup=estimate.value,
            low=estimate.low,
            high=estimate.high,
            pairs=estimate.n,
            base_value=joules.get((kind, DENSE)),
            value=joules.get((kind, _VARIANT)),
            unit="J/token",
        )
        for kind, name in ENERGY_RATIOS.items()
        if (estimate := compared.ratios.get(name)) is not None
    ]


def _of_level(label: str, comparisons: Sequence[Comparison], arms: Sequence[ArmSummary]) -> list[SpeedAt]:
    """By quantity. Where no block certifies a percentile, the ratio of the whole run's values stands without bounds."""
    (compared,) = [comparison for comparison in comparisons if not comparison.is_control]
    summary = {arm.model: arm.measures for arm in reversed(arms)}
    blocks = max((estimate.n for estimate in compared.ratios.values()), default=0)
    found = []
    for quantity in _QUANTITIES:
        base_value, value = summary[DENSE].get(quantity), summary[_VARIANT].get(quantity)
        if not base_value or not value:
            continue
        is_rate = quantity in TOTAL_MEASURES
        plain = Estimate(value=value / base_value if is_rate else base_value / value, n=blocks)
        estimate = compared.ratios.get(f"speedup_{quantity if is_rate else quantity.removesuffix('_s')}", plain)
        found.append(
            SpeedAt(
                mode="serving",
                level=label,
                quantity=quantity,
                speedup=estimate.value,
                low=estimate.low,
                high=estimate.high,
                pairs=estimate.n,
                base_value=base_value,
                value=value,
                unit=TOTAL_MEASURES[quantity][0] if is_rate else "s",
            )
        )
    return found
