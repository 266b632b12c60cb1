"""The fleet file was changed: what has to happen to whom?

Pure. A variant restarts only if its engine would be run differently; names, limits and patience are the gateway's and
change at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from artifacts.errors import ConfigError
from artifacts.fleet import Fleet, VariantEntry

# What the server has built itself around.
FIXED = ("layout", "state_dir", "keys_file", "access_log")


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """Entries of the new file, and names of variants that it lacks."""

    added: tuple[VariantEntry, ...]
    changed: tuple[VariantEntry, ...]
    unaffected: tuple[VariantEntry, ...]
    removed: tuple[str, ...]

    @property
    def names(self) -> dict[str, list[str]]:
        return {
            "added": [entry.name for entry in self.added],
            "changed": [entry.name for entry in self.changed],
            "removed": list(self.removed),
            "unaffected": [entry.name for entry in self.unaffected],
        }

    def __str__(self) -> str:
        return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in self.names.items() if names)


def reload_plan(old: Fleet, new: Fleet) -> ReloadPlan:
    """Raises ConfigError if something has changed that only a restart of the server can change."""
    fixed = [name for name in FIXED if getattr(old, name) != getattr(new, name)]
    if fixed:
        raise ConfigError(f"{' and '.join(fixed)} cannot change while the server runs. Restart it for that.")
    known = {entry.name: entry for entry in old.variants}
    kept = [entry for entry in new.variants if entry.name in known]
    changed = {entry.name for entry in kept if engine_of(entry, new) != engine_of(known[entry.name], old)}
    return ReloadPlan(
        added=tuple(entry for entry in new.variants if entry.name not in known),
        changed=tuple(entry for entry in kept if entry.name in changed),
        unaffected=tuple(entry for entry in kept if entry.name not in changed),
        removed=tuple(name for name in known if name not in {entry.name for entry in kept}),
    )


def engine_of(entry: VariantEntry, fleet: Fleet) -> tuple[object, ...]:
    """All that decides how the variant's engine is run; equal values mean the same engine."""
    own = entry.model_copy(update={"max_in_flight": None, "kv_cache_bytes": None})
    if entry.urls or entry.engine != "vllm":
        return (own,)
    cache_bytes = entry.kv_cache_bytes or fleet.kv_cache_bytes
    shared = (fleet.dtype, fleet.max_model_len, fleet.max_num_seqs, fleet.prefix_caching, fleet.swap.level)
    return (own, cache_bytes, *shared)
