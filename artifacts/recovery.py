"""`recovery.json` in a variant directory: how training went, point by point."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from artifacts.document import Document

CURVE_NAME = "recovery.json"


class CurvePoint(Document):
    """One evaluation. `training_loss` is the mean since the point before in the same stage, null where none was."""

    stage: str = Field(description="what was being trained, such as 'full' or 'layer 3 ffn'")
    step: int = Field(ge=0, description="optimizer steps so far, all stages together")
    tokens: int = Field(ge=0, description="training tokens read so far, repetitions counted, all stages together")
    learning_rate: float
    training_loss: float | None
    held_out_loss_nats: float = Field(description="mean over the predicted tokens of the held-out documents")


class LossCurve(Document):
    """The whole file."""

    schema_version: Literal[1] = 1
    method: str
    objective: str = Field(description="what the training loss is, with its unit")
    corpus: str
    held_out_documents: int
    held_out_tokens: int
    points: tuple[CurvePoint, ...] = Field(min_length=2)
