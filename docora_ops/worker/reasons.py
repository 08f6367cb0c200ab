"""Why a worker takes no job: it looks for each reason before it takes the next one."""

import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from redis import Redis
from rq.suspension import is_suspended

from docora_ops.actions.encryption import count_foreign
from docora_ops.actions.pair import TO_ACCEPT, PairState, compare_with_mark
from docora_ops.database import Database
from docora_ops.database.link_scans import some_auth_keys
from docora_ops.errors import (
    DocoraOpsError,
    PairMismatchedError,
    PostgresError,
    WrongBackendError,
    WrongClockError,
    WrongKeyError,
)
from docora_ops.jobs import NoJobCode, NoJobReason
from docora_ops.queue.backend import sees_bullmq_worker
from docora_ops.queue.pair_mark import StoredMark, read_mark
from docora_ops.settings import Settings
from docora_ops.text import amount
from docora_ops.worker import host

_LOOK_INTERVAL = 2  # seconds between two looks at the clock, and for a BullMQ worker
_POSTGRES_INTERVAL = 30  # seconds between two looks at Postgres while nothing seems wrong
_PAUSE, _LONGEST_PAUSE = 1, 10  # seconds between two looks at what was found wrong
# Seconds. RQ judges heartbeats, which last for 60 s at least and are renewed after 30 s, by the
# clocks of the hosts: two workers may be wrong by this in opposite directions.
_LARGEST_CLOCK_DIFFERENCE = 20
_MOST_FAULTS = 3  # of the host on one link: a giant repository must not stop everybody


@dataclass(frozen=True)
class Bar:
    """Something that keeps a worker from taking jobs.

    error: for the log. A worker with --burst ends with it.
    """

    code: NoJobCode
    message: str
    error: DocoraOpsError

    @property
    def reason(self) -> NoJobReason:
        """Returns what the worker leaves in Redis."""
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
    """Looks for something wrong once it is suspected, then again after pauses until it is gone."""

    def __init__(self, look: Callable[[], Bar | None], *, is_suspected: bool = False) -> None:
        self._look = look
        self._is_suspected = is_suspected
        self._bar: Bar | None = None
        self._next: float = 0
        self._pause = _PAUSE

    def suspect(self) -> None:
        """Makes the next call of `bar` look, unless a pause lasts."""
        self._is_suspected = True

    def bar(self) -> Bar | None:
        """Returns what is wrong, None if nothing was found."""
        is_due = self._is_suspected and time.monotonic() >= self._next
        return self.look() if is_due else self._bar

    def look(self) -> Bar | None:
        """Looks at once, and returns what is wrong, None if nothing is."""
        self._bar = self._look()
        self._is_suspected = self._bar is not None
        if self._bar is None:
            self._next, self._pause = 0, _PAUSE
        else:
            self._next = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return self._bar


class Reasons:
    """What keeps the worker of this process from taking jobs."""

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._settings = settings
        self._client = client
        self._next_look = self._next_look_at_postgres = 0.0
        self._sees_bullmq = False
        self.postgres = Doubt(self._try_postgres, is_suspected=True)
        self.host = Doubt(self._try_host)
        self._mark = StoredMark()
        self._pair = Doubt(self._try_pair)
        self._faults: Counter[str] = Counter()

    def find(self) -> Bar | None:
        """Returns why no job may be taken now, None if jobs may be taken. Raises RedisError."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_INTERVAL
            host.measure_clock(self._client)
            self._sees_bullmq = sees_bullmq_worker(self._client)
            if (mark := read_mark(self._client)) != self._mark:
                self._mark = mark
                self._pair.suspect()
        if time.monotonic() >= self._next_look_at_postgres:  # it may allow no changes by now
            self._next_look_at_postgres = time.monotonic() + _POSTGRES_INTERVAL
            self.postgres.suspect()
        looks = (
            self._judge_clock,
            lambda: _BESIDE_BULLMQ if self._sees_bullmq else None,
            self.postgres.bar,
            self._pair.bar,
            self.host.bar,
            lambda: _SUSPENDED if is_suspended(self._client) else None,
        )
        return next(filter(None, (look() for look in looks)), None)

    @property
    def may_compare(self) -> bool:
        """Tells whether our user may read which database Redis belongs to."""
        return self._mark.is_permitted

    def look_again(self) -> None:
        """Makes the next call of `find` ask Redis at once: another server may answer now."""
        self._next_look = 0.0

    def is_hosts_fault(self, job_id: str) -> bool:
        """Tries what jobs need, and tells whether an error of this job was the fault of the host.

        The third such error of a job in a row is its own fault, whatever the trial says.
        """
        if self.host.look() is None:
            return False
        self._faults[job_id] += 1
        return self._faults[job_id] < _MOST_FAULTS

    def forget_faults(self, job_id: str) -> None:
        """Forgets the faults that the host had while it ran the job, which has succeeded now."""
        del self._faults[job_id]

    def _judge_clock(self) -> Bar | None:
        ahead = host.seconds_ahead()
        if abs(ahead) <= _LARGEST_CLOCK_DIFFERENCE:
            return None
        error = WrongClockError(
            f"the clock of {socket.gethostname()} is {abs(ahead):.0f} s "
            f"{'ahead of' if ahead > 0 else 'behind'} Redis's",
            hint=f"set both by NTP, so that they agree to {_LARGEST_CLOCK_DIFFERENCE} s",
        )
        direction = "ahead" if ahead > 0 else "behind"
        return Bar(NoJobCode.WRONG_CLOCK, f"clock {abs(ahead):,.0f} s {direction}", error)

    def _try_postgres(self) -> Bar | None:
        """Finds out whether Postgres is away or takes no changes, or holds another key's values."""
        settings = self._settings
        try:
            with closing(Database(settings)) as database:
                with database.transaction():
                    pass
                keys = some_auth_keys(database)
        except PostgresError as error:
            return Bar(NoJobCode.POSTGRES, error.message, error)
        if not (count := count_foreign(keys, settings.require_encryption_key())):
            return None
        return Bar(
            NoJobCode.WRONG_KEY,
            "another ENCRYPTION_KEY",
            WrongKeyError(
                f"ENCRYPTION_KEY decrypts none of the auth keys of {amount(count, 'app')}",
                hint="start the worker with the ENCRYPTION_KEY that Docora has",
            ),
        )

    def _try_pair(self) -> Bar | None:
        try:
            with closing(Database(self._settings)) as database:
                pair = compare_with_mark(database, self._mark)
        except PostgresError as error:
            return Bar(NoJobCode.POSTGRES, error.message, error)
        if pair.state is not PairState.OTHER:
            return None
        other = PairMismatchedError(pair.finding, hint=TO_ACCEPT)
        return Bar(NoJobCode.WRONG_PAIR, "Redis belongs to another database", other)

    def _try_host(self) -> Bar | None:
        error = host.find_fault(self._settings.repos_base_path)
        return None if error is None else Bar(NoJobCode.HOST, error.message, error)
