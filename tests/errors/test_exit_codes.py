from collections.abc import Iterator

from docora_ops import errors
from docora_ops.cli.exit_codes import ExitCode, exit_code_of, gravest
from docora_ops.errors import DocoraOpsError

# The promise to cron jobs and scripts: for each error its slug and its exit code.
PROMISES: dict[type[DocoraOpsError], tuple[str, int]] = {
    errors.DocoraOpsError: ("error", 1),
    errors.BugError: ("bug", 1),
    errors.UsageError: ("usage", 2),
    errors.ConfigurationError: ("configuration", 2),
    errors.AmbiguousError: ("ambiguous", 2),
    errors.NotFoundError: ("not_found", 3),
    errors.RefusedError: ("refused", 4),
    errors.NotFailedError: ("not_failed", 4),
    errors.JobMisplacedError: ("job_misplaced", 4),
    errors.SnapshotRunningError: ("snapshot_running", 4),
    errors.CircuitOpenError: ("circuit_open", 4),
    errors.NeedsRqError: ("needs_rq", 4),
    errors.WrongBackendError: ("wrong_backend", 4),
    errors.UnclearBackendError: ("unclear_backend", 4),
    errors.OperationFinishedError: ("operation_finished", 4),
    errors.ServersMismatchedError: ("servers_mismatched", 4),
    errors.WorkerNameTakenError: ("worker_name_taken", 4),
    errors.WrongClockError: ("wrong_clock", 4),
    errors.ServerError: ("server", 5),
    errors.PostgresError: ("postgres", 5),
    errors.PostgresDeniedError: ("postgres", 5),
    errors.PoolingError: ("postgres_pooling", 5),
    errors.LinkError: ("postgres_statement", 5),
    errors.LinkLockedError: ("link_locked", 5),
    errors.StatementTimeoutError: ("statement_timeout", 5),
    errors.RedisError: ("redis", 5),
    errors.RedisDeniedError: ("redis", 5),
    errors.UnqueueableError: ("unqueueable", 6),
    errors.InvalidJobIdError: ("invalid_job_id", 6),
    errors.JobUnreadableError: ("job_unreadable", 6),
    errors.CommandInterruptedError: ("interrupted", 130),
    errors.HungUpError: ("hung_up", 129),
}


def kinds(kind: type[DocoraOpsError]) -> Iterator[type[DocoraOpsError]]:
    if kind is errors.SnapshotError or kind.__module__ != errors.__name__:
        return  # jobs end with these, commands do not, and the demo has one of its own
    yield kind
    for narrower in kind.__subclasses__():
        yield from kinds(narrower)


def test_every_error_has_its_promise() -> None:
    assert set(kinds(DocoraOpsError)) == set(PROMISES)


def test_each_error_keeps_its_promise() -> None:
    assert {kind: (kind.code, exit_code_of(kind("a sentence"))) for kind in PROMISES} == PROMISES


def test_the_codes_are_those_of_the_design_and_an_interrupt_comes_first() -> None:
    assert [int(code) for code in ExitCode] == [*range(9), 129, 130]
    codes = {ExitCode(code) for code in (0, 6, 7, 8, 129, 130)}
    ordered = []
    while codes:
        ordered.append(int(gravest(codes)))
        codes.remove(gravest(codes))
    assert ordered == [129, 130, 7, 6, 8, 0]
