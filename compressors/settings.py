"""What a user may set of a method: the fields of its configuration, given as `name=value` in place of their defaults.

The configuration's own annotations say what a value may be, so a method that gains a field needs no option of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace

from pydantic import TypeAdapter, ValidationError

from artifacts.errors import ConfigError
from compressors.registry import Method

_NOTHING = "none"


def with_settings(method: Method, given: Sequence[str]) -> Method:
    """The method with the settings `name=value`, where `none` is none. Raises ConfigError for what is no setting."""
    if not given:
        return method
    known = [field.name for field in fields(method.config)]
    wanted: dict[str, str | None] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in known or name in wanted:
            raise ConfigError(
                f"Setting {text!r} of method {method.name} is not NAME=VALUE with a name of its own, each once. "
                f"It has {', '.join(known) or 'none'}."
            )
        wanted[name] = None if value == _NOTHING else value
    try:
        config = TypeAdapter(type(method.config)).validate_python(asdict(method.config) | wanted)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = str(fault["loc"][0]) if fault["loc"] else "settings"
        raise ConfigError(f"Setting {where}={wanted.get(where)} of method {method.name}: {fault['msg']}.") from error
    return replace(method, config=config)
