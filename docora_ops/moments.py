"""Moments as a person gives them: 08:12 on a day, or two hours ago."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_FIRST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class MomentOrAge:
    """A moment, or an age, which becomes a moment by the clock of a server."""

    value: datetime | timedelta

    def at(self, now: datetime) -> datetime:
        """Returns the moment. `now`: the time of the server that keeps what is compared with it."""
        if isinstance(self.value, datetime):
            return self.value
        try:
            return now - self.value
        except OverflowError:
            return _FIRST
