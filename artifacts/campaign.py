"""The campaign directory: `campaign.json` over the runs of one comparison at several levels, each in its own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from artifacts.document import Document
from artifacts.errors import ConfigError
from artifacts.provenance import Provenance
from artifacts.run import Comparison, Design, Estimate, Gate, Level, Workload

CAMPAIGN_NAME = "campaign.json"


class LevelResult(Document):
    """One run: its folder inside the campaign's, and what it says."""

    folder: str
    level: Level
    valid: bool
    failed_gates: tuple[Gate, ...]
    comparisons: tuple[Comparison, ...]


class Question(Document):
    """One hypothesis of the family: is `model` faster or slower than the reference by `measure` at this level?

    `p_adjusted` is Holm's over the whole family; `control` is the A/A interval of the same measure at the same level.
    """

    level: str
    model: str
    measure: str
    estimate: Estimate
    p_adjusted: float | None
    control: Estimate | None
    verdict: Literal["faster", "slower", "no difference shown"]


class Campaign(Document):
    """The content of `campaign.json`. `questions` are the family, `controls` the same questions about A/A pairs."""

    schema_version: Literal[1] = 1
    url: str
    models: tuple[str, ...]
    against: str
    workload: Workload
    design: Design
    levels: tuple[LevelResult, ...]
    questions: tuple[Question, ...]
    controls: tuple[Question, ...]
    provenance: Provenance

    @property
    def control_held(self) -> bool:
        """No A/A pair differs from 1, by the rule that the models are judged by."""
        return all(control.verdict == "no difference shown" for control in self.controls)

    @property
    def valid(self) -> bool:
        return self.control_held and all(level.valid for level in self.levels)


def load_campaign(folder: Path) -> Campaign:
    """Raises ConfigError if the folder holds no campaign."""
    if not (folder / CAMPAIGN_NAME).is_file():
        raise ConfigError(f"{folder} holds no {CAMPAIGN_NAME}. Give a folder that `prunebench compare --out` wrote.")
    return Campaign.load(folder / CAMPAIGN_NAME)
