"""What `doctor` finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from docora_ops.drift import DriftReport


class CheckState(StrEnum):
    """What came of one check of `doctor`."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_CHECKED = "not_checked"
    """It depends on another check, which failed."""


class CheckName(StrEnum):
    """The checks of `doctor`, in the order in which they are shown."""

    SETTINGS = "settings"
    POSTGRES = "postgres"
    POSTGRES_VERSION = "postgres_version"
    POSTGRES_PRIMARY = "postgres_primary"
    POSTGRES_POOLING = "postgres_pooling"
    TABLES = "tables"
    PRIVILEGES = "privileges"
    REDIS = "redis"
    REDIS_VERSION = "redis_version"
    REDIS_PRIMARY = "redis_primary"
    REDIS_EVICTION = "redis_eviction"
    REDIS_MEMORY = "redis_memory"
    REDIS_PERSISTENCE = "redis_persistence"
    BULLMQ_QUEUE = "bullmq_queue"
    WORKERS = "workers"
    SCHEDULER = "scheduler"
    WAITING_JOBS = "waiting_jobs"
    CLOCKS = "clocks"
    SERVERS_MATCH = "servers_match"
    DRIFT_LOST = "drift_lost"
    DRIFT_STUCK = "drift_stuck"
    DRIFT_ORPHAN = "drift_orphan"
    DRIFT_DUPLICATE = "drift_duplicate"
    DRIFT_STALE_ENTRY = "drift_stale_entry"
    DRIFT_FAILED_LIVE = "drift_failed_live"


@dataclass(frozen=True)
class Check:
    """What one check found and, unless all is well, what to do."""

    name: CheckName
    state: CheckState
    finding: str
    what_to_do: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Every check of `doctor`, once each, in order."""

    checks: Sequence[Check]
    drift: DriftReport | None
    """None where it could not be looked for."""
    misconfigured: bool = False
    server_lost: bool = False
    """Postgres or Redis is unreachable, refuses, or is too slow."""

    @property
    def state(self) -> CheckState:
        """The worst of all."""
        states = {check.state for check in self.checks}
        if CheckState.FAILED in states:
            return CheckState.FAILED
        return CheckState.OK if states == {CheckState.OK} else CheckState.WARNING
