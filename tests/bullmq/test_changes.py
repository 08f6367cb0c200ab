"""Changes beside a Docora with BullMQ workers: states of jobs, circuits, results, races, ..."""

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from threading import Event

import pytest
from pydantic import SecretStr

from docora_ops.actions import ChangeOptions, LinkChoice, retry_all_failed
from docora_ops.jobs import Backend
from tests.support.bullmq import Bullmq
from tests.support.diagnoses import ONE_LOOK, check
from tests.support.docora import Docora, finish
from tests.support.proxy import COMMIT, Fault, Proxy, eventually
from tests.support.rows import TestLink
from tests.support.running_commands import PATIENT, await_line

OPEN = timedelta(minutes=20)


def link_with_open_circuit(bullmq: Bullmq, status: str = "failed") -> TestLink:
    docora = bullmq.docora
    app = docora.add_app()
    return docora.link(app, docora.add_repository("octo/broken", circuit_open_for=OPEN), status)


@pytest.mark.slow
def test_a_link_with_an_open_circuit_is_left_alone_unless_it_is_reset(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    link = link_with_open_circuit(bullmq)
    before = docora.dump()
    for command, *options in (("retry",), ("retry", "--dry-run"), ("resync", "--yes")):
        bullmq.run(command, *link.ids, "--json", *options).ended(4, "circuit_open")
    assert docora.dump() == before
    reset = bullmq.run("retry", *link.ids, "--reset-circuit", "--json")
    assert (reset.code, reset.data["outcome"]) == (0, "reset"), reset
    assert reset.data["circuit_reset"] is True
    assert docora.was_reset(link)
    with bullmq.docora_at_work():
        synced = bullmq.run("wait", *link.ids, "--timeout", "50", "--json")
    assert synced.data["waited"]["result"] == "synced"


def test_a_bulk_operation_counts_open_circuits_and_leaves_them_alone(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    broken = link_with_open_circuit(bullmq)
    # The dashboard's "Retry all" during an outage of git leaves such links.
    held = docora.link(docora.add_app(), broken.repository_id, "pending_snapshot")
    good = docora.link(broken.app_id, docora.add_repository("octo/good"))
    rows = [docora.row(link) for link in (broken, held)]
    status = bullmq.run("status").stdout
    said = "1 pending link is held back: docora-ops retry-all-failed --reset-circuit"
    assert f"Circuits\t{said}" in status.splitlines()
    command = ("retry-all-failed", "--yes", "--json")
    result = bullmq.run(*command)
    assert (result.code, result.data["total"], result.data["reset"]) == (0, 1, 1), result
    assert result.data["open_circuits_left_out"] == 2
    assert [docora.row(link) for link in (broken, held)] == rows
    assert bullmq.run(*command).data["message"] == "Nothing to retry"
    # The first batch closes the circuit by which the others were chosen.
    result = bullmq.run(*command, "--reset-circuit", "--batch-size", "1")
    assert (result.code, result.data["total"], result.data["reset"]) == (0, 2, 2), result
    assert result.data["circuits_reset"] == 1
    assert all(docora.was_reset(link) for link in (broken, held, good))


def looks(docora: Docora) -> int:
    return int(docora.redis.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_failed_counts_as_a_result_only_once_bullmq_tries_no_more(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    link = docora.add_link()
    ran, is_up = Event(), Event()

    def run(job_id: str) -> str | None:
        """Docora's own count says `failed` at the first try, BullMQ tries again."""
        if is_up.is_set():
            docora.set_link(link, status="synced", last_error=None)
            return None
        docora.set_link(link, status="failed", retry_count=5, last_error="HTTP 502")
        ran.set()
        return "HTTP 502"

    arguments = ("retry", *link.ids, "--wait", "--timeout", "50", "--json")
    with bullmq.worker(run), docora.start(*arguments, env=bullmq.environment()) as process:
        await_line(process, "Waiting for 1 snapshot")
        bullmq.schedule()
        assert ran.wait(30)
        bullmq.await_state(link, "delayed")
        before = looks(docora)
        eventually(lambda: looks(docora) >= before + 2, "two looks of the command that waits")
        is_up.set()
        bullmq.promote(link)
        result = finish(process)
    assert (result.code, result.data["waited"]["result"]) == (0, "synced"), result


@pytest.mark.parametrize(("command", "is_queued"), [("retry", True), ("resync", False)])
def test_a_worker_that_takes_the_job_between_look_and_commit_waits_for_the_commit(
    bullmq: Bullmq, docora: Docora, command: str, *, is_queued: bool
) -> None:
    """Queued before the look, or after it by Docora's scheduler, which queues failed links, too."""
    link = docora.add_link()
    docora.add_deliveries(link, 1)
    if is_queued:
        bullmq.add(link)
    seen: list[tuple[int, int]] = []

    def run(job_id: str) -> str | None:
        bullmq.write(job_id, "scanning")
        seen.append((docora.row(link)["retry_count"], docora.deliveries(link)))
        bullmq.write(job_id, "synced")
        return None

    with Proxy.before_postgres(docora.database_url) as proxy:
        # The first transaction only looks up the link, and whether the two servers match.
        held = proxy.plan(COMMIT, Fault.HOLD_REQUEST, number=2)
        environment = bullmq.environment(DATABASE_URL=proxy.url, **PATIENT)
        arguments = (*link.ids, "--json", *(("--yes",) if command == "resync" else ()))
        with docora.start(command, *arguments, env=environment) as process:
            held.wait()
            if not is_queued:
                bullmq.schedule()
            with bullmq.worker(run):
                bullmq.await_state(link, "active")
                eventually(bullmq.waits_for_row, "a worker that waits for our lock")
                assert docora.status(link) == "failed"
                held.release()
                result = finish(process)
                eventually(lambda: docora.status(link) == "synced", "the end of the job")
    expected = "already_queued" if is_queued else "reset"
    assert (result.code, result.data["outcome"]) == (0, expected), result
    assert seen == [(0, 0 if command == "resync" else 1)]


@pytest.mark.slow
def test_repair_resets_stuck_links_only(bullmq: Bullmq) -> None:
    docora, environment = bullmq.docora, bullmq.environment(**ONE_LOOK)
    stuck, given_up, running, stalled = (
        docora.add_link("scanning", retry_count=1) for _ in range(4)
    )
    pending = docora.add_link("pending_snapshot")
    docora.age_links()
    bullmq.fail(given_up)  # as BullMQ does with a job whose workers were killed twice
    bullmq.start(running)
    bullmq.stall(stalled)
    rows = {link: docora.row(link) for link in (running, stalled, pending)}
    keys = bullmq.kept_keys().keys()

    found = bullmq.run("doctor", "--json", env=environment)
    assert check(found, "drift_stuck")["finding"] == "2 scanning links without a live job"
    assert check(found, "drift_lost")["state"] == "ok"
    assert bullmq.run("repair", "--dry-run", "--json", env=environment).data["counts"]["reset"] == 2
    result = bullmq.run("repair", "--yes", "--json", env=environment)

    assert (result.code, result.data["by_kind"]["stuck"]) == (0, 2), result
    assert result.data["counts"]["reset"] == 2
    for link in (stuck, given_up):
        assert docora.status(link) == "pending_snapshot"
        assert docora.row(link)["retry_count"] == 2
    assert {link: docora.row(link) for link in rows} == rows
    assert bullmq.kept_keys().keys() == keys


def test_what_needs_rq_is_refused_with_the_reason(bullmq: Bullmq, docora: Docora) -> None:
    link = docora.add_link()
    before = docora.dump()
    for arguments in (
        ("schedule",),
        ("worker", "--burst"),
        ("pause", "--yes"),
        ("resume",),
        ("hold", link.app_id, "--yes"),
        ("retry", *link.ids, "--front"),
        ("retry-all-failed", "--front", "--yes"),
    ):
        result = bullmq.run(*arguments, env=bullmq.environment(ENCRYPTION_KEY="ab" * 32))
        assert (result.code, result.stdout) == (4, ""), result
        assert "needs RQ's queue, and DOCORA_OPS_BACKEND is bullmq" in result.stderr
    assert docora.dump() == before


def test_nothing_is_reset_beside_the_bullmq_jobs_of_another_docora(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    other, link = docora.add_link(), docora.add_link()
    bullmq.add(other)
    docora.delete_link(other)
    before = docora.dump()
    for arguments in (("retry", *link.ids), ("retry-all-failed", "--yes")):
        refused = bullmq.run(*arguments, "--json").ended(4, "servers_mismatched")
    assert "until Docora's workers have taken these jobs" in refused.json["hint"]
    assert docora.dump() == before


Arrange = Callable[[Bullmq, TestLink], None]

STATES: dict[str, tuple[Arrange, str, str, str]] = {
    "none": (lambda _bullmq, _link: None, "none", "reset", "Link reset"),
    "waiting": (Bullmq.add, "waiting", "already_queued", "Already queued"),
    "paused": (Bullmq.pause, "waiting", "already_queued", "Already queued"),
    "delayed": (Bullmq.delay, "waiting", "already_queued", "Already queued"),
    "completed": (Bullmq.complete, "finished", "reset", "Link reset"),
    "failed": (Bullmq.fail, "stale", "reset", "Link reset"),
    "failed once": (Bullmq.fail_once, "waiting", "already_queued", "Already queued"),
    "active": (Bullmq.start, "running", "already_running", "Snapshot already running"),
    "stalled": (Bullmq.stall, "running", "already_running", "Snapshot already running"),
}
"""Per state: how it comes about, our word for it, the outcome of a retry, and its message."""
IN_SHORT = {"none", "waiting", "active"}
"""The states that `make test` looks at."""


@pytest.mark.parametrize(
    "state",
    [
        state if state in IN_SHORT else pytest.param(state, marks=pytest.mark.matrix)
        for state in STATES
    ],
)
def test_each_state_has_its_outcome_and_nothing_is_written_to_bullmq(
    bullmq: Bullmq, docora: Docora, state: str
) -> None:
    link = docora.add_link()
    arrange, ours, outcome, message = STATES[state]
    arrange(bullmq, link)
    keys, before = bullmq.kept_keys(), docora.dump()

    shown = bullmq.run("show", *link.ids, "--json").data
    planned = bullmq.run("retry", *link.ids, "--dry-run", "--json")
    result = bullmq.run("retry", *link.ids, "--json")

    assert shown["job"] == ours
    assert planned.data["outcome"] == result.data["outcome"] == outcome, result
    assert (result.code, result.data["job_id"]) == (0, link.job_id)
    assert result.data["message"].startswith(message)
    assert bullmq.kept_keys() == keys
    if outcome == "already_running":
        assert docora.dump() == before
        bullmq.run("resync", *link.ids, "--yes", "--json").ended(4, "snapshot_running")
        assert docora.dump() == before
    else:
        assert docora.was_reset(link)
    assert docora.redis.keys("rq:*") == []


def test_a_paced_retry_counts_links_whose_jobs_wait_at_once(bullmq: Bullmq, docora: Docora) -> None:
    """Docora's scheduler has queued all failed links, so it must not put off all of them first."""
    for _ in range(3):
        bullmq.add(docora.add_link())
    url = SecretStr(docora.redis_access.bullmq)
    actions = docora.actions(backend=Backend.BULLMQ, redis_url=url)
    options = ChangeOptions(in_flight=1)
    with closing(retry_all_failed(actions.docora, LinkChoice(), options)) as steps:
        results = (step.result for step in steps)
        completed = [next(results).completed for _ in range(4)]
    assert completed[-1] == 1
