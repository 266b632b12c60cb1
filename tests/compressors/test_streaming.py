"""One block at a time gives what the whole model in memory gives, bit for bit, and never holds two blocks."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, build_model, logits_of, random_windows, save_checkpoint

from artifacts.errors import CheckpointError
from artifacts.progress import silent
from compressors.arch import LayerView
from compressors.blocks import CheckpointModel
from compressors.methods import REGISTRY
from compressors.plan import LayerBudget
from compressors.resident import prune_resident
from compressors.sequential import PruningJob
from compressors.shards import Resident, metadata_of_file, stored_tensors, tensors_of_file, write_shard
from compressors.together import prune_blocks
from compressors.workspace import BlockFolder

WIDTHS = (LayerBudget(kv_groups=2, ffn_channels=30),) * 3


def job(method: str = "wanda_sp", allocation: tuple[LayerBudget, ...] = WIDTHS) -> PruningJob:
    return PruningJob(method=REGISTRY.named(method), units=("ffn", "kv"), allocation=allocation, repair="ridge", seed=0)


def block_folder(model: CheckpointModel, folder: Path) -> BlockFolder:
    folder.mkdir()
    return BlockFolder(folder, model.skeleton, {n: s.dtype for n, s in model.stored.items()}, model.device)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_models(family: str, tmp_path: Path) -> None:
    """Embedding rows, masks, rotary embeddings, final norm and head, tied or not."""
    model, windows = CheckpointModel(save_checkpoint(tmp_path, family)), random_windows(4, 20)
    with torch.inference_mode():
        states, arguments = model.embed(windows), model.arguments(20)
        for index in range(len(model)):
            for unit in ("kv", "ffn"):
                states = model.load(index).run(unit, states, arguments[index])  # type: ignore[arg-type]
        assert torch.equal(model.logits(states), build_model(family)(input_ids=windows, use_cache=False).logits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keep_resident", [False, True])
def test_the_blocks_are_those_of_the_whole_model_path(family: str, keep_resident: bool, tmp_path: Path) -> None:
    whole = build_model(family)
    model = CheckpointModel(save_checkpoint(tmp_path / "dense", family), keep_resident=keep_resident)
    blocks = block_folder(model, tmp_path / "blocks")
    with torch.inference_mode():
        plan = prune_blocks(model, job(), random_windows(), blocks, silent)
    assert plan == prune_resident(whole, job(), random_windows())
    for index, layer in enumerate(whole.model.layers):
        written = load_file(blocks.path(index))
        assert written.keys() == dict(layer.named_parameters()).keys()
        for name, parameter in layer.named_parameters():
            assert torch.equal(written[name], parameter), name


def test_one_block_is_alive_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = CheckpointModel(save_checkpoint(tmp_path / "dense", num_hidden_layers=5))
    alive: list[weakref.ref[Any]] = []
    most = 0
    load = CheckpointModel.load

    def counted(self: CheckpointModel, index: int) -> LayerView:
        nonlocal most
        layer = load(self, index)
        alive.append(weakref.ref(layer.module))
        gc.collect()
        most = max(most, sum(reference() is not None for reference in alive))
        return layer

    monkeypatch.setattr(CheckpointModel, "load", counted)
    with torch.inference_mode():
        prune_blocks(
            model, job(allocation=WIDTHS[:1] * 5), random_windows(), block_folder(model, tmp_path / "b"), silent
        )
    assert len(alive) == 5 and most == 1


def test_absent_halves_and_layers(tmp_path: Path) -> None:
    """Attention gone in block 0, FFN in block 1, all of block 2: what is left computes the rest."""
    allocation = (
        LayerBudget(kv_groups=0, ffn_channels=48),
        LayerBudget(kv_groups=4, ffn_channels=0),
        LayerBudget(kv_groups=0, ffn_channels=0),
    )
    model = CheckpointModel(save_checkpoint(tmp_path / "dense", "qwen3"))
    blocks = block_folder(model, tmp_path / "blocks")
    with torch.inference_mode():
        plan = prune_blocks(model, job(allocation=allocation), random_windows(), blocks, silent)
        assert plan.kept_layers == (0, 1) and not blocks.path(2).exists()
        dense = build_model("qwen3").model.layers
        states = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(0))
        arguments = model.arguments(7)[0]
        first, second = blocks.load(0), blocks.load(1)
        assert torch.equal(first.run("kv", states, arguments), states)
        assert torch.equal(first.run("ffn", states, arguments), LayerView(dense[0]).run("ffn", states, arguments))
        assert torch.equal(second.run("kv", states, arguments), LayerView(dense[1]).run("kv", states, arguments))
        assert torch.equal(second.run("ffn", states, arguments), states)


def test_repaired_weights_are_rounded_before_the_stream_moves_on(tmp_path: Path) -> None:
    """Blocks kept in bfloat16 hold exactly what the next block was repaired against."""
    model = CheckpointModel(save_checkpoint(tmp_path / "dense", dtype=torch.bfloat16))
    blocks = block_folder(model, tmp_path / "blocks")
    rounding = PruningJob(
        method=REGISTRY.named("wanda_sp"),
        units=("ffn",),
        allocation=(LayerBudget(kv_groups=4, ffn_channels=30),) * 3,
        repair="ridge",
        seed=0,
        dtype=torch.bfloat16,
    )
    kept: dict[int, torch.Tensor] = {}
    keep = BlockFolder.keep

    def note(self: BlockFolder, index: int, layer: LayerView, plan: Any) -> None:
        kept[index] = layer.ffn.down_proj.weight.clone()
        keep(self, index, layer, plan)

    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockFolder, "keep", note)
        prune_blocks(model, rounding, random_windows(), blocks, silent)
    for index, weight in kept.items():
        assert torch.equal(blocks.load(index).ffn.down_proj.weight, weight)


def test_a_shard_written_here_is_read_by_the_library_and_back(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(12, dtype=torch.float32).view(3, 4),
        "b": torch.randn(5, 2, dtype=torch.bfloat16),
        "c": torch.tensor([True, False]),
    }
    write_shard(tmp_path / "x.safetensors", {n: Resident(t, t.dtype) for n, t in tensors.items()}, {"plan": "é"})
    assert all(torch.equal(tensors[name], tensor) for name, tensor in load_file(tmp_path / "x.safetensors").items())
    assert metadata_of_file(tmp_path / "x.safetensors") == {"format": "pt", "plan": "é"}
    ours = tensors_of_file(tmp_path / "x.safetensors")
    assert torch.equal(ours["a"].read(1, 2), tensors["a"][1:]) and torch.equal(ours["b"].read(), tensors["b"])
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(stored_tensors(tmp_path)["b"].read(), tensors["b"])
    write_shard(tmp_path / "copy.safetensors", ours)
    assert all(torch.equal(tensors[n], t) for n, t in load_file(tmp_path / "copy.safetensors").items())
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "dense")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1000])
    model = CheckpointModel(folder)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        for index in range(len(model)):
            model.load(index)
        model.require_finite_ends()
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00notjson!")
    with pytest.raises(CheckpointError, match="is damaged"):
        CheckpointModel(folder)


def test_a_value_that_is_not_finite_is_found_in_blocks_and_ends(tmp_path: Path) -> None:
    for name in ("model.layers.1.mlp.up_proj.weight", "lm_head.weight"):
        folder = save_checkpoint(tmp_path / name, "qwen3")
        tensors = load_file(folder / "model.safetensors")
        tensors[name][3, 5] = float("nan")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        model = CheckpointModel(folder)
        with pytest.raises(CheckpointError, match=rf"{name} has values that are not finite"):
            model.load(1)
            model.require_finite_ends()


def test_embedding_rows_are_gathered_by_runs(tmp_path: Path) -> None:
    model = CheckpointModel(save_checkpoint(tmp_path))
    ids = torch.tensor([[5, 6, 7, 90], [6, 6, 0, 41]])
    assert torch.equal(model.embed(ids), build_model().model.embed_tokens(ids))


def test_loading_twice_gives_blocks_that_do_not_share_surgery(tmp_path: Path) -> None:
    """Also when weights stay resident: cutting one copy leaves the next one whole."""
    model = CheckpointModel(save_checkpoint(tmp_path), keep_resident=True)
    with torch.inference_mode():
        expected = logits_of(build_model())
        sink = block_folder(model, tmp_path / "blocks")
        prune_blocks(model, job("magnitude"), random_windows(), sink, silent)
    assert model.load(0).ffn_width == 48
    assert torch.isfinite(expected).all()
