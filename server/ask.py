"""What does the data path need to know of a request's body? The model it asks for; the rest stays bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from server import faults


@dataclass(frozen=True, slots=True)
class Ask:
    """A body, and what was read from it."""

    body: bytes
    fields: dict[str, Any]
    model: str

    @classmethod
    def parse(cls, body: bytes) -> Ask:
        """Raises ServingError (400) if it is no JSON object that names a model."""
        try:
            fields = from_json(body)
        except ValueError as error:
            raise faults.malformed_body(str(error)) from error
        if not isinstance(fields, dict):
            raise faults.malformed_body(f"it is a {type(fields).__name__}")
        model = fields.get("model")
        if not isinstance(model, str):
            raise faults.missing_model()
        return cls(body, fields, model)

    def body_for(self, served_name: str) -> bytes:
        """The very bytes where the worker knows the model by the name asked for; else the same object with its name."""
        if served_name == self.model:
            return self.body
        return json.dumps({**self.fields, "model": served_name}, ensure_ascii=False).encode("utf-8", "surrogatepass")
