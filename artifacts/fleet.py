"""The fleet file: which variants one endpoint serves, and with which engine settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from artifacts.document import Document
from artifacts.errors import ConfigError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,62}$"


class VariantEntry(Document):
    """One served variant: a local folder or hub id for the engine, or the URL of a running server."""

    name: str = Field(pattern=NAME_PATTERN)
    model: str | None = Field(default=None, description="local folder or hub id")
    url: str | None = Field(default=None, pattern=r"^http://", description="a running OpenAI-compatible server")
    engine: Literal["vllm", "sim"] = "vllm"
    engine_flags: tuple[str, ...] = Field(default=(), description="passed to the engine's command line as they are")
    kv_cache_bytes: int | None = Field(default=None, gt=0, description="overrides the fleet's value")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.model is None) == (self.url is None) and self.engine != "sim":
            raise ValueError("give either `model` (folder or hub id) or `url`, not both and not neither")
        return self


class Fleet(Document):
    """The whole file. Defaults suit one machine; all engines get the same settings unless an entry says otherwise."""

    schema_version: Literal[1] = 1
    variants: tuple[VariantEntry, ...] = Field(min_length=1)
    dtype: str = "auto"
    max_model_len: int | None = Field(default=None, gt=0)
    max_num_seqs: int = Field(default=64, gt=0)
    kv_cache_bytes: int = Field(default=1 << 30, gt=0, description="equal for all variants: fairness mode 'equal KV'")
    prefix_caching: bool = False
    start_timeout_s: float = Field(default=600, gt=0)
    max_body_bytes: int = Field(default=16 << 20, gt=0)
    max_in_flight: int = Field(default=1024, gt=0)
    state_dir: str | None = Field(default=None, description="sockets and logs; default: a temporary folder")

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
