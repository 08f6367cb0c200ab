"""`status --watch`: what changes, how fast, and when it is over."""

import re
import shlex
import signal
import sys

from docora_ops.actions.monitoring import trend
from docora_ops.jobs import Backend, QueueOverview
from docora_ops.overview import Status, Trend
from tests.support.docora import Docora
from tests.support.terminal import TerminalSession

OFTEN = (
    "import sys; from docora_ops.__main__ import main; from docora_ops.cli import status;"
    " status._INTERVAL, status._REST = 0.1, 0; sys.exit(main())"
)
WATCH = [sys.executable, "-c", OFTEN, "status", "--watch"]


def test_a_terminal_shows_what_changes_until_ctrl_c(docora: Docora) -> None:
    docora.add_links(30)
    environment = docora.environment(TERM="xterm-256color")
    with TerminalSession(WATCH, environment, 80) as session:
        session.read_until(re.compile(rb"in 0 s: nothing"))
        assert docora.run("retry-all-failed", "--limit", "7", "--yes").code == 0
        session.read_until(re.compile(rb"7 fewer failed, 7 more\s+jobs"))
        session.type(b"\x03")
        code, shown = session.end()
    assert code == 0
    assert "nterrupted" not in shown


def test_a_pipe_gets_one_screen_after_the_other_also_after_a_lost_connection(
    docora: Docora,
) -> None:
    with docora.start_program(*WATCH) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert next(line for line in lines if line.startswith("Links"))
        docora.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'docora-ops' AND datname = current_database()"
        )
        assert next(line for line in lines if line.startswith("Postgres\tPostgres database"))
        assert next(line for line in lines if line.startswith("Links"))
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr


def test_it_ends_when_nobody_reads_the_pipe_any_more(docora: Docora) -> None:
    shell = docora.run_in_shell(f"{shlex.join(WATCH)} | head -1")
    assert shell.stdout.startswith("Postgres")
    assert docora.run("status", "--watch", "--json").code == 2


def state(jobs: int | None) -> Status:
    queue = None
    if jobs is not None:
        nothing = (0, 0, 0, 0, "snapshot-queue", None, None, False, None, (), None, ())
        queue = QueueOverview(Backend.RQ, jobs, *nothing)
    return Status("postgres", "redis", queue=queue)


def test_the_rate_since_the_first_look_tells_the_time_left() -> None:
    first = state(1000)
    assert trend(first, first, 0) == Trend(0, None, None, 0, None, None)
    assert trend(first, state(900), 10) == Trend(10, None, None, -100, 10.0, 90.0)
    # The queue has grown, or a server is lost, or all is done.
    assert trend(first, state(1100), 20) == Trend(20, None, None, 100, -5.0, None)
    assert trend(first, state(None), 30) == Trend(30, None, None, None, None, None)
    assert trend(first, state(0), 100) == Trend(100, None, None, -1000, 10.0, None)
