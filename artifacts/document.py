"""The base of all file formats: frozen pydantic models, unknown keys refused, one error sentence on bad input."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from artifacts.errors import ConfigError
from artifacts.files import write_text_atomically


class Document(BaseModel):
    """A frozen record; `load` and `save` speak JSON (and TOML for reading)."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads `.toml` or JSON. Raises ConfigError with the path and the first fault."""
        try:
            raw = path.read_text(encoding="utf-8")
            data: Any = tomllib.loads(raw) if path.suffix == ".toml" else json.loads(raw)
        except FileNotFoundError as error:
            raise ConfigError(f"{path} does not exist. Give the path of an existing file.") from error
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path} cannot be read ({error}). Mend or recreate the file.") from error
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: object, source: str) -> Self:
        """Validates `data`; `source` names it in the ConfigError."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"])) or "the top level"
            raise ConfigError(
                f"{source} is not a valid {cls.__name__}: {where}: {fault['msg']}. Correct that entry."
            ) from error

    def save(self, path: Path) -> None:
        """Writes indented JSON under its final name only when complete."""
        write_text_atomically(path, self.model_dump_json(indent=1) + "\n")
