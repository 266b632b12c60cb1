"""The fleet file: which variants one endpoint serves, and with which engine settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.limits import Limits, Swap, Timeouts

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Url = Annotated[str, Field(pattern=r"^(http://|unix:/)", description="http://host:port or unix:/path/of/socket")]
Share = Annotated[float, Field(gt=0)]


class VariantEntry(Document):
    """One served variant: a local folder or hub id for the engine, or the URLs of running servers."""

    name: Name
    model: str | None = Field(default=None, description="local folder or hub id")
    url: Url | tuple[Url, ...] | None = Field(
        default=None, description="a running OpenAI-compatible server, or several that serve the same"
    )
    served_name: str | None = Field(default=None, description="the model's name at `url`, if it differs from `name`")
    engine: Literal["vllm", "sim"] = "vllm"
    engine_flags: tuple[str, ...] = Field(default=(), description="passed to the engine's command line as they are")
    kv_cache_bytes: int | None = Field(default=None, gt=0, description="overrides the fleet's value")
    max_in_flight: int | None = Field(default=None, gt=0, description="overrides limits.max_in_flight_per_variant")

    @property
    def urls(self) -> tuple[str, ...]:
        """None for a variant whose worker is ours."""
        return (self.url,) if isinstance(self.url, str) else self.url or ()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.url == ():
            raise ValueError("`url` is an empty list; give at least one")
        if self.served_name is not None and self.url is None:
            raise ValueError("`served_name` belongs to `url`; a worker of our own is served as `name`")
        if (self.model is None) == (self.url is None) and self.engine != "sim":
            raise ValueError("give either `model` (folder or hub id) or `url`, not both and not neither")
        return self


class Fleet(Document):
    """The whole file. Defaults suit one machine; all engines get the same settings unless an entry says otherwise."""

    schema_version: Literal[1] = 1
    variants: tuple[VariantEntry, ...] = Field(min_length=1)
    aliases: dict[Name, Name | dict[Name, Share]] = Field(
        default={}, description="further names: of one variant, or of several with the share of requests of each"
    )
    dtype: str = "auto"
    max_model_len: int | None = Field(default=None, gt=0)
    max_num_seqs: int = Field(default=64, gt=0)
    kv_cache_bytes: int = Field(default=1 << 30, gt=0, description="equal for all variants: fairness mode 'equal KV'")
    prefix_caching: bool = False
    start_timeout_s: float = Field(default=600, gt=0)
    starts_at_once: int = Field(
        default=1, gt=0, description="engines that load together; more only where their caches' bytes are given"
    )
    layout: Literal["resident", "swap"] = Field(default="resident", description="all variants up, or few awake")
    swap: Swap = Swap()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    keys_file: str | None = Field(default=None, description="hashes of API keys; default: none is needed")
    access_log: str | None = Field(default=None, description="file that gets one JSON line per request")
    state_dir: str | None = Field(default=None, description="sockets and logs; default: a temporary folder")

    @model_validator(mode="after")
    def _aliases_lead_somewhere(self) -> Self:
        names = {entry.name for entry in self.variants}
        for alias, target in self.aliases.items():
            if alias in names:
                raise ValueError(f"the alias {alias!r} is a variant's name already")
            targets = {target} if isinstance(target, str) else set(target)
            if not targets or targets - names:
                missing = ", ".join(sorted(targets - names)) or "nothing"
                raise ValueError(f"the alias {alias!r} names {missing}; allowed: {', '.join(sorted(names))}")
        return self

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        names = [entry.name for entry in self.variants]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"variant names must be distinct; repeated: {', '.join(repeated)}")
        return self


def fleet_of_folders(folders: list[Path]) -> Fleet:
    """One variant per folder, named by the folder. A folder of variant folders counts as all of them.

    Raises ConfigError for a folder that is missing or holds no checkpoint.
    """
    entries: list[VariantEntry] = []
    for folder in folders:
        entries += [VariantEntry(name=found.name, model=str(found)) for found in _checkpoints_in(folder)]
    return Fleet.parse({"variants": [e.model_dump() for e in entries]}, "the given folders")


def _checkpoints_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder. Give a fleet file ending in .toml, or folders with checkpoints.")
    if (folder / "config.json").is_file():
        return [folder.resolve()]
    found = sorted(child.resolve() for child in folder.iterdir() if (child / "config.json").is_file())
    if not found:
        raise ConfigError(
            f"{folder} holds no checkpoint (no config.json in it or one level below). Run compress first."
        )
    return found
