"""The state of a Docora at one moment, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from docora_ops.links import LinkStatus


@dataclass(frozen=True)
class LinkCounts:
    """The number of links by status, and of repositories whose circuit is open."""

    by_status: Mapping[LinkStatus, int]  # every status
    open_circuits: int

    @property
    def total(self) -> int:
        """Counts the links."""
        return sum(self.by_status.values())

    @property
    def failed(self) -> int:
        """Counts the failed links."""
        return self.by_status[LinkStatus.FAILED]


@dataclass(frozen=True)
class DriftCounts:
    """The number of links that nobody works on, as one look finds them."""

    lost: int  # pending for five minutes, without a live job
    stuck: int  # scanning, without a live job
