"""From a folder to a verified masked variant: shapes stay, zeros are counted, nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_pipeline import made, reload, request_for
from tiny_models import FAMILIES, build_model, logits_of, random_windows, save_checkpoint

from artifacts.errors import CheckpointError, ConfigError
from artifacts.variant import MANIFEST_NAME, UNACCELERATED, SparsityRef, VariantManifest, load_variant
from compressors.arch import LayerView
from compressors.blocks import CheckpointModel
from compressors.card import ResourceCard
from compressors.chain import compress_chain
from compressors.masking import MaskingJob, mask_blocks
from compressors.masks import Pattern, row_mask
from compressors.methods import REGISTRY
from compressors.pipeline import compress
from compressors.plan import whole_plan
from compressors.recovery.recover import RecoveryRequest, recover
from compressors.request import CompressionRequest
from compressors.resident import Collector, ResidentModel, mask_resident
from compressors.verify import verify_variant

METHODS = tuple(name for name in REGISTRY.names if REGISTRY.named(name).masks)


def mask_request(model: Path, text: Path, method: str, ratio: float = 0.7, **changes: Any) -> CompressionRequest:
    return request_for(model, method, ratio, calibration=str(text), **changes)


def matrices(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.startswith("model.layers.") and tensor.ndim == 2:
            yield name, tensor


def test_these_are_the_methods() -> None:
    assert METHODS == ("weight_magnitude", "wanda", "sparsegpt", "sparsellm")
    for method in map(REGISTRY.named, METHODS):
        assert method.units == ("weights",) and not method.can_be_repaired


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("ratio", "pattern"), [(0.7, None), (0.5, "2:4"), (0.75, "3:4")])
def test_zeros_are_exactly_those_asked_for(
    method: str, ratio: float, pattern: str | None, tmp_path: Path, text_file: Path
) -> None:
    """In every matrix of every block, in every group of n:m, and in bfloat16."""
    model = save_checkpoint(tmp_path / "dense", "qwen3", torch.bfloat16)
    manifest = made(mask_request(model, text_file, method, ratio, pattern=pattern))
    dense, total = dict(matrices(model)), 0
    for name, tensor in matrices(tmp_path / "variant"):
        zeros = tensor == 0
        total += int(zeros.sum())
        assert tensor.shape == dense[name].shape and int(zeros.sum()) == int(ratio * tensor.numel() + 0.5), name
        if pattern is not None:
            assert bool((zeros.view(len(tensor), -1, 4).sum(dim=2) == int(pattern[0])).all()), name
    weights = sum(tensor.numel() for tensor in dense.values())
    assert manifest.sparsity == SparsityRef(
        pattern=pattern or "unstructured", asked=ratio, zeros=total, weights=weights
    )
    assert manifest.sparsity.share == pytest.approx(ratio, abs=1e-3)
    assert set(manifest.ratios.model_dump().values()) == {0.0} and manifest.footprint == manifest.base.footprint
    assert manifest.architecture == "Qwen3ForCausalLM" and manifest.expressibility == "stock"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_asked_is_bit_identical(method: str, family: str, tmp_path: Path, text_file: Path) -> None:
    model = save_checkpoint(tmp_path / "dense", family, torch.bfloat16)
    manifest = made(mask_request(model, text_file, method, 0.0))
    before, after = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "variant"))
    assert before.keys() == after.keys() and all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert manifest.sparsity is not None and manifest.sparsity.zeros == 0


@pytest.mark.parametrize("method", METHODS)
def test_only_the_matrices_of_blocks_change(method: str, tmp_path: Path, text_file: Path) -> None:
    model = save_checkpoint(tmp_path / "dense", "llama-biased")
    made(mask_request(model, text_file, method))
    after = load_file(tmp_path / "variant" / "model.safetensors")
    for name, tensor in load_file(model / "model.safetensors").items():
        if tensor.ndim == 1 or not name.startswith("model.layers."):
            assert torch.equal(after[name], tensor), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("map_states", [False, True])
def test_streaming_gives_what_the_whole_model_in_memory_gives(
    method: str, map_states: bool, tmp_path: Path, text_file: Path
) -> None:
    """Also after a kill that left the first block, and with what is remembered of tokens in files."""
    whole, windows, pattern = build_model(), random_windows(), Pattern(0.6)
    job = MaskingJob(method=REGISTRY.named(method), pattern=pattern, folder=tmp_path if map_states else None)
    mask_resident(whole, replace(job, folder=None), windows)
    model = CheckpointModel(save_checkpoint(tmp_path / "dense"))
    sink = _Interrupted(whole.model.layers[0])
    with torch.no_grad():
        mask_blocks(model, job, windows, _full_plan(), sink, lambda *_: None)
    assert sorted(sink.layers) == [1, 2]
    for index, layer in sink.layers.items():
        for name, parameter in layer.module.named_parameters():
            assert torch.equal(parameter, dict(whole.model.layers[index].named_parameters())[name]), name
    assert any(tmp_path.glob("*.states")) == (map_states and method != "weight_magnitude")


class _Interrupted(Collector):
    """Has the first block already."""

    def __init__(self, first: Any) -> None:
        super().__init__()
        self._first = first

    def finished(self, index: int) -> Any:
        return (LayerView(self._first), _full_plan().layers[0]) if index == 0 else None


def _full_plan() -> Any:
    from planted import FULL

    return whole_plan((FULL,) * 3)


def test_wanda_sees_the_inputs_of_the_masked_layers_before() -> None:
    """By hand for the second layer's query projection."""
    model, dense, windows = build_model(), build_model(), random_windows()
    mask_resident(model, MaskingJob(method=REGISTRY.named("wanda"), pattern=Pattern(0.5)), windows)
    seen: list[torch.Tensor] = []
    second = model.model.layers[1].self_attn.q_proj
    second.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        model(input_ids=windows, use_cache=False)
    weight = dense.model.layers[1].self_attn.q_proj.weight
    wanted = row_mask(weight.abs() * seen[0].flatten(0, 1).norm(dim=0), Pattern(0.5))
    assert torch.equal(second.weight, weight.masked_fill(wanted, 0.0))


