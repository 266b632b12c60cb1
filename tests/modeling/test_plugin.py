"""vLLM's door to our family: found by its entry point, opened in every process, cheap to open."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
from transformers import AutoConfig

from modeling import plugin
from modeling.pruned_config import ARCHITECTURE, MODEL_TYPE, PrunedConfig
from tests.plugin_path import PLUGINS, plugin_path

ROOT = Path(__file__).parents[2]


class RecordingRegistry:
    """Stands where vLLM's ModelRegistry stands."""

    def __init__(self) -> None:
        self.models: dict[str, str] = {}

    def register_model(self, architecture: str, model: str) -> None:
        self.models[architecture] = model


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> RecordingRegistry:
    recording, fake = RecordingRegistry(), ModuleType("vllm")
    fake.ModelRegistry = recording  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    return recording


def test_the_entry_point_is_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    targets = project["entry-points"][PLUGINS]
    assert [EntryPoint(name, target, PLUGINS).load() for name, target in targets.items()] == [plugin.register]


def test_registering_twice_is_registering_once(registry: RecordingRegistry) -> None:
    plugin.register()
    plugin.register()
    assert registry.models == {ARCHITECTURE: plugin.MODEL}
    assert type(AutoConfig.for_model(MODEL_TYPE)) is PrunedConfig


def test_the_named_model_is_a_class_of_that_module() -> None:
    """Read, not imported: vLLM takes ten seconds and may be absent."""
    module, name = plugin.MODEL.split(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    assert name == ARCHITECTURE
    assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_loading_the_plugin_imports_nothing_heavy() -> None:
    """vLLM loads every installed plug-in, also for models that are none of ours."""
    script = "import modeling.plugin, sys; print(sorted({'torch', 'transformers', 'vllm'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_metadata_folder_makes_the_entry_point_known(tmp_path: Path) -> None:
    environment = plugin_path(tmp_path)
    script = (
        "from importlib.metadata import entry_points\n"
        f"print([e.value for e in entry_points(group={PLUGINS!r}) if e.name == 'prunebench'])"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['modeling.plugin:register']"
