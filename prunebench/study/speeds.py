"""How much faster is a cell's checkpoint than the dense model, in the two ways that speed is claimed?

Paper mode is one forward pass of a whole prompt in Transformers; serving mode is a paired load test of both models
behind one endpoint. Both are ratios of pairs that saw the same minutes; a dense time from another hour is of no use.
Starting engines takes longer than most of what is measured with them, so speeds that want the same ones share them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from artifacts.campaign import load_campaign
from artifacts.errors import LoadTestError
from artifacts.fleet import Fleet, VariantEntry
from artifacts.progress import Progress
from artifacts.study import DENSE, PaperSpeed, ServingSpeed, SpeedAt
from compressors.forward_timing import ForwardRequest, time_forward
from loadtest.campaign import CampaignRequest, run_campaign
from loadtest.design import plan_design
from loadtest.lengths import longest_request_tokens
from loadtest.pairing import SPEEDUPS
from prunebench.demo_server import running_server
from prunebench.study.ceilings import held_bytes
from prunebench.study.checkpoints import Checkpoint, Place
from prunebench.study.plan import same_engines
from prunebench.study.served import VARIANT, Served, left_out, speeds_of, workload_of

_DUMMY = ("--load-format", "dummy")
_LOG_BYTES = 1 << 18
_BLOCK_TOKENS = 128
# Both engines load at once: with caches of given bytes neither measures the memory that the other takes.
_AT_ONCE = 2


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
    speeds: Sequence[ServingSpeed], place: Place, served: Served, raw: Path, progress: Progress
) -> tuple[list[SpeedAt], tuple[str, ...]]:
    """What the levels gave that passed their gates, and which did not; the load tests' own files stay in `raw`.

    Raises LoadTestError if no level of any speed did, and what starting the engines and the load test raise.
    """
    for group in same_engines(speeds):
        missing = [speed for speed in group if not _is_measured(raw / speed.name)]
        if missing:
            fleet = fleet_of(group, served.base, served.made)
            with _server(fleet, raw, missing[0].name, progress) as url:
                for speed in missing:
                    _measure(speed, url, raw / speed.name, progress)
    rows = [row for speed in speeds for row in speeds_of(speed, raw / speed.name, served)]
    failed = tuple(text for speed in speeds for text in left_out(speed, raw / speed.name))
    if not rows:
        raise LoadTestError(f"No level is valid ({'; '.join(failed)}). See {raw}, and measure it again.")
    return rows, failed


def _is_measured(out: Path) -> bool:
    """A campaign in which no level passed its gates counts for nothing and is measured again."""
    if not (out / "campaign.json").is_file():
        return False
    if any(level.valid for level in load_campaign(out).levels):
        return True
    shutil.rmtree(out)
    return False


@contextmanager
def _server(fleet: Fleet, raw: Path, name: str, progress: Progress) -> Iterator[str]:
    """Both models behind the URL that it yields. What the engines said last stays beside the server's log."""
    raw.mkdir(parents=True, exist_ok=True)
    # Of its own and short: a socket's path has room for a hundred letters.
    with tempfile.TemporaryDirectory(prefix="prunebench-") as state:
        file = Path(state) / "fleet.json"
        fleet.model_copy(update={"state_dir": state}).save(file)
        try:
            with running_server(file, raw / f"{name}-server.log", progress) as url:
                yield url
        finally:
            for log in Path(state).glob("*.log"):
                (raw / f"{name}-{log.name}").write_bytes(log.read_bytes()[-_LOG_BYTES:])


def _measure(speed: ServingSpeed, url: str, out: Path, progress: Progress) -> None:
    run_campaign(
        CampaignRequest(
            url=url,
            models=(VARIANT,),
            against=DENSE,
            levels=speed.levels,
            workload=workload_of(speed),
            design=plan_design(
                blocks=speed.blocks, wanted=None, spread=None, pilot=None, family=len(speed.levels) * len(SPEEDUPS)
            ),
            window_s=speed.window_s,
            warmup_s=speed.warmup_s,
            out=out,
            any_url=True,
        ),
        progress,
    )


def fleet_of(speeds: Sequence[ServingSpeed], base: Checkpoint, made: Checkpoint) -> Fleet:
    """Both models side by side with equal KV caches, or equal sums of weights and KV cache, for all of `speeds`."""
    defaults = Fleet(variants=(VariantEntry(name=DENSE, engine="sim"),))
    speed = speeds[0]
    kv_bytes = speed.kv_cache_bytes or defaults.kv_cache_bytes
    freed = held_bytes(base) - held_bytes(made) if speed.fairness == "memory" else 0
    entries = tuple(
        VariantEntry(
            name=name,
            model=str(each.folder.resolve()),
            engine=speed.engine,
            engine_flags=(*_own_flags(speed, each, kv_bytes + extra), *speed.engine_flags, *each.engine_flags),
            kv_cache_bytes=kv_bytes + extra,
        )
        for name, each, extra in ((DENSE, base, 0), (VARIANT, made, freed))
    )
    most = [level.concurrency or defaults.max_num_seqs for speed in speeds for level in speed.levels]
    return Fleet(
        variants=entries,
        max_model_len=speed.max_model_len,
        kv_cache_bytes=kv_bytes,
        max_num_seqs=max(defaults.max_num_seqs, *most),
        starts_at_once=_AT_ONCE,
    )


def _own_flags(speed: ServingSpeed, checkpoint: Checkpoint, kv_bytes: int) -> tuple[str, ...]:
    """Drawn weights, where there are no others. With equal memory as many sequences at once as the cache surely holds:
    an engine that takes in more throws some out again and computes them twice."""
    if speed.engine != "vllm":
        return ()
    drawn = _DUMMY if checkpoint.drawn else ()
    longest = longest_request_tokens(workload_of(speed)) if speed.fairness == "memory" else None
    if longest is None:
        return drawn
    blocks = -(-longest // _BLOCK_TOKENS)
    held = kv_bytes // (blocks * _BLOCK_TOKENS * checkpoint.footprint.kv_bytes_per_token)
    return (*drawn, "--max-num-seqs", str(max(1, held)))
