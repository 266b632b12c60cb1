"""A kill costs one block: what follows has the same bytes as a run that was never disturbed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from disturbed import DISTURBED_STEP, Place, disturbed
from tiny_models import save_checkpoint

from artifacts.errors import ConfigError
from artifacts.variant import VariantManifest, load_variant
from compressors import policy
from compressors.pipeline import compress
from compressors.policy import PolicyState
from compressors.request import CompressionRequest
from compressors.sequential import PruningJob
from compressors.verify import verify_variant
from compressors.workspace import BlockFolder


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


LEARNING = {"method": "policy_gradient", "allocation": "learned"}
QUICK = ("steps=41", "samples=2", "batch_tokens=16")  # every second step is kept, and the last


def kill(request: CompressionRequest, place: Place) -> None:
    with disturbed(request, place) as run:
        assert run.exit_code() == -signal.SIGKILL
    assert not request.out.exists()


def require_same_bytes_as_whole(resumed: VariantManifest, request: CompressionRequest) -> None:
    whole = compress(replace(request, out=request.out.with_name("whole")), verify=verify_variant)
    assert resumed.checksums == whole.checksums
    assert sorted(path.name for path in request.out.parent.iterdir()) == ["variant", "whole"]


@pytest.mark.parametrize(
    ("place", "changes", "again"),
    [
        ("before", {}, [1, 2]),
        ("within", {}, [1, 2]),
        ("before", {"method": "sparsellm_structured"}, [1, 2]),
        ("before", {"method": "sparsellm_structured", "together": 2}, [0, 1, 2]),
        ("before", {"method": "sparsellm", "units": None}, [1, 2]),
        ("before", {**LEARNING, "settings": QUICK}, [1, 2]),
    ],
)
def test_killed_in_a_block_and_resumed_gives_the_same_bytes(
    place: Place, changes: dict[str, Any], again: list[int], request_: CompressionRequest, made: list[int]
) -> None:
    """A finished block is not made again, unless it was made together with one that was not finished."""
    request = replace(request_, **changes)
    kill(request, place)
    assert finished_blocks(request) == ["block-0000.safetensors"]
    resumed = compress(request, verify=verify_variant)
    assert made == again
    require_same_bytes_as_whole(resumed, request)


@pytest.mark.parametrize(("place", "again"), [("learning", range(DISTURBED_STEP - 1, 41)), ("before", range(0))])
def test_killed_while_or_after_it_learns_and_resumed_gives_the_same_bytes(
    place: Place, again: range, request_: CompressionRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps since the last that was kept are all that is repeated; after the last there is none."""
    request, steps, step = replace(request_, **LEARNING, settings=QUICK), [], policy._stepped

    def noted(config: Any, state: PolicyState, *rest: Any) -> PolicyState:
        steps.append(state.step)
        return step(config, state, *rest)

    kill(request, place)
    monkeypatch.setattr(policy, "_stepped", noted)
    resumed = compress(request, verify=verify_variant)
    assert steps == list(again)
    require_same_bytes_as_whole(resumed, request)


def test_an_equal_command_is_refused_while_one_is_at_work(request_: CompressionRequest, made: list[int]) -> None:
    """And it costs that one nothing: it ends with the bytes of a run that was alone."""
    with disturbed(request_, "waits") as run:
        assert run.line.recv() == "waits"
        with pytest.raises(ConfigError, match=r"variant is being made by another process. Wait for it or choose"):
            compress(request_, verify=verify_variant)
        assert made == [] and finished_blocks(request_) == ["block-0000.safetensors"]
        run.line.send("go on")
        assert run.exit_code() == 0
    require_same_bytes_as_whole(load_variant(request_.out), request_)


def test_a_killed_process_holds_nothing(request_: CompressionRequest, made: list[int]) -> None:
    with disturbed(request_, "waits") as run:
        assert run.line.recv() == "waits"
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
