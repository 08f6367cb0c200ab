"""The first sentence of `status`: the worst of the state, and since when."""

import re
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from docora_ops.queue.holds import HOLDS
from tests.support.diagnoses import ONE_LOOK
from tests.support.docora import Docora
from tests.support.terminal import at_terminals, plain_data

BAD_GATEWAY = "HTTP 502 on created README.md"
TWO = timedelta(minutes=2)


@pytest.fixture
def well(docora: Docora) -> Docora:
    """Three links in sync, a worker, and a timer."""
    app_id = docora.add_app("Acme Search")
    for minutes in (1, 2, 4):
        repository_id = docora.add_repository(f"octo/r{minutes}")
        docora.link(app_id, repository_id, "synced", scanned=timedelta(minutes=minutes))
    docora.add_worker()
    docora.redis.set("docora-ops:schedule", int(time.time()) - 30)
    docora.age_links()
    return docora


def nothing(_: Docora) -> None:
    """All is well."""


def remove_links(docora: Docora) -> None:
    docora.connection.execute("DELETE FROM app_repositories")


def remove_workers(docora: Docora) -> None:
    docora.redis.delete("rq:worker:worker-1", "rq:workers", "rq:workers:snapshot-queue")


def scan(docora: Docora, minutes: int) -> None:
    docora.connection.execute(
        "UPDATE app_repositories SET last_scanned_at = now() - %s * interval '1 minute'", (minutes,)
    )


def fail(docora: Docora, app: str = "Quiet Harbor", error: str = BAD_GATEWAY) -> None:
    app_id = docora.add_app(app)
    for _ in range(2):
        repository_id = docora.add_repository("octo/failing")
        docora.link(app_id, repository_id, last_error=error, scanned=timedelta(minutes=61))


def fail_anew(docora: Docora, error: str = BAD_GATEWAY) -> None:
    fail(docora)
    docora.link(docora.add_app("Beta"), docora.add_repository(), last_error=error, scanned=TWO)


def fail_twice(docora: Docora) -> None:
    fail_anew(docora)
    beta = docora.add_app("Beta")
    docora.link(beta, docora.add_repository(), last_error="gone", scanned=timedelta(days=3))


def lose(docora: Docora) -> None:
    docora.add_link("pending_snapshot")
    docora.add_link("scanning")
    docora.age_links()


def queue(docora: Docora) -> None:
    docora.queue_job(docora.add_link("pending_snapshot"))


def stop(docora: Docora) -> None:
    scan(docora, 12)
    remove_workers(docora)


def pause(docora: Docora) -> None:
    fail(docora)
    assert docora.run("pause", "--for", "1h", "--reason", "gateway is down", "--yes").code == 0


def stop_timer(docora: Docora) -> None:
    scan(docora, 12)
    docora.redis.set("docora-ops:schedule", int(time.time()) - 20 * 60)


def stand_still(docora: Docora) -> None:
    scan(docora, 12)
    fail(docora)


def overdue(docora: Docora) -> None:
    fail(docora)
    scan(docora, 200)
    docora.connection.execute(
        "UPDATE app_repositories SET last_scanned_at = now() WHERE status = 'failed'"
    )


def open_circuit(docora: Docora) -> None:
    repository_id = docora.add_repository("octo/open", circuit_open_for=timedelta(hours=1))
    docora.link(docora.add_app("Beta"), repository_id, "pending_snapshot")


def hold_another(docora: Docora) -> None:
    app_id = docora.add_app("Quiet Harbor")
    docora.link(app_id, docora.add_repository(), "synced", scanned=timedelta(days=2))
    docora.redis.hset(HOLDS, app_id, '{"until": null}')


STATES: dict[str, tuple[Callable[[Docora], None], str, str]] = {
    "all is well": (nothing, "in_sync", "all 3 links are in sync, oldest scan 4m.* ago"),
    "a held app": (
        hold_another,
        "in_sync",
        "all 4 links are in sync, oldest scan 4m.* ago; 1 app is held",
    ),
    "an empty Docora": (remove_links, "no_links", "there are no links yet"),
    "a retry": (queue, "pending", "1 link not in sync yet, oldest scan 4m.* ago"),
    "a gateway is down": (
        fail,
        "failed",
        "2 of 5 links failed: HTTP 502 at Quiet Harbor, for 1h1m",
    ),
    "a link that fails later": (
        fail_anew,
        "failed",
        "3 of 6 links failed: HTTP 502 in 2 apps, for 2m.* to 1h1m",
    ),
    "a link that fails later with another error": (
        lambda docora: fail_anew(docora, "gone"),
        "failed",
        "3 of 6 links failed: HTTP 502 for 1h1m, and 1 other error in 2 apps",
    ),
    "a link that fails later, and another error": (
        fail_twice,
        "failed",
        "4 of 7 links failed: HTTP 502 for 2m.* to 1h1m, and 1 other error in 3 apps",
    ),
    "a killed worker": (lose, "drift", "1 lost, 1 stuck: no job will scan these links"),
    "no worker": (stop, "no_worker", "nothing is scanned: no worker runs; last scan 12m ago"),
    "a pause, and failed links": (
        pause,
        "suspended",
        r"paused for \ds: workers are suspended by \S.* for another (1h|59m): gateway is down",
    ),
    "no timer": (
        stop_timer,
        "not_scheduled",
        r"no pass of docora-ops schedule for 20m: \d links? due",
    ),
    "more stands still than fails": (
        stand_still,
        "nothing_moves",
        "nothing moves: 5 links due, last scan 12m ago",
    ),
    "more is overdue than failed": (
        overdue,
        "overdue",
        "3 of 5 links overdue, oldest scan 3h2.m ago",
    ),
    "an open circuit": (
        open_circuit,
        "circuits_open",
        "git failed for 1 repository, whose circuit is open",
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_status_begins_with_the_worst(well: Docora, state: str) -> None:
    make, code, sentence = STATES[state]
    make(well)
    shown, document = well.run_together(("status",), ("status", "--json"), env=ONE_LOOK)
    assert document.data["headline"]["code"] == code, shown.stdout
    assert re.fullmatch(sentence, shown.stdout.splitlines()[0]), shown.stdout


def test_a_long_error_does_not_push_the_rest_of_the_sentence_off_the_screen(well: Docora) -> None:
    fail(well, error=f"fatal: {'unable ' * 30}")
    shown = plain_data(at_terminals(well, ["status"], columns=80, env=ONE_LOOK).data)
    sentence = shown.splitlines()[0]
    assert len(sentence) <= 80, sentence
    assert re.fullmatch(
        "2 of 5 links failed: fatal: unable .*… at Quiet Harbor, for 1h1m", sentence
    )
