"""Several compressions as one: each step prunes what the step before it left, and only the last result stays.

The finished steps stand in a workspace beside the result, so that a kill costs the step that was running. The variant
describes itself against the first step's model: ratios are of all steps together, layers are counted in that model, and
the manifest lists the steps before the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path

from artifacts.errors import ConfigError
from artifacts.files import require_free_name, sha256_of_file
from artifacts.progress import Progress, silent
from artifacts.provenance import package_versions
from artifacts.unfinished import key_of
from artifacts.variant import (
    MANIFEST_NAME,
    CompressionCost,
    LayerShape,
    Ratios,
    StepRef,
    VariantManifest,
    is_variant,
    load_variant,
)
from compressors.methods import REGISTRY
from compressors.pipeline import Announcer, Verifier, compress, unannounced
from compressors.request import CompressionRequest, resolve_method, resolve_repair
from compressors.source import open_source
from compressors.verify import verify_in_fresh_process
from compressors.workspace import Workspace, resumable_directory


def compress_chain(
    requests: Sequence[CompressionRequest],
    progress: Progress = silent,
    verify: Verifier = verify_in_fresh_process,
    announce: Announcer = unannounced,
) -> VariantManifest:
    """Writes the variant directory named by the first request's `out` and returns its manifest.

    One request alone is a plain compression. `model` and `out` of the later requests are not looked at; repair that was
    asked for is left out of steps that leave nothing to repair. After a kill or Ctrl-C the same requests go on from the
    first unfinished step. Raises what `compress` raises; then nothing is left at `out`.
    """
    if len(requests) == 1:
        return compress(requests[0], progress, verify, announce)
    steps = [_fitted(request) for request in requests]
    _require_masks_last(steps)
    final = steps[0].out
    require_free_name(final)
    unfinished = resumable_directory(final, _key(steps), keep_unfinished=steps[0].keep_unfinished)
    with unfinished as workspace:
        manifests = _run(steps, workspace, progress, verify, announce)
        joined = join_manifests(manifests, final.name)
        joined.save(workspace.result / MANIFEST_NAME)
    return joined


def join_manifests(manifests: Sequence[VariantManifest], name: str) -> VariantManifest:
    """The last manifest, told against the first one's base."""
    first, last = manifests[0], manifests[-1]
    ratios = Ratios.between(last.ratios.nominal, first.base.footprint, last.footprint)
    earlier = tuple(step for manifest in manifests[:-1] for step in (*manifest.earlier, _step(manifest)))
    return last.model_copy(
        update={
            "name": name,
            "base": first.base,
            "layers": reduce(_seen_from_the_first, (manifest.layers for manifest in manifests)),
            "ratios": ratios,
            "earlier": (*earlier, *last.earlier),
            "cost": _total([manifest.cost for manifest in manifests]),
        }
    )


def _fitted(request: CompressionRequest) -> CompressionRequest:
    """Raises ConfigError for what no step can be asked for, before any step runs."""
    if not REGISTRY.named(request.method).can_be_repaired:
        request = replace(request, repair=None)
    if not REGISTRY.named(request.method).masks:
        request = replace(request, pattern=None)
    resolve_repair(request, *resolve_method(request))
    if request.ratio == 0:
        raise ConfigError("A step of ratio 0 does nothing. Leave it out or give a ratio above 0.")
    return request


def _require_masks_last(steps: Sequence[CompressionRequest]) -> None:
    """Whatever follows would move or fill the zeros. Raises ConfigError for a mask that is not the last step."""
    early = next((step.method for step in steps[:-1] if REGISTRY.named(step.method).masks), None)
    if early is not None:
        raise ConfigError(f"Method {early} masks weights, and a later step would fill its zeros. Make it the last.")


def _run(
    steps: Sequence[CompressionRequest],
    workspace: Workspace,
    progress: Progress,
    verify: Verifier,
    announce: Announcer,
) -> list[VariantManifest]:
    """Every step's manifest; the last step's files are the workspace's result."""
    manifests: list[VariantManifest] = []
    model = steps[0].model
    for number, step in enumerate(steps, start=1):
        out = workspace.result if number == len(steps) else workspace.blocks / f"step-{number}"
        if is_variant(out):
            manifests.append(load_variant(out))
        else:
            asked = replace(step, model=model, out=out)
            manifests.append(compress(asked, _numbered(progress, number), verify, announce))
        model = str(out)
    return manifests


def _numbered(progress: Progress, number: int) -> Progress:
    def call(stage: str, done: float, total: float) -> None:
        progress(f"{number} {stage}", done, total)

    return call


def _key(steps: Sequence[CompressionRequest]) -> str:
    """A short hash of everything that decides the bytes of the result."""
    texts = [step.calibration for step in steps if step.calibration is not None]
    decisive = [
        open_source(steps[0].model).sha256,
        [asdict(replace(step, model="", out=Path())) for step in steps],
        [sha256_of_file(Path(text)) if Path(text).is_file() else text for text in texts],
        package_versions(("torch",)),
    ]
    return key_of(decisive)


def _step(manifest: VariantManifest) -> StepRef:
    return StepRef(method=manifest.method, calibration=manifest.calibration, nominal=manifest.ratios.nominal)


def _seen_from_the_first(base: tuple[LayerShape, ...], later: tuple[LayerShape, ...]) -> tuple[LayerShape, ...]:
    """`later` has an entry for each layer that is present in `base`; the answer one for each of `base`."""
    shapes = iter(later)
    return tuple(next(shapes).model_copy(update={"index": layer.index}) if layer.present else layer for layer in base)


def _total(costs: Sequence[CompressionCost]) -> CompressionCost:
    """Times add up under numbered stages; steps ran one after the other, so the peak is the highest."""
    return CompressionCost(
        wall_s=sum(cost.wall_s for cost in costs),
        peak_memory_bytes=max(cost.peak_memory_bytes for cost in costs),
        stages_s={f"{n} {stage}": s for n, cost in enumerate(costs, start=1) for stage, s in cost.stages_s.items()},
    )
