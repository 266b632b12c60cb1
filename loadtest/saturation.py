"""How much traffic does each variant sustain within an SLO? The search, played, kept look by look, and written down.

Every variant is searched by itself at the same rates' seeds; their looks take turns in mirrored order, so that a
machine that slowly changes touches all alike. A finished look is a run directory in an unfinished folder beside the
result: the same request after a kill reads them and goes on behind the last.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from artifacts.arrivals import Spacing
from artifacts.capacity import (
    LEVELS_NAME,
    SEARCH_NAME,
    CapacitySearch,
    Look,
    SearchedLevel,
    SearchPolicy,
    VariantCapacity,
)
from artifacts.errors import ConfigError
from artifacts.files import complete_directory
from artifacts.progress import Progress, silent
from artifacts.provenance import collect_provenance
from artifacts.run import REQUESTS_NAME, RUN_NAME, Level, RunManifest, Workload, load_run, read_requests
from artifacts.slo import Slo
from artifacts.unfinished import key_of, remove_working_folder, working_folder
from loadtest.attainment import CONFIDENCE
from loadtest.endpoint import Endpoint, require_models
from loadtest.looks import (
    PILOT_SHARE,
    Played,
    full_look_s,
    look_seed,
    searched_level,
    unusable_because,
    wants_more,
)
from loadtest.player import terminate_like_interrupt
from loadtest.runner import LoadTestRequest, run_load_test
from loadtest.search import Step, Tried, levels_left, next_step
from loadtest.sustained import capacity_of, ratios_of

Play = Callable[[LoadTestRequest, Progress], RunManifest]

_STAGE = "search"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """What to search. `look_s` is the least length of a full look, `warmup_s` of load precede each look.

    A request that takes longer than `timeout_s` counts as failed. The workload's seed decides all looks' seeds.
    """

    url: str
    models: tuple[str, ...]
    slo: Slo
    workload: Workload
    out: Path
    look_s: float
    policy: SearchPolicy = field(default_factory=SearchPolicy)
    arrivals: Spacing = "poisson"
    burstiness: float | None = None
    warmup_s: float = 2.0
    timeout_s: float = 120.0
    api_key: str | None = None
    token_range: tuple[int, int] = (3, 500)

    def level_at(self, rate_per_s: float) -> Level:
        """Raises ConfigError for bursts without a burstiness, or one without bursts."""
        burstiness = {} if self.burstiness is None else {"burstiness": self.burstiness}
        return Level.parse({"arrivals": {"kind": self.arrivals, "rate_per_s": rate_per_s} | burstiness}, "the load")

    def full_look_s(self, rate_per_s: float) -> float:
        """How long a full look at that rate lasts."""
        return full_look_s(self.slo, self.policy, self.look_s, rate_per_s)

    def decisive(self, fingerprints: dict[str, str | None]) -> list[Any]:
        """All that decides a look; the weights count, as far as the server states them."""
        documents = [d.model_dump() for d in (self.slo, self.workload, self.policy)]
        times = [self.look_s, self.warmup_s, self.timeout_s]
        return [
            self.url,
            self.models,
            *documents,
            self.arrivals,
            self.burstiness,
            *times,
            self.token_range,
            fingerprints,
        ]


@dataclass(slots=True)
class _Track:
    """One variant's search so far. `played` are the looks of the last level, which may want more."""

    number: int
    model: str
    levels: list[SearchedLevel] = field(default_factory=list)
    played: list[Played] = field(default_factory=list)

    def tried(self, policy: SearchPolicy) -> list[Tried]:
        return [
            Tried(rate_per_s=x.rate_per_s, purpose=x.purpose, verdict=x.verdict, wants_more=wants_more(policy, x))
            for x in self.levels
        ]


def search_capacity(request: SearchRequest, progress: Progress = silent, play: Play = run_load_test) -> CapacitySearch:
    """Searches every variant and writes `request.out`: `search.json` and the run directory of every look.

    Raises ConfigError (numbers out of range, `out` exists, another process searches it) and LoadTestError (server or
    Locust); finished looks are kept then, as on SIGINT and SIGTERM, and the same request goes on behind them.
    """
    _require_sane(request)
    with terminate_like_interrupt():
        fingerprints = _fingerprints(request)
        with working_folder(request.out, key_of(request.decisive(fingerprints))) as folder:
            result = _Search(request, folder, progress, play).run(fingerprints)
            with complete_directory(request.out) as complete:
                result.save(complete / SEARCH_NAME)
                shutil.copytree(folder / LEVELS_NAME, complete / LEVELS_NAME)
            remove_working_folder(folder)
    return result


