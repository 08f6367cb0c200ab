"""`status`: the worst comes first, on one screen, and one server is enough."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.support.docora import Docora
from tests.support.proxy import refused_port
from tests.support.terminal import TerminalSession

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def _passed(docora: Docora) -> None:
    seconds, _ = docora.redis.time()
    docora.redis.set("docora-ops:schedule", seconds)


def _failed(docora: Docora) -> None:
    docora.add_worker()
    _passed(docora)
    app = docora.add_app("Quiet Harbor")
    for file in ("a.py", "b.py"):
        error = f"Notification failed for created src/{file}: HTTP 502"
        docora.link(app, docora.add_repository(), last_error=error)
    docora.add_link("synced", scanned=MINUTE)


def _no_worker(docora: Docora) -> None:
    _failed(docora)
    docora.redis.delete("rq:workers:snapshot-queue")


def _suspended(docora: Docora) -> None:
    _failed(docora)
    docora.redis.set("rq:suspended", 1)


def _unscheduled(docora: Docora) -> None:
    docora.add_worker()
    docora.add_link("synced", scanned=DAY)


def _overdue(docora: Docora) -> None:
    _unscheduled(docora)
    _passed(docora)


def _emptied(docora: Docora) -> None:
    _failed(docora)
    docora.add_link("pending_snapshot")
    docora.add_link("scanning")


def _behind(docora: Docora) -> None:
    docora.add_worker()
    docora.queue_job(link := docora.add_link("pending_snapshot"))
    docora.redis.hset(f"rq:job:{link.job_id}", "enqueued_at", "2020-01-01T00:00:00.000000Z")


def _circuit(docora: Docora) -> None:
    docora.add_worker()
    _passed(docora)
    repository = docora.add_repository(circuit_open_for=MINUTE)
    docora.link(docora.add_app(), repository, "synced", scanned=MINUTE)


def _well(docora: Docora) -> None:
    docora.add_worker()
    _passed(docora)
    docora.add_link("synced", scanned=MINUTE)
    docora.add_link("synced", scanned=MINUTE)


@pytest.mark.parametrize(
    ("prepare", "verdict", "command"),
    [
        (_no_worker, "no worker is running, and 2 links failed", "docora-ops worker"),
        (
            _suspended,
            "the workers are suspended, and 2 links failed",
            'rq resume --url "$REDIS_URL"',
        ),
        (_unscheduled, "nothing is queued: no pass of schedule", "docora-ops schedule"),
        (_failed, "2 of 3 links failed: HTTP 502", "docora-ops failed --group-by error"),
        (_emptied, "2 links should have jobs, and 2 links failed", "docora-ops doctor"),
        (_behind, "the workers are behind: the oldest job has waited", "docora-ops worker"),
        (_overdue, "1 link not scanned for too long", "docora-ops links --overdue"),
        (_circuit, "git fails for 1 repository", "docora-ops links --circuit open"),
        (_well, "all is well: 2 links in sync", None),
        (lambda docora: None, "there are no links", None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_first_line_is_the_worst_and_names_the_next_command(
    docora: Docora, prepare: Callable[[Docora], None], verdict: str, command: str | None
) -> None:
    prepare(docora)
    before = docora.dump()
    result = docora.run("status", "--json").ended(0)
    assert verdict in result.data["verdict"]
    assert result.data["next_command"] == command
    first = docora.run("status").ended(0).stdout.splitlines()[0]
    assert verdict in first
    assert command is None or first.endswith(f" → {command}")
    assert docora.dump() == before, "reading never writes"


def test_the_document_has_the_numbers_of_links_and_queue(docora: Docora) -> None:
    _failed(docora)
    docora.queue_job(docora.add_link("pending_snapshot"))
    docora.start_job("running")
    docora.schedule_job("later")
    docora.link(docora.add_app("One of three"), docora.add_repository(), last_error=None)
    state = docora.run("status", "--json").ended(0).data
    assert state["links"]["by_status"] == {"failed": 3, "pending_snapshot": 1, "synced": 1}
    assert state["links"]["overdue"] == 0
    by_app = [(failed["app"]["app_name"], failed["links"]) for failed in state["failed_apps"]]
    assert by_app == [("Quiet Harbor", 2), ("One of three", 1)]
    assert state["failed_errors"] == {"HTTP 502": 2, "no error recorded": 1}
    assert {name: state["queue"][name] for name in ("waiting", "active", "delayed")} == {
        "waiting": 1,
        "active": 1,
        "delayed": 1,
    }
    assert [worker["name"] for worker in state["workers"]] == ["worker-1"]
    assert state["backend"] == "rq"


@pytest.mark.parametrize("late", ["2 days", "never"])
def test_overdue_links_are_those_that_links_lists(docora: Docora, late: str) -> None:
    for status in ("synced", "pending_snapshot", "failed", "scanning"):
        docora.add_link(status, scanned=None if late == "never" else 2 * DAY)
    docora.age_links()
    repository = docora.add_repository(circuit_open_for=MINUTE)
    docora.link(docora.add_app(), repository, "synced", scanned=2 * DAY)
    counted = docora.run("status", "--json").data["links"]["overdue"]
    listed = docora.run("links", "--overdue", "--json").json["pagination"]["total"]
    assert counted == listed > 0


def test_the_last_three_operations_are_named(docora: Docora) -> None:
    _failed(docora)
    ids = []
    for link in [docora.add_link() for _ in range(4)]:
        docora.run("retry", *link.ids, "--reason", "a test").ended(0)
        ids.append(docora.run("operations", "--limit", "1", "--json").data[0]["operation_id"])
    shown = docora.run("status").ended(0).stdout
    assert re.findall(r"op_\w{16}", shown) == ids[:0:-1]


@pytest.mark.parametrize(
    ("variable", "url", "known", "unknown"),
    [
        ("DATABASE_URL", "postgresql://u:s3cr3t@127.0.0.1:{}/d", "queue", "links"),
        ("REDIS_URL", "redis://u:s3cr3t@127.0.0.1:{}/0", "links", "queue"),
    ],
)
def test_one_server_is_enough_to_show_what_it_knows(
    docora: Docora, variable: str, url: str, known: str, unknown: str
) -> None:
    _failed(docora)
    result = docora.run("status", "--json", env={variable: url.format(refused_port())})
    result.ended(5, says="can't be reached")
    assert (result.data[known] is None, result.data[unknown]) == (False, None)
    assert "s3cr3t" not in result.stdout + result.stderr


def test_the_screen_fits_a_terminal_of_80_by_24_and_is_redrawn(docora: Docora) -> None:
    _failed(docora)
    docora.add_repository(circuit_open_for=MINUTE)
    docora.add_link("synced", scanned=DAY)
    for number in range(6):
        app = docora.add_app(f"A name that is long, {number} " * 3)
        error = f"a long error {chr(97 + number)} " * 20
        docora.link(app, docora.add_repository(), last_error=error)
    for number in range(4):
        docora.start_job(f"app_{number:024x}-repo_{number:024x}", f"worker-{number}")
        docora.add_worker(f"worker-{number}")
        docora.run("retry", *docora.add_link().ids).ended(0)
    with TerminalSession(docora, "status", "--watch") as session:
        session.read_until(re.compile(rb"\x1b\[H(?s:.*)\x1b\[H(?s:.*)Operations"))
        session.type(b"\x03")
        code, shown = session.end()
    assert code == 130
    screen = re.sub(r"\x1b\[([0-9;]*m|K|J)", "", shown).split("\x1b[H")[1]
    lines = screen.splitlines()
    assert len(lines) <= 23, screen  # the cursor stands on the 24th
    assert max(map(len, lines)) <= 80
    assert "8 of " in lines[0]
    assert f"worker-0: app_{0:024x}-repo_{0:024x}" in screen


def test_watch_prints_no_second_document(docora: Docora) -> None:
    docora.run("status", "--watch", "--json").ended(2, "usage")
