"""From a request to a variant directory: check, calibrate, allocate, prune and repair block by block, export, verify.

Everything that can be refused is refused before the first expensive step, and nothing appears under the final name
until a fresh process has reloaded it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from artifacts.progress import Progress, silent
from artifacts.variant import MANIFEST_NAME, VariantManifest
from compressors.card import ResourceCard, resource_card
from compressors.export import PROBE_NAME
from compressors.making import Maker
from compressors.manifest import Stopwatch, describe_variant
from compressors.request import CompressionRequest
from compressors.shards import stored_tensors
from compressors.task import resolve_task, task_calibration, work_key, workload
from compressors.verify import verify_in_fresh_process
from compressors.workspace import resumable_directory

Verifier = Callable[[Path], None]
Announcer = Callable[[ResourceCard], None]


def unannounced(card: ResourceCard) -> None:
    """For callers that do not read the card."""


def compress(
    request: CompressionRequest,
    progress: Progress = silent,
    verify: Verifier = verify_in_fresh_process,
    announce: Announcer = unannounced,
) -> VariantManifest:
    """Writes the variant directory `request.out` and returns its manifest. `announce` gets the resource card first.

    After a kill or Ctrl-C the same request goes on from the first block that is missing and gives the same bytes.
    Raises ConfigError, CheckpointError, UnsupportedModel or CompressionError; then nothing is left at `request.out`.
    """
    watch = Stopwatch()
    task = resolve_task(request)
    with watch.stage("calibrate", progress):
        calibration = task_calibration(task)
    windows = None if calibration is None else calibration.windows
    announce(resource_card(stored_tensors(task.source.folder), workload(task, windows)))
    unfinished = resumable_directory(request.out, work_key(task, windows), keep_unfinished=request.keep_unfinished)
    with unfinished as workspace, torch.no_grad():
        maker = Maker(task=task, calibration=calibration, workspace=workspace, watch=watch, progress=progress)
        manifest = describe_variant(maker.make(), workspace.result, watch.cost())
        with watch.stage("verify", progress):
            manifest.save(workspace.result / MANIFEST_NAME)
            verify(workspace.result)
            (workspace.result / PROBE_NAME).unlink()
        manifest = manifest.model_copy(update={"cost": watch.cost()})
        manifest.save(workspace.result / MANIFEST_NAME)
    return manifest
