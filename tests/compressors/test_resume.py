"""A kill costs one block: what follows has the same bytes as a run that was never disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import save_checkpoint

from artifacts.errors import ConfigError
from artifacts.variant import load_variant
from compressors.pipeline import compress
from compressors.request import CompressionRequest
from compressors.sequential import PruningJob
from compressors.verify import verify_variant
from compressors.workspace import BlockFolder

ROOT = Path(__file__).resolve().parents[2]

# In block 1 of three it waits for the end of its standard input, or dies: before the first tensor is written, or with
# half a file on disk.
DISTURBED = """
import os, signal, sys
from pathlib import Path
import torch
from compressors import shards, workspace
from compressors.pipeline import compress
from compressors.request import CompressionRequest

torch.set_num_threads(1)
model, text, out, method, place = sys.argv[1:]
keep, copy = workspace.BlockFolder.keep, shards._copy

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def keep_or_die(self, index, layer, plan):
    if index == 1 and place == "before":
        die()
    if index == 1 and place == "waits":
        print("waits", flush=True)
        sys.stdin.read()
    elif index == 1:
        shards._copy = lambda chunks, stream: (copy(chunks, stream), stream.flush(), die())
    keep(self, index, layer, plan)

workspace.BlockFolder.keep = keep_or_die
compress(CompressionRequest(model=model, out=Path(out), method=method, ratio=0.5, calibration=text,
                            units=("ffn", "kv"), calibration_tokens=256, window_tokens=16))
"""


@pytest.fixture
def request_(tmp_path: Path, text_file: Path) -> CompressionRequest:
    (tmp_path / "out").mkdir()
    return CompressionRequest(
        model=str(save_checkpoint(tmp_path / "dense")),
        out=tmp_path / "out" / "variant",
        method="wanda_sp",
        ratio=0.5,
        units=("ffn", "kv"),
        calibration=str(text_file),
        calibration_tokens=256,
        window_tokens=16,
    )


def finished_blocks(request: CompressionRequest) -> list[str]:
    return sorted(path.name for path in request.out.parent.glob("*.partial-*/blocks/*.safetensors"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks that were made, in order, by everything that runs in this process."""
    seen: list[int] = []
    keep = BlockFolder.keep

    def note(self: BlockFolder, index: int, *rest: object) -> None:
        seen.append(index)
        keep(self, index, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(BlockFolder, "keep", note)
    return seen


def disturbed(request: CompressionRequest, place: str) -> subprocess.Popen[str]:
    """The request in a process of its own."""
    arguments = [request.model, str(request.calibration), str(request.out), request.method, place]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", DISTURBED, *arguments]
    return subprocess.Popen(command, env=environment, cwd=ROOT, text=True, **pipes)


@pytest.mark.parametrize("place", ["before", "within"])
def test_killed_in_a_block_and_resumed_gives_the_same_bytes(
    place: str, request_: CompressionRequest, made: list[int]
) -> None:
    with disturbed(request_, place) as process:
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert not request_.out.exists() and finished_blocks(request_) == ["block-0000.safetensors"]
    resumed = compress(request_, verify=verify_variant)
    assert made == [1, 2], "the finished block is not made again"
    whole = compress(replace(request_, out=request_.out.with_name("whole")), verify=verify_variant)
    assert resumed.checksums == whole.checksums
    assert sorted(path.name for path in request_.out.parent.iterdir()) == ["variant", "whole"]


def test_an_equal_command_is_refused_while_one_is_at_work(request_: CompressionRequest, made: list[int]) -> None:
    """And it costs that one nothing: it ends with the bytes of a run that was alone."""
    with disturbed(request_, "waits") as process:
        assert process.stdout is not None and process.stdout.readline() == "waits\n"
        with pytest.raises(ConfigError, match=r"variant is being made by another process. Wait for it or choose"):
            compress(request_, verify=verify_variant)
        assert made == [] and finished_blocks(request_) == ["block-0000.safetensors"]
        whole = compress(replace(request_, out=request_.out.with_name("whole")), verify=verify_variant)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert load_variant(request_.out).checksums == whole.checksums
    assert sorted(path.name for path in request_.out.parent.iterdir()) == ["variant", "whole"]


def test_a_killed_process_holds_nothing(request_: CompressionRequest, made: list[int]) -> None:
    with disturbed(request_, "waits") as process:
        assert process.stdout is not None and process.stdout.readline() == "waits\n"
        process.kill()
    compress(request_, verify=verify_variant)
    assert made == [1, 2]


def interrupt_at(stage_to_stop: str, after: float = 0) -> Callable[[str, float, float], None]:
    def progress(stage: str, done: float, total: float) -> None:
        if stage == stage_to_stop and done >= after:
            raise KeyboardInterrupt

    return progress


def test_ctrl_c_keeps_finished_blocks_for_the_same_request_alone(request_: CompressionRequest, made: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt):
        compress(request_, interrupt_at("prune", after=2))
    assert len(finished_blocks(request_)) == 2 and not request_.out.exists()
    other = compress(replace(request_, seed=1, out=request_.out.with_name("other")), verify=verify_variant)
    assert made == [0, 1, 0, 1, 2] and len(finished_blocks(request_)) == 2
    again = compress(request_, verify=verify_variant)
    assert made[5:] == [2] and finished_blocks(request_) == []
    assert other.checksums["model.safetensors"] != again.checksums["model.safetensors"]


@pytest.mark.parametrize(
    ("stage", "after", "changes", "sentence"),
    [
        ("prune", 0, {}, "no block was finished"),
        ("export", 0, {"keep_unfinished": False}, "the caller wants nothing left"),
        ("calibrate", 0, {}, "nothing had begun"),
    ],
)
def test_ctrl_c_without_anything_worth_keeping_leaves_nothing(
    stage: str, after: float, changes: dict[str, bool], sentence: str, request_: CompressionRequest
) -> None:
    with pytest.raises(KeyboardInterrupt):
        compress(replace(request_, **changes), interrupt_at(stage, after))  # type: ignore[arg-type]
    assert not list(request_.out.parent.iterdir()), sentence


def test_states_in_files_give_the_same_bytes_and_leave_no_file(request_: CompressionRequest) -> None:
    plain = compress(request_, verify=verify_variant)
    mapped = compress(replace(request_, out=request_.out.with_name("mapped"), map_states=True), verify=verify_variant)
    assert plain.checksums == mapped.checksums
    assert not list(request_.out.parent.rglob("*.states"))


def test_a_resumed_run_does_not_trust_results_of_an_earlier_attempt(request_: CompressionRequest) -> None:
    """Whatever lies in the workspace's result folder is from a run that was killed while it wrote there."""
    with pytest.raises(KeyboardInterrupt):
        compress(request_, interrupt_at("verify"))
    (left,) = request_.out.parent.glob("*.partial-*")
    (left / "result" / "stray.txt").write_text("half a file")
    manifest = compress(request_, verify=verify_variant)
    assert "stray.txt" not in manifest.checksums and not (request_.out / "stray.txt").exists()


def test_a_job_that_needs_no_activations_runs_no_forward_pass() -> None:
    from compressors.methods import REGISTRY

    job = PruningJob(method=REGISTRY.named("magnitude"), units=("ffn",), allocation=(), repair="none", seed=0)
    assert not job.wants_streams and replace(job, repair="ridge").wants_streams
    assert replace(job, method=REGISTRY.named("wanda_sp")).wants_streams
