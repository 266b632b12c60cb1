"""Which cell comes next? Nothing here knows how cells are measured, or by whom.

A model's dense cell comes before its others, because they are told against it. On one machine, where checkpoints are
shared, the cells of one group run one after the other, so that none is made twice, and a cell whose speed is measured
runs with no other beside it. Elsewhere every cell stands alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from artifacts.study import CellRecord
from prunebench.study.plan import CellPlan


@dataclass(slots=True)
class Agenda:
    """`records` are those of cells that need not be measured; they may hold failed ones."""

    plans: tuple[CellPlan, ...]
    records: dict[str, CellRecord]
    on_one_machine: bool = True
    running: dict[str, CellPlan] = field(default_factory=dict)

    @property
    def pending(self) -> list[CellPlan]:
        return [plan for plan in self.plans if plan.cell not in self.records and plan.cell not in self.running]

    def take(self) -> CellPlan | None:
        """The next cell that can begin now, which then counts as running; None if there is none."""
        for plan in self.pending:
            if (plan.at.is_dense or self.base_of(plan) is not None) and self._has_room(plan):
                self.running[plan.cell] = plan
                return plan
        return None

    def _has_room(self, plan: CellPlan) -> bool:
        others = self.running.values()
        if not self.on_one_machine or not others:
            return True
        is_alone = bool(plan.speeds) or any(other.speeds for other in others)
        return not is_alone and plan.group not in {other.group for other in others}

    def base_of(self, plan: CellPlan) -> CellRecord | None:
        """The record of the model's dense cell, once there is one; None for that cell itself."""
        if plan.at.is_dense:
            return None
        (dense,) = [each.cell for each in self.plans if each.at.is_dense and each.model == plan.model]
        return self.records.get(dense)

    def is_last_of_group(self, plan: CellPlan) -> bool:
        return not any(other.group == plan.group for other in self.pending)

    def enter(self, record: CellRecord) -> None:
        """A cell has ended, one way or the other."""
        del self.running[record.cell]
        self.records[record.cell] = record

    @property
    def is_finished(self) -> bool:
        return not self.running and not self.pending


def worth_keeping(
    plans: Iterable[CellPlan], found: Iterable[CellRecord], *, retries_failed: bool
) -> dict[str, CellRecord]:
    """The records of cells of this study, by name; failed ones only if they are not to be tried again."""
    planned = {plan.cell for plan in plans}
    kept: Mapping[str, CellRecord] = {record.cell: record for record in found if record.cell in planned}
    return {name: record for name, record in kept.items() if record.status == "done" or not retries_failed}
