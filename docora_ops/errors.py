"""The errors, each with a sentence for people, a code for scripts and an exit code."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """Every exit code of a command: a promise to cron jobs and scripts."""

    OK = 0  # done, nothing to do, or already queued
    BUG = 1
    USAGE = 2  # usage or configuration
    NOT_FOUND = 3  # no such app, repository, link or operation
    REFUSED = 4  # refused in this state
    SERVER = 5  # Postgres or Redis is unreachable, denies access or is too slow
    PROBLEMS = 6  # finished, with problems
    SNAPSHOT_FAILED = 7  # `--wait`: a snapshot failed
    TIMED_OUT = 8  # `--wait`: time ran out
    HUNG_UP = 129  # the terminal was closed (SIGHUP)
    INTERRUPTED = 130


class DocoraOpsError(Exception):
    """Base class of all errors that are not bugs."""

    code: ClassVar[str] = "error"  # for scripts
    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __init_subclass__(cls, code: str, exit_code: ExitCode | None = None) -> None:
        cls.code = code
        if exit_code is not None:
            cls.exit_code = exit_code

    def __init__(
        self, message: str, *, hint: str | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message  # one sentence that names the wrong value
        self.hint = hint  # what to do next
        self.details = details or {}  # further fields of the JSON document


class BugError(DocoraOpsError, code="bug"):
    """A bug in docora-ops."""


class UsageError(DocoraOpsError, code="usage", exit_code=ExitCode.USAGE):
    """The command line is not valid."""


class ConfigurationError(DocoraOpsError, code="configuration", exit_code=ExitCode.USAGE):
    """A setting is missing or unusable."""


class AmbiguousError(DocoraOpsError, code="ambiguous", exit_code=ExitCode.USAGE):
    """A name matches several apps or repositories, or several operations are running."""


class NotFoundError(DocoraOpsError, code="not_found", exit_code=ExitCode.NOT_FOUND):
    """No such app, repository, link or operation."""


class RefusedError(DocoraOpsError, code="refused", exit_code=ExitCode.REFUSED):
    """The request is valid, but the present state does not allow it."""


class NotFailedError(RefusedError, code="not_failed"):
    """Only failed links can be retried."""


class SnapshotRunningError(RefusedError, code="snapshot_running"):
    """A resync would have no effect on a running snapshot."""


class OperationFinishedError(RefusedError, code="operation_finished"):
    """Nothing is left to cancel."""


class WrongPairError(RefusedError, code="wrong_pair"):
    """The jobs in the queue are not jobs of this database."""


class UnclearBackendError(RefusedError, code="unclear_backend"):
    """Both RQ and BullMQ are in use, and no setting says which queue is Docora's."""


class WrongBackendError(RefusedError, code="wrong_backend"):
    """The command works only with RQ."""


class HostFaultError(RefusedError, code="host_fault"):
    """No job can succeed on this host: another key, a full disk, no git, or a wrong clock."""


class ServerError(DocoraOpsError, code="server", exit_code=ExitCode.SERVER):
    """Postgres or Redis is unreachable, denies access or is too slow."""


class PostgresError(ServerError, code="postgres"):
    """Postgres is unreachable, denies access or is too slow."""


class LinkError(PostgresError, code="postgres_statement"):
    """Postgres refused a statement, perhaps because of one link; other links may succeed."""


class LinkLockedError(LinkError, code="link_locked"):
    """Another transaction has locked the row of the link for too long."""


class RedisError(ServerError, code="redis"):
    """Redis is unreachable, denies access or is too slow."""


class UnqueueableError(DocoraOpsError, code="unqueueable", exit_code=ExitCode.PROBLEMS):
    """The job of this link can't be queued."""


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


class CommandInterruptedError(DocoraOpsError, code="interrupted", exit_code=ExitCode.INTERRUPTED):
    """The user, or a signal, ended the command."""


class HungUpError(CommandInterruptedError, code="hung_up", exit_code=ExitCode.HUNG_UP):
    """The terminal was closed: SIGHUP ended the command."""
