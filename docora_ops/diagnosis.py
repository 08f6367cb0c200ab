"""Checks of `doctor` and their results."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from docora_ops.drift import DriftReport


class CheckState(StrEnum):
    """The result of one check."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    NOT_CHECKED = "not_checked"


class CheckName(StrEnum):
    """The checks, in the order in which they are shown."""

    SETTINGS = "settings"
    POSTGRES = "postgres"
    POSTGRES_VERSION = "postgres_version"
    POSTGRES_PRIMARY = "postgres_primary"
    POSTGRES_POOLING = "postgres_pooling"
    TABLES = "tables"
    SCHEMAS = "schemas"
    PRIVILEGES = "privileges"
    REDIS = "redis"
    REDIS_VERSION = "redis_version"
    REDIS_PRIMARY = "redis_primary"
    REDIS_EVICTION = "redis_eviction"
    REDIS_MEMORY = "redis_memory"
    REDIS_PERSISTENCE = "redis_persistence"
    BULLMQ_QUEUE = "bullmq_queue"
    WORKERS = "workers"
    SCHEDULE = "schedule"
    DELAYED_JOBS = "delayed_jobs"
    WAITING_JOBS = "waiting_jobs"
    CLOCKS = "clocks"
    LATENCY = "latency"
    SERVERS_MATCH = "servers_match"
    FRESHNESS = "freshness"
    FAILED_LINKS = "failed_links"
    OPEN_CIRCUITS = "open_circuits"
    DRIFT_LOST = "drift_lost"
    DRIFT_STUCK = "drift_stuck"
    DRIFT_ORPHAN = "drift_orphan"
    DRIFT_DUPLICATE = "drift_duplicate"
    DRIFT_STALE_ENTRY = "drift_stale_entry"


@dataclass(frozen=True)
class Check:
    """The result of one check and, unless it is OK, what to do."""

    name: CheckName
    state: CheckState = field(kw_only=True)
    finding: str
    hint: str | None = None
    command: str = ""  # a shell command that does it, too long for a table


ok = partial(Check, state=CheckState.OK)
warning = partial(Check, state=CheckState.WARNING)
failed = partial(Check, state=CheckState.CRITICAL)
not_checked = partial(Check, state=CheckState.NOT_CHECKED)


@dataclass(frozen=True)
class Diagnosis:
    """The results of all checks, each once, in order."""

    checks: Sequence[Check]
    drift: DriftReport | None
    needs: str = ""
    misconfigured: bool = False
    server_lost: bool = False

    @property
    def state(self) -> CheckState:
        """The worst state of all checks; one that was not checked counts as a warning."""
        states = {check.state for check in self.checks}
        if CheckState.CRITICAL in states:
            return CheckState.CRITICAL
        return CheckState.OK if states == {CheckState.OK} else CheckState.WARNING