def test_wandas_own_rounding_makes_fewer_zeros() -> None:
    counts = {}
    for rows in ("exact", "floor"):
        model, method = build_model(), REGISTRY.named("wanda")
        method = replace(method, config=replace(method.config, rows=rows))
        mask_resident(model, MaskingJob(method=method, pattern=Pattern(0.7)), random_windows())
        counts[rows] = (model.model.layers[0].self_attn.q_proj.weight == 0).sum(dim=1)
    assert set(counts["exact"].tolist()) == {44, 45} and set(counts["floor"].tolist()) == {44}


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_do_nothing_go_first(method: str) -> None:
    """Half of every row is zero already, so a model can have as much without loss."""
    model = build_model()
    for layer in model.model.layers:
        for parameter in layer.parameters():
            if parameter.ndim == 2:
                parameter[:, ::2] = 0.0
    expected = logits_of(model)
    mask_resident(model, MaskingJob(method=REGISTRY.named(method), pattern=Pattern(0.5)), random_windows())
    assert float((logits_of(model) - expected).abs().max()) < 1e-3 * float(expected.abs().max())


def test_the_card_says_that_nothing_gets_faster(model_folder: Path, text_file: Path) -> None:
    cards: list[ResourceCard] = []
    for method in ("sparsegpt", "sparsellm", "magnitude"):
        request = mask_request(model_folder, text_file, method, 0.5, out=model_folder.parent / method)
        compress(request, verify=verify_variant, announce=cards.append)
    assert [UNACCELERATED in card.lines() for card in cards] == [True, True, False]
    assert (
        "values of every token" in cards[1].stages["prune"] and "values of every token" not in cards[0].stages["prune"]
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "magnitude", "pattern": "2:4", "ratio": 0.5}, "Leave --pattern out"),
        ({"pattern": "2:4"}, "but ratio is 0.7"),
        ({"repair": "ridge"}, "masks weights, which a repair would fill"),
        ({"units": ("ffn",)}, "cannot prune ffn"),
        ({"allocation": "evolutionary"}, "does not choose widths"),
        ({"pattern": "1:5", "ratio": 0.2}, "do not divide into groups of 5"),
        ({"calibration": None}, "needs calibration text"),
    ],
)
def test_what_does_not_go_together_is_refused(
    changes: dict[str, Any], sentence: str, model_folder: Path, text_file: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        made(replace(mask_request(model_folder, text_file, "sparsegpt"), **changes))
    assert not (model_folder.parent / "variant").exists()


def test_a_mask_is_the_last_step_of_a_chain(model_folder: Path, text_file: Path) -> None:
    narrow = mask_request(model_folder, text_file, "magnitude", 0.25, units=("kv",), pattern="2:4")
    mask = replace(narrow, method="sparsegpt", ratio=0.5, units=None)
    with pytest.raises(ConfigError, match=r"would fill its zeros\. Make it the last"):
        compress_chain([mask, narrow], verify=verify_variant)
    manifest = compress_chain([narrow, mask], verify=verify_variant)
    assert manifest.ratios.kv_bytes_per_token == 0.25 and manifest.layers[0].kv_heads == 3
    assert manifest.sparsity is not None and (manifest.sparsity.pattern, manifest.sparsity.share) == ("2:4", 0.5)
    assert type(reload(model_folder.parent / "variant")).__name__ == manifest.architecture


def test_training_a_masked_variant_is_refused(model_folder: Path, text_file: Path) -> None:
    made(mask_request(model_folder, text_file, "wanda"))
    variant = model_folder.parent / "variant"
    request = RecoveryRequest(variant=variant, out=model_folder.parent / "healed", method="full", text=text_file)
    with pytest.raises(ConfigError, match="masked weights, which training would fill"):
        recover(request)


def _edited(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST_NAME
    manifest = load_variant(folder)
    assert manifest.sparsity is not None
    manifest.model_copy(update={"sparsity": manifest.sparsity.model_copy(update=changes)}).save(path)


def test_verification_counts_the_zeros_itself(model_folder: Path, text_file: Path) -> None:
    manifest: VariantManifest = made(mask_request(model_folder, text_file, "wanda", 0.5))
    folder = model_folder.parent / "variant"
    verify_variant(folder)
    assert manifest.sparsity is not None
    _edited(folder, zeros=manifest.sparsity.zeros + 1)
    with pytest.raises(CheckpointError, match="the files have"):
        verify_variant(folder)
    _edited(folder, zeros=manifest.sparsity.zeros, pattern="2:4")
    with pytest.raises(CheckpointError, match="has a group of 4 with"):
        verify_variant(folder)


def test_a_later_edit_of_the_weights_is_found(model_folder: Path, text_file: Path) -> None:
    made(mask_request(model_folder, text_file, "wanda", 0.5))
    path = model_folder.parent / "variant" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"][tensors["model.layers.0.mlp.up_proj.weight"] == 0] = 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError):
        verify_variant(path.parent)


def test_one_block_at_a_time(model_folder: Path) -> None:
    """A resident model is not changed by what is made of copies of its blocks."""
    model = build_model()
    expected, sink = logits_of(model), Collector()
    job = MaskingJob(method=REGISTRY.named("sparsellm"), pattern=Pattern(0.5))
    with torch.no_grad():
        mask_blocks(ResidentModel(model), job, random_windows(), _full_plan(), sink, lambda *_: None)
    assert torch.equal(logits_of(model), expected) and sorted(sink.layers) == [0, 1, 2]
