"""Is a server behind a URL fit to get requests, and when is it asked next?

A pure value, like `Lifecycle`: whoever saw a success or a failure replaces it. So many failures in a row eject; one
success readmits. An ejected server is asked at doubling intervals, because it may be down for a second or for a day.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

EJECT_AFTER = 3
PROBE_EVERY_S = 1.0
CEILING_PROBE_S = 60.0
_DOUBLINGS = 10


@dataclass(frozen=True, slots=True)
class Health:
    """`failures` counts those in a row, `reason` is the last one's; `ejections` counts all of them."""

    failures: int = 0
    ejections: int = 0
    reason: str | None = None

    @property
    def ejected(self) -> bool:
        return self.failures >= EJECT_AFTER

    @property
    def probe_in_s(self) -> float:
        """Seconds until it should be asked whether it is well."""
        beyond = max(0, self.failures - EJECT_AFTER)
        return float(min(CEILING_PROBE_S, PROBE_EVERY_S * 2 ** min(beyond, _DOUBLINGS)))

    def failed(self, reason: str) -> Health:
        """It could not be reached, did not answer in time, or hung up before it answered."""
        failures = self.failures + 1
        return replace(self, failures=failures, ejections=self.ejections + (failures == EJECT_AFTER), reason=reason)

    def succeeded(self) -> Health:
        return replace(self, failures=0, reason=None)


def unproven(reason: str) -> Health:
    """Gets no request before its first success."""
    return Health(failures=EJECT_AFTER, reason=reason)
