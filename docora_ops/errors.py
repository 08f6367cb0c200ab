"""What can go wrong, in sentences for a person and stable codes for a script."""

from __future__ import annotations

from typing import ClassVar


class DocoraOpsError(Exception):
    """Base of all errors that are not bugs of ours.

    `message` is one sentence with the value that is wrong; `code` never changes; `hint` says what
    to do next; `details` are further fields for the JSON document.
    """

    code: ClassVar[str] = "error"

    def __init__(
        self, message: str, *, hint: str | None = None, details: dict[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details or {}


class UsageError(DocoraOpsError):
    """The command line makes no sense."""

    code = "usage"


class ConfigurationError(DocoraOpsError):
    """A setting is missing or unusable."""

    code = "configuration"


class AmbiguousError(DocoraOpsError):
    """A name fits several apps or repositories."""

    code = "ambiguous"


class NotFoundError(DocoraOpsError):
    """No such app, repository, link or operation."""

    code = "not_found"


class RefusedError(DocoraOpsError):
    """The link or the operation is not in a state that allows this."""

    code = "refused"


class NotFailedError(RefusedError):
    """Only failed links can be retried."""

    code = "not_failed"


class SnapshotRunningError(RefusedError):
    """A resync would be lost on the snapshot that is running."""

    code = "snapshot_running"


class OperationFinishedError(RefusedError):
    """Nothing is left to cancel."""

    code = "operation_finished"


class ServersMismatchedError(RefusedError):
    """The jobs in the queue do not look like jobs of this database."""

    code = "servers_mismatched"


class WorkerNameTakenError(RefusedError):
    """Two workers of one name would take each other for themselves."""

    code = "worker_name_taken"


class ServerError(DocoraOpsError):
    """Postgres or Redis is unreachable, refuses, or is too slow."""

    code = "server"


class PostgresError(ServerError):
    """Postgres is unreachable, refuses, or is too slow."""

    code = "postgres"


class PoolingError(PostgresError):
    """A proxy in front of Postgres pools statements, or the sessions that workers need."""

    code = "postgres_pooling"


class LinkError(PostgresError):
    """Postgres refused one statement for reasons that lie in its rows: other links may work."""

    code = "postgres_statement"


class StatementTimeoutError(LinkError):
    """Postgres did not finish a statement in time: fewer links at once may do."""

    code = "statement_timeout"


class LinkLockedError(LinkError):
    """Another session holds the row of the link."""

    code = "link_locked"


class RedisError(ServerError):
    """Redis is unreachable, refuses, or is too slow."""

    code = "redis"


class UnqueueableError(DocoraOpsError):
    """This one link can't be queued, whatever its status."""

    code = "unqueueable"


class InvalidJobIdError(UnqueueableError):
    """The ids of the link can't form a job id, or another link's job holds it."""

    code = "invalid_job_id"


class JobUnreadableError(UnqueueableError):
    """The key of the link's job holds something that is not a job."""

    code = "job_unreadable"


class SnapshotError(DocoraOpsError):
    """A snapshot job came to nothing; its next try may do better."""

    code = "snapshot"


class GitError(SnapshotError):
    """git did not get the repository: counts against the repository's circuit."""

    code = "git"


class BrokenCloneError(SnapshotError):
    """The clone on disk can't be read."""

    code = "broken_clone"


class DeliveryError(SnapshotError):
    """The app did not take a file."""

    code = "delivery"


class CommandInterruptedError(DocoraOpsError):
    """The user, or a signal, ended the command."""

    code = "interrupted"


class HungUpError(CommandInterruptedError):
    """The terminal was closed: SIGHUP ended the command."""

    code = "hung_up"
