"""Where a compression in progress keeps what it has finished, so that a kill costs one block and not the run.

The folder stands beside the result and carries a key over everything that decides the bytes. The same command finds it
again and goes on from the first missing block; another command does not. An error that would come again removes it, a
kill or Ctrl-C leaves it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from artifacts.errors import PrunebenchError
from artifacts.files import disk_error, write_text_atomically
from artifacts.unfinished import remove_working_folder, working_folder
from compressors.arch import LayerView
from compressors.plan import Allocation, LayerBudget, LayerPlan
from compressors.policy import PolicyState
from compressors.shards import Resident, Stored, metadata_of_file, tensors_of_file, write_shard
from compressors.skeleton import Skeleton

_RESULT = "result"
_KEPT = "kept_units"
_ALLOCATION = "allocation.json"
_POLICY = "policy.json"


@contextmanager
def resumable_directory(final: Path, key: str, *, keep_unfinished: bool = True) -> Iterator[Workspace]:
    """Yields the workspace; its result becomes `final` when the block ends well.

    `keep_unfinished` is whether Ctrl-C leaves finished work for the next attempt.

    Raises ConfigError if `final` exists and is not an empty folder, if another process is at the same work, or if the
    disk is full or not writable.
    """
    with working_folder(final, key) as folder:
        workspace = Workspace(folder)
        try:
            workspace.prepare()
            yield workspace
            if final.exists():
                final.rmdir()
            workspace.result.rename(final)
        except PrunebenchError:
            workspace.remove()
            raise
        except OSError as error:
            workspace.remove()
            raise disk_error(final, error) from error
        except KeyboardInterrupt:
            if not (keep_unfinished and workspace.is_started):
                workspace.remove()
            raise
        workspace.remove()


@dataclass(frozen=True, slots=True)
class Workspace:
    """`blocks` holds what is finished, `result` what will get the final name, `states` the memory-mapped streams,
    `levels` what a search has no room for in memory."""

    folder: Path

    @property
    def result(self) -> Path:
        return self.folder / _RESULT

    @property
    def blocks(self) -> Path:
        return self.folder / "blocks"

    @property
    def states(self) -> Path:
        return self.folder / "states"

    @property
    def levels(self) -> Path:
        return self.folder / "levels"

    @property
    def is_started(self) -> bool:
        """Whether there is anything that another attempt would not have to do again."""
        return any(self.blocks.iterdir()) or any((self.folder / name).is_file() for name in (_ALLOCATION, _POLICY))

    def found_allocation(self) -> Allocation | None:
        """What a search of an earlier attempt ended with."""
        path = self.folder / _ALLOCATION
        if not path.is_file():
            return None
        return tuple(LayerBudget(**layer) for layer in json.loads(path.read_text(encoding="utf-8")))

    def keep_allocation(self, allocation: Allocation) -> None:
        write_text_atomically(self.folder / _ALLOCATION, json.dumps([asdict(layer) for layer in allocation]))

    def found_policy(self) -> PolicyState | None:
        """Where learning stood in an earlier attempt."""
        path = self.folder / _POLICY
        if not path.is_file():
            return None
        known = json.loads(path.read_text(encoding="utf-8"))
        return PolicyState(**known | {"probabilities": torch.tensor(known["probabilities"], dtype=torch.float64)})

    def keep_policy(self, state: PolicyState) -> None:
        """Numbers come back as they were: JSON holds the shortest text that reads as the same double."""
        known = {field.name: getattr(state, field.name) for field in fields(state)}
        text = json.dumps(known | {"probabilities": state.probabilities.tolist()})
        write_text_atomically(self.folder / _POLICY, text)

    def prepare(self) -> None:
        """Keeps an earlier attempt's finished blocks, found allocation and learnt chances, and nothing else of it."""
        for part in (self.result, self.states, self.levels):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        self.blocks.mkdir(exist_ok=True)

    def remove(self) -> None:
        remove_working_folder(self.folder)


class BlockFolder:
    """Finished blocks as files: tensors under their names within the block, the plan in the metadata."""

    def __init__(self, folder: Path, skeleton: Skeleton, dtypes: dict[str, torch.dtype], device: torch.device) -> None:
        """`dtypes` by full tensor name say what each parameter is stored as."""
        self._folder = folder
        self._skeleton = skeleton
        self._dtypes = dtypes
        self._device = device

    def finished(self, index: int) -> tuple[LayerView, LayerPlan] | None:
        path = self.path(index)
        if not path.is_file():
            return None
        kept = json.loads(metadata_of_file(path)[_KEPT])
        plan = LayerPlan(kv_groups=tuple(kept["kv"]), ffn_channels=tuple(kept["ffn"]))
        return self.load(index), plan

    def load(self, index: int) -> LayerView:
        """A finished block, from its file."""
        tensors = {name: self._read(stored) for name, stored in self.tensors(index).items()}
        return self._skeleton.block(index, tensors)

    def keep(self, index: int, layer: LayerView, plan: LayerPlan) -> None:
        tensors = {
            name: Resident(parameter, self._dtypes[f"model.layers.{index}.{name}"])
            for name, parameter in layer.module.named_parameters()
        }
        kept = json.dumps({"kv": plan.kv_groups, "ffn": plan.ffn_channels})
        write_shard(self.path(index), tensors, {_KEPT: kept})

    def tensors(self, index: int) -> dict[str, Stored]:
        return tensors_of_file(self.path(index))

    def path(self, index: int) -> Path:
        return self._folder / f"block-{index:04d}.safetensors"

    def _read(self, stored: Stored) -> Tensor:
        return stored.read().to(self._device, torch.float32)
