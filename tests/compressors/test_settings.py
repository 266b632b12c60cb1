"""Settings given by name: what arrives, what is refused, and that the record and the work's key know of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from artifacts.errors import ConfigError
from compressors.methods import REGISTRY
from compressors.pipeline import compress
from compressors.request import CompressionRequest, resolve_method
from compressors.settings import with_settings
from compressors.task import resolve_task, work_key
from compressors.verify import verify_variant


@pytest.mark.parametrize(
    ("method", "given", "name", "value"),
    [
        ("taylor", "reduction=abs_of_sum", "reduction", "abs_of_sum"),
        ("obs", "batch=8", "batch", 8),
        ("obs", "batch=none", "batch", None),
        ("sparsegpt", "damping=0.5", "damping", 0.5),
        ("sparsellm", "finish=false", "finish", False),
        ("greedy_kl", "tokens=64", "tokens", 64),
    ],
)
def test_a_setting_takes_the_type_of_its_field(method: str, given: str, name: str, value: object) -> None:
    plain = REGISTRY.named(method)
    config = with_settings(plain, (given,)).config
    assert type(config) is type(plain.config) and type(getattr(config, name)) is type(value)
    assert getattr(config, name) == value
    assert replace(config, **{name: getattr(plain.config, name)}) == plain.config


@pytest.mark.parametrize(
    ("method", "given", "complaint"),
    [
        (
            "wanda_sp",
            ("steps=5",),
            "'steps=5' of method wanda_sp is not NAME=VALUE with a name of its own.*It has none",
        ),
        ("obs", ("batch",), "It has batch, target, most_rows"),
        ("obs", ("batch=1", "batch=2"), "'batch=2' of method obs.*each once"),
        ("obs", ("batch=many",), "batch=many of method obs: Input should be a valid integer"),
        ("taylor", ("reduction=other",), "reduction=other of method taylor: Input should be 'sum_of_abs'"),
    ],
)
def test_what_is_no_setting_is_refused(method: str, given: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        with_settings(REGISTRY.named(method), given)


def test_a_variant_records_its_settings_and_other_settings_are_other_work(model_folder: Path) -> None:
    plain = CompressionRequest(model=str(model_folder), out=model_folder.parent / "v", method="magnitude", ratio=0.25)
    given = replace(plain, settings=("matrices=consumer", "order=1"))
    assert resolve_method(plain)[0].config != resolve_method(given)[0].config
    assert work_key(resolve_task(plain), None) != work_key(resolve_task(given), None)
    manifest = compress(given, verify=verify_variant)
    assert manifest.method.config == {"order": 1, "matrices": "consumer"}
