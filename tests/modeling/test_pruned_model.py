"""The pruned family computes what the base families do with the removed units silenced, and keeps its files' word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from modeling.pruned_config import ARCHITECTURE, PrunedConfig
from modeling.pruned_model import PrunebenchForCausalLM, PrunedModel
from modeling.registration import register_with_transformers
from tests.compressors.tiny_models import logits_of
from tests.modeling.per_layer_models import (
    ALL_FFN,
    ALL_KV,
    ATTENTION,
    CASES,
    EVERYTHING,
    FFN,
    MIXED,
    Kept,
    cut,
    cut_stock,
    dense,
    masked,
)

PROMPT = torch.arange(3, 11)[None]
ROOT = Path(__file__).parents[2]


def mixed(case: str) -> PrunebenchForCausalLM:
    return cut(dense(case), MIXED, CASES[case][0])


def greedy(model: Any, ids: torch.Tensor = PROMPT, **options: Any) -> torch.Tensor:
    """12 new tokens [N, 12], whatever they are."""
    model.generation_config.eos_token_id = None
    return model.generate(ids, max_new_tokens=12, do_sample=False, **options)[:, ids.shape[1] :]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("keep", [EVERYTHING, Kept((0, 2, 3), tuple(range(0, 48, 3)))], ids=["all", "some"])
def test_uniform_shapes_are_the_stock_model_to_the_last_bit(case: str, keep: Kept) -> None:
    kept = (keep,) * 3
    model = dense(case, 3)
    assert torch.equal(logits_of(cut(model, kept, CASES[case][0])), logits_of(cut_stock(model, kept)))


@pytest.mark.parametrize("case", CASES)
def test_per_layer_shapes_are_the_dense_model_with_silenced_units(case: str) -> None:
    model = dense(case)
    pruned = logits_of(mixed(case))
    torch.testing.assert_close(pruned, logits_of(masked(model, MIXED)), atol=2e-5, rtol=0)
    assert (pruned - logits_of(model)).abs().max() > 1, "the removed units did matter"


@pytest.mark.parametrize(
    "kept",
    [
        (EVERYTHING, Kept((), ()), Kept((), ALL_FFN), EVERYTHING),
        (Kept((), ()), Kept((), ALL_FFN), Kept((2,), ()), Kept((), ())),
        (Kept((), ALL_FFN[:8]), Kept((), ALL_FFN[:8]), Kept(ALL_KV, ())),
    ],
    ids=["inside", "both-ends", "attention-last"],
)
def test_whole_layers_may_be_gone_as_well(kept: tuple[Kept, ...]) -> None:
    model = dense("llama-biased", len(kept))
    pruned = cut(model, kept, "LlamaForCausalLM")
    assert len(pruned.model.layers) == sum(not keep.is_whole_layer_gone for keep in kept)
    torch.testing.assert_close(logits_of(pruned), logits_of(masked(model, kept)), atol=2e-5, rtol=0)
    assert torch.equal(greedy(pruned), greedy(pruned, use_cache=False))


@pytest.mark.parametrize("case", CASES)
def test_generation_with_a_cache_is_generation_without(case: str) -> None:
    model = mixed(case)
    assert torch.equal(greedy(model), greedy(model, use_cache=False))
    beams = {"num_beams": 3, "num_return_sequences": 3}
    assert torch.equal(greedy(model, **beams), greedy(model, **beams, use_cache=False))


def test_the_cache_has_one_entry_per_attention_and_knows_the_length() -> None:
    with torch.inference_mode():
        cache = mixed("mistral")(PROMPT, use_cache=True).past_key_values
    assert cache.get_seq_length() == PROMPT.shape[1]
    heads = [layer.keys.shape[1] for layer in cache.layers if layer.is_initialized]
    assert heads == [len(keep.kv) for keep in MIXED if keep.kv]


def test_padding_on_the_left_changes_nothing() -> None:
    model, pad = mixed("qwen3"), 2
    short = PROMPT[:, 3:]
    ids = torch.cat([PROMPT, torch.nn.functional.pad(short, (3, 0), value=pad)])
    attended = torch.ones_like(ids)
    attended[1, :3] = 0
    assert torch.equal(greedy(model, ids, attention_mask=attended), torch.cat([greedy(model), greedy(model, short)]))


@pytest.mark.parametrize(("loaded", "used"), [("eager", "sdpa"), ("sdpa", "eager")])
@pytest.mark.parametrize("case", ["mistral", "qwen3"])
def test_no_token_sees_the_future_whichever_attention_is_set(case: str, loaded: str, used: str, tmp_path: Path) -> None:
    """Also after a change: "sdpa" gets no mask where "eager" needs one."""
    original = mixed(case)
    original.save_pretrained(tmp_path)
    model = PrunebenchForCausalLM.from_pretrained(tmp_path, attn_implementation=loaded)
    model.set_attn_implementation(used)
    torch.testing.assert_close(logits_of(model), logits_of(original), atol=2e-5, rtol=0)
    ids = torch.arange(3, 19)[None]
    other = torch.cat([ids[:, :9], ids[:, 9:].flip(1)], dim=1)
    with torch.inference_mode():
        first, second = model(ids).logits, model(other).logits
    torch.testing.assert_close(first[:, :9], second[:, :9], atol=1e-5, rtol=0)
    assert (first[:, 10] - second[:, 10]).abs().max() > 1e-2


@pytest.mark.parametrize("case", CASES)
def test_tensors_keep_the_names_of_the_base_family(case: str) -> None:
    gone = [
        f"model.layers.{index}.{part}"
        for index, keep in enumerate(MIXED)
        for part in (*(() if keep.kv else ATTENTION), *(() if keep.ffn else FFN))
    ]
    expected = {name for name in dense(case).state_dict() if not name.startswith(tuple(gone))}
    assert set(mixed(case).state_dict()) == expected and len(gone) == 4


def test_a_fresh_process_reloads_the_same_models(tmp_path: Path) -> None:
    """All families in one process: it knows nothing but the folders and the registration."""
    expected = {}
    for case in CASES:
        model = mixed(case)
        model.save_pretrained(tmp_path / case)
        with torch.inference_mode():
            expected[case] = model(PROMPT).logits
    script = (
        "import sys, torch; from pathlib import Path; from safetensors.torch import save_file\n"
        "from transformers import AutoModelForCausalLM; from modeling.registration import register_with_transformers\n"
        "register_with_transformers(); torch.set_num_threads(1); ids = torch.arange(3, 11)[None]\n"
        "root = Path(sys.argv[1]); load = AutoModelForCausalLM.from_pretrained\n"
        "logits = {f.name: load(f).eval()(ids).logits.detach() for f in root.iterdir()}\n"
        "save_file(logits, root / 'logits.safetensors')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True, timeout=300)
    reloaded = load_file(tmp_path / "logits.safetensors")
    assert set(reloaded) == set(CASES)
    for case, logits in expected.items():
        torch.testing.assert_close(reloaded[case], logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("case", "is_stored"), [("qwen3", True), ("qwen3-tied", False)])
def test_a_tied_head_is_stored_once(case: str, is_stored: bool, tmp_path: Path) -> None:
    mixed(case).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert ("lm_head.weight" in file.keys()) is is_stored  # noqa: SIM118 - no mapping
    register_with_transformers()
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is not is_stored


def test_registration_may_be_repeated(tmp_path: Path) -> None:
    for _ in range(2):
        register_with_transformers()
    mixed("llama-tied").save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is PrunedConfig and config.architectures == [ARCHITECTURE]
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is PrunebenchForCausalLM
    assert type(AutoModel.from_pretrained(tmp_path)) is PrunedModel


def test_every_layer_is_recorded_also_those_without_attention() -> None:
    model = mixed("qwen3")
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        seen = model(PROMPT, output_hidden_states=True, output_attentions=True)
    assert len(seen.hidden_states) == len(MIXED) + 1
    heads = [weights.shape[1] for weights in seen.attentions]
    assert heads == [2 * len(keep.kv) for keep in MIXED if keep.kv]


def test_gradients_are_the_same_with_checkpointing() -> None:
    gradients = []
    for is_checkpointed in (False, True):
        model = mixed("qwen2").requires_grad_(True).train()
        if is_checkpointed:
            model.gradient_checkpointing_enable()
        model(PROMPT, labels=PROMPT, use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
