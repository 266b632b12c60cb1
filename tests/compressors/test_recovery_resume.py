"""A run that was killed goes on, and ends with the bytes of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recovery_cases import make_variant, recovered, request_for

from artifacts.recovery import CURVE_NAME
from compressors.recovery import recover as recovery
from compressors.recovery.recover import RecoveryRequest, recover
from compressors.recovery.training import Trainer
from compressors.verify import verify_variant

ROOT = Path(__file__).parents[2]
# The child kills itself with SIGKILL right after the given number of optimizer steps: no handler and no clean-up runs.
CHILD = """
import os, signal, sys
import torch
from pathlib import Path
from compressors.recovery.recover import RecoveryRequest, recover

torch.set_num_threads(1)
folder, text, method, last_step = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def die(stage, done, total):
    if stage == "train" and done == last_step:
        os.kill(os.getpid(), signal.SIGKILL)

recover(RecoveryRequest(variant=folder / "pruned", out=folder / "recovered", method=method, text=text,
        teacher=folder / "dense", tokens=192, batch_tokens=32, window_tokens=16, held_out_tokens=64), die)
"""


def weights_and_curve(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "model.safetensors").read_bytes(), (folder / CURVE_NAME).read_bytes()


def kill_a_run(folder: Path, text: Path, method: str, last_step: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", CHILD, str(folder), str(text), method, str(last_step)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("method", "last_step"), [("lora", 5), ("block_local", 9)], ids=["amid the only stage", "amid the second of three"]
)
def test_killed_run_ends_with_the_same_bytes(method: str, last_step: int, tmp_path: Path, text_file: Path) -> None:
    variant = make_variant(tmp_path)
    request = request_for(variant, text_file, method)
    whole = recovered(replace(request, out=tmp_path / "whole"))
    kill_a_run(tmp_path, text_file, method, last_step)
    (left,) = tmp_path.glob("recovered*")
    saved = torch.load(left / "state.pt", weights_only=True)
    assert left.name.startswith("recovered.partial-")
    assert 0 < saved["stage"] * 6 + saved["step"] < last_step, "the state lies before the kill, not at the beginning"
    seen: list[float] = []
    again = recover(request, lambda stage, done, total: seen.append(done) if stage == "train" else None, verify_variant)
    assert seen[0] == saved["stage"] * 6 + saved["step"] + 1, "nothing that was saved is done again"
    assert weights_and_curve(tmp_path / "recovered") == weights_and_curve(tmp_path / "whole")
    assert again.checksums == whole.checksums and again.fingerprint == whole.fingerprint
    assert sorted(path.name for path in tmp_path.glob("recovered*")) == ["recovered"], "the working folder is gone"


@pytest.mark.parametrize("method", ["full", "lora", "distillation", "block_local"])
def test_interrupted_after_every_save(
    method: str, tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped behind each saved state in turn, until it ends by itself."""
    request = request_for(make_variant(tmp_path), text_file, method)
    recovered(replace(request, out=tmp_path / "whole"))
    original = Trainer._keep

    def keep_then_stop(self: Trainer, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    interruptions = 0
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_keep", keep_then_stop)
        while True:
            try:
                recovered(request)
                break
            except KeyboardInterrupt:
                interruptions += 1
    assert interruptions == {"block_local": 12}.get(method, 6)
    assert weights_and_curve(tmp_path / "recovered") == weights_and_curve(tmp_path / "whole")


def test_failed_export_trains_nothing_again(tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_for(make_variant(tmp_path), text_file, "lora")
    with monkeypatch.context() as patched:
        patched.setattr(recovery, "write_checkpoint", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            recovered(request)
    assert not request.out.exists()
    stages: list[str] = []
    recover(request, lambda stage, done, total: stages.append(stage), verify_variant)
    assert "train" not in stages and "export" in stages


@pytest.mark.parametrize("change", [{"seed": 1}, {"tokens": 224}, {"learning_rate": 0.5}, {"rank": 3}])
def test_another_request_is_not_continued(change: dict[str, object], tmp_path: Path, text_file: Path) -> None:
    request = request_for(make_variant(tmp_path), text_file, "lora")

    def interrupted(each: RecoveryRequest) -> list[float]:
        """The steps that were done, up to the fourth of the run."""
        steps: list[float] = []

        def stop(stage: str, done: float, total: float) -> None:
            if stage == "train":
                steps.append(done)
                if done >= 4:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            recover(each, stop, verify_variant)
        return steps

    assert interrupted(request) == [1, 2, 3, 4]
    assert interrupted(request) == [4]
    assert interrupted(replace(request, **change)) == [1, 2, 3, 4]  # type: ignore[arg-type]
