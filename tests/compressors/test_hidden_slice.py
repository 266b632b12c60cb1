"""Hidden slicing keeps the function where the states leave room, loads as a stock model, and forgets no matrix."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import FAMILIES, build_model, logits_of, random_text, save_checkpoint, save_tokenizer
from transformers import AutoModelForCausalLM

from artifacts.errors import ConfigError
from artifacts.variant import VariantManifest, load_variant
from compressors.arch import LayerView
from compressors.methods.hidden_slice import HiddenSliceConfig, find_basis
from compressors.pipeline import compress
from compressors.quality import EvaluationRequest, evaluate
from compressors.repair import Repair
from compressors.request import CompressionRequest
from compressors.slicing import HiddenCut, slice_layer
from compressors.source import read_config
from compressors.surgery import rotate_writer
from compressors.verify import verify_variant
from compressors.workspace import BlockFolder

WIDTH, INNER = 64, 40
REPAIRS: tuple[Repair, ...] = ("none", "ridge")


def made(model: Path, text: Path, ratio: float = 0.375, **changes: Any) -> VariantManifest:
    """Without repair unless asked for; a ratio of 0.375 leaves 40 of 64 channels."""
    request = CompressionRequest(
        model=str(model),
        out=model.parent / "variant",
        method="hidden_slice",
        ratio=ratio,
        calibration=str(text),
        calibration_tokens=1024,
        window_tokens=16,
        multiple_of=1,
        repair="none",
    )
    return compress(replace(request, **changes), verify=verify_variant)


def reload(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def confine(model: Any) -> None:
    """Projects everything that writes into the residual stream onto a random subspace of INNER dimensions."""
    directions, _ = torch.linalg.qr(torch.randn(WIDTH, INNER, generator=torch.Generator().manual_seed(3)))
    project = directions @ directions.T
    model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight @ project)
    for layer in model.model.layers:
        for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
            writer.weight.copy_(project @ writer.weight)
            if writer.bias is not None:
                writer.bias.copy_(project @ writer.bias)


def save_confined(folder: Path, family: str) -> Any:
    model = build_model(family)
    confine(model)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


@pytest.fixture
def long_text(tmp_path: Path) -> Path:
    path = tmp_path / "long.txt"
    path.write_text(random_text(80, 40))
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_a_confined_stream_survives_the_cut(family: str, tmp_path: Path, long_text: Path) -> None:
    """40 of 64 channels carry everything: same logits from the narrow model, in unpatched Transformers."""
    dense = save_confined(tmp_path / "dense", family)
    manifest = made(tmp_path / "dense", long_text)
    variant = reload(tmp_path / "variant")
    wanted, given = logits_of(dense), logits_of(variant)
    assert variant.config.hidden_size == INNER == manifest.hidden_size
    assert float((given - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
    norms = [p for name, p in variant.named_parameters() if name.endswith(("layernorm.weight", "model.norm.weight"))]
    assert len(norms) == 7
    assert all(torch.allclose(norm, torch.full((INNER,), math.sqrt(WIDTH / INNER))) for norm in norms)


@pytest.mark.parametrize("family", FAMILIES)
def test_turning_alone_changes_nothing(family: str) -> None:
    """All 64 directions: the rotated model is the model."""
    model = build_model(family)
    wanted = logits_of(model)
    rotation, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(4)))
    cut = HiddenCut(rotation, torch.float32)
    head = cut.read(model.lm_head.weight.clone(), model.model.norm.weight)
    model.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
    embedding = model.model.embed_tokens.weight
    model.model.embed_tokens.weight = torch.nn.Parameter(embedding @ rotation, requires_grad=False)
    model.model.norm.weight.fill_(1.0)
    for layer in model.model.layers:
        slice_layer(LayerView(layer), cut)
    assert cut.norm_weight == 1.0
    assert float((logits_of(model) - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


MISTAKES: dict[str, tuple[str, Callable[..., Any]]] = {
    "the norms keep weight 1": ("compressors.slicing.HiddenCut.norm", lambda cut: torch.ones(cut.hidden_size)),
    "writers keep their first rows": (
        "compressors.slicing.rotate_writer",
        lambda linear, basis: rotate_writer(linear, torch.eye(WIDTH)[:, : basis.shape[1]]),
    ),
    "gains are forgotten": (
        "compressors.slicing.HiddenCut.read",
        lambda cut, weight, gains: weight @ cut.basis,
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_step_is_needed(name: str, tmp_path: Path, long_text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = save_confined(tmp_path / "dense", "mistral")
    place, mistake = MISTAKES[name]
    monkeypatch.setattr(place, mistake)
    made(tmp_path / "dense", long_text)
    wanted = logits_of(dense)
    assert float((logits_of(reload(tmp_path / "variant")) - wanted).norm()) > 0.1 * float(wanted.norm())


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("half", ["self_attn.o_proj", "mlp.down_proj"])
def test_one_writer_outside_the_subspace_shows(layer: int, half: str, tmp_path: Path, long_text: Path) -> None:
    """The other direction: the test above would see a single writer that was not turned."""
    dense = save_confined(tmp_path / "dense", "mistral")
    dense.model.layers[layer].get_submodule(half).weight.normal_(0, 0.2)
    dense.save_pretrained(tmp_path / "dense")
    made(tmp_path / "dense", long_text)
    wanted = logits_of(dense)
    assert float((logits_of(reload(tmp_path / "variant")) - wanted).norm()) > 0.01 * float(wanted.norm())


@pytest.mark.parametrize(
    ("family", "architecture", "sentence"),
    [
        ("llama", "LlamaForCausalLM", "8 heads divide 40 channels"),
        ("llama-biased", "LlamaForCausalLM", "biases are no hindrance"),
        ("mistral", "MistralForCausalLM", "takes any hidden size"),
        ("qwen2", "SeedOssForCausalLM", "vLLM's Qwen2 takes hidden size / heads for the head width"),
        ("qwen3", "Qwen3ForCausalLM", "takes any hidden size"),
    ],
)
@pytest.mark.parametrize("repair", REPAIRS)
def test_every_family_loads_as_stock(
    family: str, architecture: str, sentence: str, repair: Repair, tmp_path: Path, long_text: Path
) -> None:
    """`verify_variant` compares logits, shapes and ratios; here the label, the ties and every tensor's shape."""
    model = save_checkpoint(tmp_path / "dense", family)
    manifest = made(model, long_text, repair=repair)
    config, before = read_config(tmp_path / "variant"), read_config(model)
    assert config["architectures"] == [architecture] == [manifest.architecture], sentence
    assert (config["hidden_size"], config["head_dim"], config["tie_word_embeddings"]) == (40, 32, False)
    assert config["rms_norm_eps"] == pytest.approx(before["rms_norm_eps"] * 64 / 40)
    old, new = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "variant"))
    assert new.keys() == old.keys() | {"lm_head.weight"}
    for name, tensor in new.items():
        wide = old[name if name in old else "model.embed_tokens.weight"]
        assert tensor.shape == torch.Size(40 if size == 64 else size for size in wide.shape), name
    assert manifest.layers[0].kv_heads == 4 and manifest.layers[0].ffn_width == 48
    assert manifest.ratios.kv_bytes_per_token == 0 and manifest.ratios.params_blocks == pytest.approx(0.37, abs=0.02)


