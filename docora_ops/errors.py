"""The errors, each with a message for people and a stable code for scripts."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from docora_ops.text import When, moment, moment_of


class DocoraOpsError(Exception):
    """Base class of all errors that are not bugs."""

    code: ClassVar[str] = "error"  # for scripts, so it never changes

    def __init_subclass__(cls, code: str) -> None:
        cls.code = code

    def __init__(
        self, message: str, *, hint: str | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message  # one sentence that names the wrong value
        self.hint = hint  # what to do next
        self.details = details or {}  # further fields of the JSON document


class BugError(DocoraOpsError, code="bug"):
    """A bug in docora-ops."""


class UsageError(DocoraOpsError, code="usage"):
    """The command line is not valid."""


def past_moment(when: When, now: datetime, server: str, option: str = "--since") -> datetime:
    """Returns the moment that was typed as the value of `option`.

    now: the time by the clock of `server`.

    Raises UsageError if the moment is in the future.
    """
    at = moment_of(when, now)
    if at > now:
        raise UsageError(
            f"{option} {moment(at)} is in the future: it is {moment(now)} by the clock of {server}",
            hint="moments are in UTC unless they have an offset; an age is 90s, 30m, 2h or 3d",
        )
    return at


class ConfigurationError(DocoraOpsError, code="configuration"):
    """A setting is missing or unusable."""


class WrongKeyError(ConfigurationError, code="wrong_key"):
    """ENCRYPTION_KEY is not the key with which Docora encrypts."""


class AmbiguousError(DocoraOpsError, code="ambiguous"):
    """A name matches several apps or repositories, or several operations are running."""


class NotFoundError(DocoraOpsError, code="not_found"):
    """No such app, repository, link or operation."""


class RefusedError(DocoraOpsError, code="refused"):
    """The request is valid, but the present state does not allow it."""


class NotFailedError(RefusedError, code="not_failed"):
    """Only failed links can be retried."""


class CircuitOpenError(RefusedError, code="circuit_open"):
    """Docora's scheduler does not queue the link until the circuit of its repository is closed."""


class AppHeldError(RefusedError, code="app_held"):
    """The app is held: no worker takes its jobs."""


class HoldNotObeyedError(RefusedError, code="hold_not_obeyed"):
    """A live worker would still take jobs of a held app."""


class NeedsRqError(RefusedError, code="needs_rq"):
    """The command or option works only with RQ."""


class WrongBackendError(RefusedError, code="wrong_backend"):
    """Docora's own workers run the jobs, but the settings say that RQ workers do."""


class WrongClockError(RefusedError, code="wrong_clock"):
    """The clocks of this host and of Redis differ: apps would refuse what a worker signs."""


class HostFaultError(RefusedError, code="host_fault"):
    """No job can succeed on this host: its disk is full, or it can't start processes."""


class UnclearBackendError(RefusedError, code="unclear_backend"):
    """No setting names the backend, and Redis does not show which workers run the jobs."""


class SnapshotRunningError(RefusedError, code="snapshot_running"):
    """A resync would have no effect on a running snapshot."""


class OperationFinishedError(RefusedError, code="operation_finished"):
    """Nothing is left to cancel."""


class ServersMismatchedError(RefusedError, code="servers_mismatched"):
    """The jobs in the queue do not look like jobs of this database."""


class WorkerNameTakenError(RefusedError, code="worker_name_taken"):
    """Another worker with this name is running."""


class ServerError(DocoraOpsError, code="server"):
    """Postgres or Redis is unreachable, denies access or is too slow."""


class PostgresError(ServerError, code="postgres"):
    """Postgres is unreachable, denies access or is too slow."""


class PostgresDeniedError(PostgresError, code="postgres"):
    """Postgres denies the login or a privilege; a retry will not help."""


class PoolingError(PostgresError, code="postgres_pooling"):
    """A proxy pools statements, or pools transactions where a session is needed."""


class LinkError(PostgresError, code="postgres_statement"):
    """Postgres refused a statement, perhaps because of one link; other links may succeed."""


class StatementTimeoutError(LinkError, code="statement_timeout"):
    """Postgres did not finish a statement in time; a smaller batch may succeed."""


class ConflictError(LinkError, code="postgres_statement"):
    """Postgres aborted a transaction because of a conflict; a second try may succeed."""


class LinkLockedError(LinkError, code="link_locked"):
    """Another session has held a lock for too long, such as the lock of the link's row."""


class RedisError(ServerError, code="redis"):
    """Redis is unreachable, denies access or is too slow."""


class RedisDeniedError(RedisError, code="redis"):
    """Redis denies the login or a privilege; a retry will not help."""


class UnqueueableError(DocoraOpsError, code="unqueueable"):
    """This link can't be queued, regardless of its status."""


class InvalidJobIdError(UnqueueableError, code="invalid_job_id"):
    """The ids of the link can't form a job id."""


class JobUnreadableError(UnqueueableError, code="job_unreadable"):
    """The key of the link's job holds something that is not a job."""


class SnapshotError(DocoraOpsError, code="snapshot"):
    """A snapshot job failed; its next try may succeed."""


class GitError(SnapshotError, code="git"):
    """git could not fetch the repository. Counts as a failure for the repository's circuit."""


class RepositoryBusyError(SnapshotError, code="repository_busy"):
    """Another job has the lock of the repository. Does not count as a failure."""


class BrokenCloneError(GitError, code="broken_clone"):
    """The clone on disk can't be read. The next try creates a new clone."""


class DeliveryError(SnapshotError, code="delivery"):
    """A file could not be delivered to the app."""


class CommandInterruptedError(DocoraOpsError, code="interrupted"):
    """The user, or a signal, ended the command."""


class HungUpError(CommandInterruptedError, code="hung_up"):
    """The terminal was closed: SIGHUP ended the command."""
