"""The exit codes: a promise to cron jobs and scripts."""

from collections.abc import Container
from enum import IntEnum

from docora_ops import errors


class ExitCode(IntEnum):
    """Every exit code of a command."""

    OK = 0  # done, nothing to do, or already queued
    BUG = 1
    USAGE = 2  # usage or configuration
    NOT_FOUND = 3  # no such app, repository, link or operation
    REFUSED = 4  # refused in this state
    SERVER = 5  # Postgres or Redis is unreachable, denies access or is too slow
    PROBLEMS = 6  # finished, with problems
    SNAPSHOT_FAILED = 7  # `--wait`: the snapshot failed
    TIMED_OUT = 8  # `--wait`: time ran out
    HUNG_UP = 129  # the terminal was closed (SIGHUP)
    INTERRUPTED = 130


_GRAVEST_FIRST = (
    ExitCode.HUNG_UP,
    ExitCode.INTERRUPTED,
    ExitCode.SNAPSHOT_FAILED,
    ExitCode.PROBLEMS,
    ExitCode.TIMED_OUT,
    ExitCode.OK,
)


def gravest(codes: Container[ExitCode]) -> ExitCode:
    """Returns the most important of the exit codes that apply to a command."""
    return next(code for code in _GRAVEST_FIRST if code in codes)


EXIT_CODES: tuple[tuple[type[errors.DocoraOpsError], ExitCode], ...] = (
    (errors.UsageError, ExitCode.USAGE),
    (errors.ConfigurationError, ExitCode.USAGE),
    (errors.AmbiguousError, ExitCode.USAGE),
    (errors.NotFoundError, ExitCode.NOT_FOUND),
    (errors.RefusedError, ExitCode.REFUSED),
    (errors.ServerError, ExitCode.SERVER),
    (errors.UnqueueableError, ExitCode.PROBLEMS),
    (errors.HungUpError, ExitCode.HUNG_UP),
    (errors.CommandInterruptedError, ExitCode.INTERRUPTED),
)


def exit_code_of(error: errors.DocoraOpsError) -> ExitCode:
    """Returns the exit code for an error."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), ExitCode.BUG)