def test_a_head_count_that_does_not_divide_is_labelled_mistral(tmp_path: Path, long_text: Path) -> None:
    save_checkpoint(tmp_path / "dense")
    assert made(tmp_path / "dense", long_text, 0.4, multiple_of=4).architecture == "LlamaForCausalLM"
    other = made(tmp_path / "dense", long_text, 0.43, multiple_of=4, out=tmp_path / "other")
    assert other.hidden_size == 36 and other.architecture == "MistralForCausalLM"


def test_ratio_zero_is_bit_identical_and_stays_tied(tmp_path: Path, long_text: Path) -> None:
    model = save_checkpoint(tmp_path / "dense")
    manifest = made(model, long_text, 0.0, repair=None)
    before, after = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "variant"))
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert manifest.ratios.params_total == 0 and manifest.hidden_size == 64


def test_rounding_of_the_norm_weight_is_made_good(tmp_path: Path, long_text: Path) -> None:
    """bfloat16 cannot say sqrt(64/44); readers carry what is missing, or all logits would be off by one factor."""
    cut = HiddenCut(torch.eye(64)[:, :44], torch.bfloat16)
    assert cut.norm_weight != math.sqrt(64 / 44)
    assert cut.norm_weight * cut.reader_scale == pytest.approx(math.sqrt(64 / 44), rel=1e-9)
    assert torch.equal(cut.norm().bfloat16().float(), cut.norm())
    model = save_checkpoint(tmp_path / "dense", "qwen3", torch.bfloat16)
    manifest = made(model, long_text, multiple_of=4)
    stored = load_file(tmp_path / "variant" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert manifest.footprint.weights_bytes == 2 * manifest.footprint.params_total


def test_the_basis_is_orthonormal_and_ordered() -> None:
    """A long token counts as much as a short one: the many short ones decide."""
    states = torch.zeros(1, 12, 3)
    states[0, :2, 0], states[0, 2:5, 1], states[0, 5:, 2] = 100.0, 1.0, 0.01
    basis = find_basis(HiddenSliceConfig(), iter([states[:, :6], states[:, 6:]]))
    assert torch.allclose(basis.T @ basis, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert [int(column.abs().argmax()) for column in basis.T] == [2, 1, 0]


def test_a_finished_block_is_not_made_again(tmp_path: Path, long_text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after two blocks, with repair: the same bytes as without the interruption."""
    model = save_checkpoint(tmp_path / "dense")
    whole = made(model, long_text, repair="ridge", out=tmp_path / "whole")
    keep, kept = BlockFolder.keep, []

    def interrupted(self: BlockFolder, index: int, *rest: Any) -> None:
        if index == 2 and len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(index)
        keep(self, index, *rest)

    monkeypatch.setattr(BlockFolder, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(model, long_text, repair="ridge")
    kept.append(-1)
    resumed = made(model, long_text, repair="ridge")
    assert kept == [0, 1, -1, 2] and resumed.checksums == whole.checksums


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"multiple_of": 65}, "hidden size 64 cannot be rounded to a multiple of 65"),
        ({"ratio": 0.001}, "rounds to no removed unit (hidden size 64"),
        ({"units": ("ffn",)}, "cannot prune ffn. Its units are hidden"),
        ({"calibration": None}, "needs calibration text"),
        ({"repair": "bias"}, "can be repaired by ridge only"),
    ],
)
def test_refused(changes: dict[str, Any], fragment: str, model_folder: Path, long_text: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        made(model_folder, long_text, **changes)
    assert fragment in str(caught.value) and not (model_folder.parent / "variant").exists()


def test_manifests_without_a_hidden_size_still_load(model_folder: Path, long_text: Path) -> None:
    made(model_folder, long_text)
    path = model_folder.parent / "variant" / "variant.json"
    content = json.loads(path.read_text())
    del content["hidden_size"]
    path.write_text(json.dumps(content))
    assert load_variant(path.parent).hidden_size is None


def test_repair_pays_on_a_trained_model(stories: Callable[[str], Path], tmp_path: Path) -> None:
    """A quarter of the residual stream of stories260K; other stories judge than those that repair."""
    documents = stories("corpora/tinystories/dev.txt").read_text().split("\n<|endoftext|>\n")
    for name, part in (("calibration.txt", documents[::2]), ("evaluation.txt", documents[1:60:2])):
        (tmp_path / name).write_text("\n<|endoftext|>\n".join(part))
    losses = {}
    for repair in REPAIRS:
        out = tmp_path / f"variant-{repair}"
        model, text = stories("models/stories260K"), tmp_path / "calibration.txt"
        made(model, text, 0.25, out=out, repair=repair, calibration_tokens=8192, window_tokens=256)
        losses[repair] = evaluate(EvaluationRequest(model=out, text=tmp_path / "evaluation.txt")).loss_nats
    assert losses["ridge"] < losses["none"] - 0.2, losses
