"""The reasons why a worker takes no job. The worker checks for them before each job."""

import socket
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from redis import Redis
from rq.suspension import is_suspended

from docora_ops.actions.encryption import count_foreign
from docora_ops.database import Database
from docora_ops.database.link_scans import some_auth_keys
from docora_ops.errors import (
    DocoraOpsError,
    PostgresError,
    WrongBackendError,
    WrongClockError,
    WrongKeyError,
)
from docora_ops.jobs import NoJobCode, NoJobReason
from docora_ops.queue.holds import HOLDS
from docora_ops.queue.outcomes import may_record
from docora_ops.queue.redis_client import permits
from docora_ops.queue.redis_signs import bullmq_workers
from docora_ops.settings import Settings
from docora_ops.text import amount
from docora_ops.worker import host
from docora_ops.worker.log import log

_LOOK_INTERVAL = 2  # seconds between two looks at Redis: its clock, BullMQ workers
_POSTGRES_INTERVAL = 30  # seconds between two looks at Postgres if nothing is suspected
_PAUSE, _LONGEST_PAUSE = 1, 10  # seconds between two looks at a fault that goes on
# Seconds between the clocks of a worker and of Redis; the clocks of two workers may differ by twice
# as much. RQ renews a job's heartbeat every 30 s; it expires 60 s or more after that, by the clock
# of another worker.
_LARGEST_CLOCK_DIFFERENCE = 20


@dataclass(frozen=True)
class Bar:
    """A reason why a worker takes no job.

    message: a few words for lists of workers.
    error: what the worker logs. A worker with --burst ends with this error, unless suspended.
    """

    code: NoJobCode
    message: str
    error: DocoraOpsError

    @property
    def reason(self) -> NoJobReason:
        """Returns the reason as the worker writes it to Redis."""
        return NoJobReason(self.code, self.message, self.error.hint)


_SUSPENDED = Bar(
    NoJobCode.SUSPENDED,
    "suspended",
    DocoraOpsError("workers are suspended", hint="docora-ops resume ends that"),
)
_BESIDE_BULLMQ = Bar(
    NoJobCode.WRONG_BACKEND,
    "a BullMQ worker of Docora runs",
    WrongBackendError(
        "a BullMQ worker of Docora was started: each link would be worked on twice",
        hint="jobs may wait still; run Docora with RUN_MODE=api: docora-ops help workers",
    ),
)


class Doubt:
    """Checks for a suspected fault, then again after pauses until the fault is gone."""

    def __init__(self, check: Callable[[], Bar | None], *, is_suspected: bool = False) -> None:
        self._check = check
        self._is_suspected = is_suspected
        self._bar: Bar | None = None
        self._due_at: float = 0
        self._pause = _PAUSE

    def suspect(self) -> None:
        """Makes the next call of `bar` run the check.

        During a pause, the check runs at the first call after the pause.
        """
        self._is_suspected = True

    def bar(self) -> Bar | None:
        """Runs the check if it is due. Returns the fault that the last check found, or None."""
        is_due = self._is_suspected and time.monotonic() >= self._due_at
        return self.look() if is_due else self._bar

    def look(self) -> Bar | None:
        """Runs the check at once. Returns the fault, or None. A PostgresError is a fault, too."""
        try:
            self._bar = self._check()
        except PostgresError as error:
            self._bar = Bar(NoJobCode.POSTGRES, error.message, error)
        self._is_suspected = self._bar is not None
        if self._bar is None:
            self._due_at, self._pause = 0, _PAUSE
        else:
            self._due_at = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return self._bar


class Reasons:
    """The reasons why the worker of this process takes no job."""

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._settings, self._client = settings, client
        self._next_look = self._next_look_at_postgres = 0.0
        self._sees_bullmq = False
        self.postgres = Doubt(self._try_postgres, is_suspected=True)
        self.host = Doubt(self._try_host)
        # What our user of Redis may do: write the record of outcomes, read which apps are held.
        self.may_record = self.obeys_holds = True

    def find(self) -> Bar | None:
        """Returns why no job may be taken now; None if jobs may be taken. Raises RedisError."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_INTERVAL
            host.measure_clock(self._client)
            _, self._sees_bullmq = bullmq_workers(self._client)
        if time.monotonic() >= self._next_look_at_postgres:  # it may have become read-only
            self._next_look_at_postgres = time.monotonic() + _POSTGRES_INTERVAL
            self.look_at_permissions()
            self.postgres.suspect()
        checks = (
            self._judge_clock,
            lambda: _BESIDE_BULLMQ if self._sees_bullmq else None,
            self.postgres.bar,
            self.host.bar,
            lambda: _SUSPENDED if is_suspended(self._client) else None,
        )
        return next(filter(None, (check() for check in checks)), None)

    def look_at_permissions(self) -> None:
        """Reads the permissions of our Redis user. Warns once if outcomes can't be recorded."""
        self.obeys_holds = permits(self._client, ("HGETALL", HOLDS))
        before, self.may_record = self.may_record, may_record(self._client)
        if before and not self.may_record:
            hint = "docora-ops help privileges has the keys of the user for workers"
            log.warning("no outcome is recorded: our user of Redis may not write them (%s)", hint)

    def look_again(self) -> None:
        """Makes the next call of `find` ask Redis at once: another server may answer now."""
        self._next_look = 0.0

    def _judge_clock(self) -> Bar | None:
        ahead = host.seconds_ahead()
        if abs(ahead) <= _LARGEST_CLOCK_DIFFERENCE:
            return None
        where = "ahead of" if ahead > 0 else "behind"
        error = WrongClockError(
            f"the clock of {socket.gethostname()} is {abs(ahead):.0f} s {where} Redis's",
            hint=f"set both by NTP, so that they agree to {_LARGEST_CLOCK_DIFFERENCE} s",
        )
        message = f"clock {abs(ahead):,.0f} s {where.removesuffix(' of')}"
        return Bar(NoJobCode.WRONG_CLOCK, message, error)

    def _try_postgres(self) -> Bar | None:
        """Checks that Postgres accepts changes, and that our ENCRYPTION_KEY decrypts auth keys."""
        with closing(Database(self._settings)) as database:
            with database.transaction():
                pass
            keys = some_auth_keys(database)
        if not (count := count_foreign(keys, self._settings.require_encryption_key())):
            return None
        return Bar(
            NoJobCode.WRONG_KEY,
            "another ENCRYPTION_KEY",
            WrongKeyError(
                f"ENCRYPTION_KEY decrypts none of the auth keys of {amount(count, 'app')}",
                hint="start the worker with the ENCRYPTION_KEY that Docora has",
            ),
        )

    def _try_host(self) -> Bar | None:
        error = host.find_fault(self._settings.repos_base_path)
        return None if error is None else Bar(NoJobCode.HOST, error.message, error)
