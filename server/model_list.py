"""What does `/v1/models` say of a variant, of the servers behind it, and of a name that stands for others?"""

from __future__ import annotations

from typing import Any

from server.registry import Registry, ServedVariant
from server.replicas import Replica
from server.routing import Split


def model_list(registry: Registry, created_unix_s: int) -> list[dict[str, Any]]:
    """The variants in the fleet's order, then the aliases."""
    variants = [model_entry(variant, created_unix_s) for variant in registry]
    return variants + [alias_entry(registry, name, split, created_unix_s) for name, split in registry.splits.items()]


def named_entry(registry: Registry, name: str, created_unix_s: int) -> dict[str, Any] | None:
    """The entry of this name in the list."""
    variant, split = registry.get(name), registry.splits.get(name)
    if variant is not None:
        return model_entry(variant, created_unix_s)
    return None if split is None else alias_entry(registry, name, split, created_unix_s)


def model_entry(variant: ServedVariant, created_unix_s: int) -> dict[str, Any]:
    """State and origin; shapes, ratios and quality are in the manifest, the checkpoint's hash is the fingerprint."""
    life, checkpoint = variant.lifecycle, variant.checkpoint
    about: dict[str, Any] = {
        "state": life.state,
        "reason": life.reason,
        "restarts": life.restarts,
        "engine": "remote" if variant.entry.urls else variant.entry.engine,
        "model": variant.entry.model,
        "urls": variant.entry.urls,
    }
    if variant.entry.urls:
        about["replicas"] = [_replica_entry(replica) for replica in variant.replicas]
    if checkpoint is not None:
        about["fingerprint"] = checkpoint.fingerprint
    if checkpoint is not None and checkpoint.manifest is not None:
        about["manifest"] = checkpoint.manifest.model_dump(mode="json")
    return _entry(variant.name, created_unix_s, about)


def alias_entry(registry: Registry, name: str, split: Split, created_unix_s: int) -> dict[str, Any]:
    """Its targets with the share of requests of each; `state` is that of the target that is worst off."""
    whole = sum(split.shares.values())
    states = {target: _state(registry, target) for target in split.shares}
    targets = [
        {"variant": target, "share": share / whole, "state": states[target]} for target, share in split.shares.items()
    ]
    worst = next((state for state in states.values() if state != "ready"), "ready")
    return _entry(name, created_unix_s, {"state": worst, "targets": targets})


def _state(registry: Registry, target: str) -> str:
    variant = registry.get(target)
    return "stopped" if variant is None else variant.lifecycle.state


def _replica_entry(replica: Replica) -> dict[str, Any]:
    health = replica.health
    about = {"url": replica.url, "up": not health.ejected, "in_flight": replica.in_flight}
    return about | {"failures": health.failures, "reason": health.reason}


def _entry(name: str, created_unix_s: int, about: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created_unix_s,
        "owned_by": "prunebench",
        "prunebench": about,
    }