class _Search:
    """The looks of all variants, taken in turns."""

    def __init__(self, request: SearchRequest, folder: Path, progress: Progress, play: Play) -> None:
        self._request, self._folder, self._progress, self._play_run = request, folder, progress, play
        self._tracks = [_Track(number, model) for number, model in enumerate(request.models)]
        self._done_s = 0.0

    def run(self, fingerprints: dict[str, str | None]) -> CapacitySearch:
        forward = True
        while steps := [(t, s) for t in self._tracks if (s := self._next(t)) is not None]:
            for track, step in steps if forward else reversed(steps):
                self._advance(track, step)
            forward = not forward
        self._progress(_STAGE, self._done_s, self._done_s)
        return self._document([self._answer(track, fingerprints) for track in self._tracks])

    def _next(self, track: _Track) -> Step | None:
        return next_step(self._request.policy, track.tried(self._request.policy))

    def _advance(self, track: _Track, step: Step) -> None:
        if step.again:
            track.levels.pop()
        else:
            track.played = []
        track.played.append(self._look(track, step))
        level = searched_level(self._request.slo, self._request.policy, step.rate_per_s, step.purpose, track.played)
        track.levels.append(level)

    def _look(self, track: _Track, step: Step) -> Played:
        """Played now, or read where an earlier attempt has finished it."""
        request, number = self._request, len(track.played)
        pilot = step.purpose == "probe" and number == 0
        full_s = request.full_look_s(step.rate_per_s)
        look = Look(
            folder=f"{LEVELS_NAME}/{track.number}-{len(track.levels):02d}-{step.rate_per_s:g}-{number}",
            pilot=pilot,
            duration_s=full_s * PILOT_SHARE if pilot else full_s,
            seed=look_seed(request.workload.seed, step.purpose, step.rate_per_s, number),
            failed_gates=(),
        )
        manifest = self._manifest(track.model, look, step.rate_per_s)
        self._done_s += request.warmup_s + look.duration_s
        return Played(
            look=look.model_copy(update={"failed_gates": unusable_because(manifest)}),
            records=read_requests(self._folder / look.folder / REQUESTS_NAME),
            windows=manifest.windows,
            measures=manifest.arms[0].measures,
        )

    def _manifest(self, model: str, look: Look, rate_per_s: float) -> RunManifest:
        folder = self._folder / look.folder
        if (folder / RUN_NAME).is_file():
            return load_run(folder)
        request = self._request
        asked = LoadTestRequest(
            url=request.url,
            models=(model,),
            against=None,
            level=request.level_at(rate_per_s),
            workload=request.workload.model_copy(update={"seed": look.seed}),
            duration_s=look.duration_s,
            out=folder,
            blocks=1,
            warmup_s=request.warmup_s,
            api_key=request.api_key,
            timeout_s=request.timeout_s,
            token_range=request.token_range,
        )
        return self._play_run(asked, partial(self._tell, rate_per_s))

    def _tell(self, rate_per_s: float, stage: str, done_s: float, total_s: float) -> None:
        """The levels still to come are a guess: each about one full look long."""
        request, policy = self._request, self._request.policy
        each_s = request.warmup_s + request.full_look_s(rate_per_s)
        left = sum(levels_left(policy, t.tried(policy)) for t in self._tracks if self._next(t) is not None)
        self._progress(_STAGE, self._done_s + done_s, self._done_s + max(total_s, left * each_s))

    def _answer(self, track: _Track, fingerprints: dict[str, str | None]) -> VariantCapacity:
        request, tried = self._request, track.tried(self._request.policy)
        return capacity_of(
            track.model, fingerprints[track.model], request.slo, request.policy, tried, tuple(track.levels)
        )

    def _document(self, variants: Sequence[VariantCapacity]) -> CapacitySearch:
        request = self._request
        return CapacitySearch(
            url=request.url,
            slo=request.slo,
            workload=request.workload,
            policy=request.policy,
            arrivals=request.arrivals,
            burstiness=request.burstiness,
            confidence=CONFIDENCE,
            look_s=request.look_s,
            warmup_s=request.warmup_s,
            timeout_s=request.timeout_s,
            variants=tuple(variants),
            ratios=ratios_of(variants),
            provenance=collect_provenance(),
        )


def _require_sane(request: SearchRequest) -> None:
    if not request.models or len(set(request.models)) != len(request.models):
        raise ConfigError(f"models must be one or more distinct names, not {', '.join(request.models) or 'none'}.")
    if request.look_s <= 0 or request.warmup_s < 0 or request.timeout_s <= 0:
        raise ConfigError("Looks and timeouts must be longer than 0 s, the warm-up not negative. Correct the times.")


def _fingerprints(request: SearchRequest) -> dict[str, str | None]:
    """What the server states about the weights. Raises LoadTestError for models that it does not serve."""
    served = Endpoint(request.url, request.api_key).models()
    require_models(served, request.models, 0)  # lengths are checked by the first look
    return {model: served[model].get("prunebench", {}).get("fingerprint") for model in request.models}
