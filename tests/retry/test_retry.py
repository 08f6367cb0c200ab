"""`docora-ops retry`."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rq.job import Job, JobStatus

from tests.support.docora import Docora, finish
from tests.support.job_states import (
    Arrange,
    all_of,
    expires,
    hash_gone,
    in_the_intermediate_list,
    left,
    on_another_queue,
    scheduled,
    started,
)
from tests.support.proxy import COMMIT, LOOKUPS, Proxy
from tests.support.rows import TestLink

APP = "app_" + "a" * 24
REPOSITORY = "repo_" + "b" * 24
ERROR = "HTTP 502 Bad Gateway on created docs/intro.md"
NO_WORKER = "no worker listens on the queue snapshot-queue"


@pytest.fixture
def link(docora: Docora) -> TestLink:
    """A failed link whose ids and names are known."""
    docora.add_app("Acme Search", APP)
    docora.add_repository("octo/api", REPOSITORY)
    return docora.link(APP, REPOSITORY, retry_count=5, last_error=ERROR)


def fail_again(docora: Docora, link: TestLink) -> None:
    docora.set_link(link, status="failed", retry_count=5, last_error=ERROR)


@pytest.mark.parametrize(
    ("outcome", "label", "arrange"),
    [
        ("queued", "queued", all_of()),
        ("replaced_stale", "replaced stale", left(JobStatus.FAILED)),
        ("already_queued", "already queued", Docora.enqueue),
        ("already_running", "already running", started),
    ],
)
def test_each_outcome_succeeds_and_has_its_table_and_its_json(
    docora: Docora, link: TestLink, outcome: str, label: str, arrange: Arrange
) -> None:
    before = docora.row(link)
    arrange(docora, link.job_id)
    if outcome == "already_running":
        # Neither changes anything, and each takes its time for a second look.
        result, table = docora.run_together(
            ("retry", APP, REPOSITORY, "--json"), ("retry", APP, REPOSITORY)
        )
    else:
        result = docora.run("retry", APP, REPOSITORY, "--json")
        assert docora.was_reset(link)
        assert docora.waiting() == [link.job_id]
        assert docora.registries(link.job_id) == set()
        assert docora.job(link).get_status() is JobStatus.QUEUED
        assert docora.redis.ttl(f"rq:job:{link.job_id}") == -1
        fail_again(docora, link)
        docora.redis.flushdb()
        arrange(docora, link.job_id)
        table = docora.run("retry", APP, REPOSITORY)

    assert result.code == 0, result
    assert result.json == {
        "data": {
            "message": "Snapshot already running"
            if outcome == "already_running"
            else "Retry queued",
            "job_id": f"{APP}-{REPOSITORY}",
            "outcome": outcome,
            "app_id": APP,
            "app_name": "Acme Search",
            "repository_id": REPOSITORY,
            "repository_name": "octo/api",
            "previous": {"status": "failed", "retry_count": 5, "error_message": ERROR},
            "circuit_open_until": None,
            "workers": 0,
        }
    }
    if outcome == "already_running":
        assert docora.row(link) == before
        assert docora.waiting() == []

    assert table.code == 0, table
    lines = {line[:12].strip(): line[12:].strip() for line in table.stdout.splitlines() if line}
    assert lines == {
        "App": f"Acme Search ({APP})",
        "Repository": f"octo/api ({REPOSITORY})",
        "Was": "failed, 5 retries",
        "Last error": ERROR,
        "Outcome": label,
        "Job": f"{APP}-{REPOSITORY}",
    }


def test_a_job_that_ends_before_the_second_look_is_replaced(docora: Docora, link: TestLink) -> None:
    """The link's lock alone, as our worker holds it, says that the job is running."""
    lock = "(hashtextextended(%s, 0))"
    docora.connection.execute(f"SELECT pg_advisory_lock{lock}".encode(), (link.job_id,))
    with Proxy.before_postgres(docora.database_url) as proxy:
        first_look = proxy.plan(COMMIT, number=LOOKUPS + 1)
        process = docora.start("retry", APP, REPOSITORY, "--json", env={"DATABASE_URL": proxy.url})
        first_look.wait()
        docora.connection.execute(f"SELECT pg_advisory_unlock{lock}".encode(), (link.job_id,))
        result = finish(process)
    assert result.code == 0, result
    assert result.data["outcome"] == "queued"
    assert docora.was_reset(link)
    assert docora.waiting() == [link.job_id]


def test_any_status_but_failed_is_refused_and_the_hint_names_what_helps(docora: Docora) -> None:
    docora.redis.sadd("rq:queues", docora.queue.key)
    app = docora.add_app("Acme Search")
    expected: dict[TestLink, tuple[str, str, str]] = {}

    def add(status: str, job: str, helps: str) -> TestLink:
        link = docora.link(app, docora.add_repository(), status, retry_count=1)
        expected[link] = (status, job, helps)
        return link

    docora.enqueue(add("pending_snapshot", "waiting", "nothing needs to be done").job_id)
    docora.enqueue(add("synced", "waiting", "nothing needs to be done").job_id)
    docora.leave_job(add("pending_snapshot", "stale", "repair").job_id, JobStatus.FAILED)
    docora.leave_job(add("scanning", "stale", "repair").job_id, JobStatus.FAILED)
    docora.start_job(add("scanning", "running", "wait for it to end").job_id)
    docora.hold_lock(add("scanning", "running", "wait for it to end").job_id)
    add("pending_snapshot", "none", "repair")
    add("scanning", "none", "repair")
    add("synced", "none", "resync")
    add("paused_by_hand", "none", "resync")

    before = docora.dump()
    options = ("--front", "--reset-circuit", "--json")
    results = docora.run_together(
        *(("retry", app, link.repository_id, *options) for link in expected)
    )
    last = list(expected)[-1]
    person, dry = docora.run_together(
        ("retry", app, last.repository_id),
        ("retry", app, last.repository_id, "--dry-run", "--json"),
    )
    assert docora.dump() == before

    for (link, (status, job, helps)), result in zip(expected.items(), results, strict=True):
        assert result.code == 4, result
        assert result.json.keys() == {"error", "code", "hint", "status", "job"}
        assert result.json["error"].startswith("Only failed entries can be retried")
        assert (result.json["code"], result.json["status"], result.json["job"]) == (
            "not_failed",
            status,
            job,
        )
        assert status in result.json["error"]
        assert helps in result.json["hint"]
        if helps in {"repair", "resync"}:
            assert f"docora-ops {helps} {app} {link.repository_id}" in result.json["hint"]
    assert (person.code, person.stdout) == (4, "")
    document = results[-1].json
    assert person.stderr.endswith(f"Error: {document['error']}\nHint: {document['hint']}\n")
    assert (dry.code, dry.json) == (4, document)

    # The advice is good: what it names queues the link.
    for number, (link, (_, _, helps)) in enumerate(expected.items()):
        if helps in {"repair", "resync"}:
            _, _, advised = results[number].json["hint"].partition("docora-ops ")
            followed = docora.run(*advised.split(), "--json", env={"DOCORA_OPS_DRIFT_GRACE": "0"})
            assert followed.code == 0, followed
            assert docora.waiting().count(link.job_id) == 1
            assert docora.status(link) == "pending_snapshot"


def open_circuit(docora: Docora, until: timedelta) -> None:
    docora.connection.execute(
        "UPDATE repositories SET consecutive_failures = 5, circuit_open_until = now() + %s",
        (until,),
    )


def circuit(docora: Docora) -> dict[str, Any]:
    [row] = docora.connection.execute(
        "SELECT xmin::text, consecutive_failures, circuit_open_until FROM repositories"
    ).fetchall()
    return row


def test_an_open_circuit_is_named_with_its_time_and_left_open(
    docora: Docora, link: TestLink
) -> None:
    open_circuit(docora, timedelta(minutes=20))
    before = circuit(docora)
    until = before["circuit_open_until"].astimezone(UTC)
    shown = until.strftime("%Y-%m-%dT%H:%M:%S.") + f"{until.microsecond // 1000:03d}Z"

    terminal = docora.run("retry", APP, REPOSITORY, env={"COLUMNS": "80"})
    assert terminal.code == 0
    assert terminal.stdout.splitlines()[-2:] == [
        f"Circuit     open until {shown} (in 19 min) after git failures",
        "            only the scheduler waits for that, this job does not",
    ]

    fail_again(docora, link)
    result = docora.run("retry", APP, REPOSITORY, "--json")
    assert result.data["circuit_open_until"] == shown
    assert "circuit_reset" not in result.data
    assert datetime.fromisoformat(shown) <= until
    assert circuit(docora) == before

    fail_again(docora, link)
    open_circuit(docora, timedelta(minutes=-1))
    table = docora.run("retry", APP, REPOSITORY)
    assert table.code == 0
    assert "open until" not in table.stdout


def test_reset_circuit_closes_it_in_the_transaction_that_resets_the_link(
    docora: Docora, link: TestLink
) -> None:
    other = docora.add_repository("octo/other", circuit_open_for=timedelta(minutes=20))
    open_circuit(docora, timedelta(minutes=20))
    result = docora.run("retry", APP, REPOSITORY, "--reset-circuit", "--json")
    assert result.code == 0, result
    assert result.data["circuit_open_until"] is None
    assert result.data["circuit_reset"] is True
    rows = {
        row["repository_id"]: row
        for row in docora.connection.execute("SELECT xmin::text, * FROM repositories").fetchall()
    }
    assert rows[REPOSITORY]["consecutive_failures"] == 0
    assert rows[REPOSITORY]["circuit_open_until"] is None
    assert rows[other]["consecutive_failures"] == 5
    [same] = docora.connection.execute("SELECT xmin::text FROM app_repositories").fetchall()
    assert same["xmin"] == rows[REPOSITORY]["xmin"]

    open_circuit(docora, timedelta(minutes=20))
    fail_again(docora, link)
    table = docora.run("retry", APP, REPOSITORY, "--reset-circuit")
    assert "open until" not in table.stdout
    assert "closed" in table.stdout


@pytest.mark.parametrize("command", ["retry", "resync"])
def test_a_dry_run_says_what_reset_circuit_would_do(
    docora: Docora, link: TestLink, command: str
) -> None:
    dry = (command, APP, REPOSITORY, "--dry-run")
    unopened = docora.run(*dry, "--reset-circuit", "--json")
    assert (unopened.data["circuit_open_until"], unopened.data["circuit_reset"]) == (None, False)
    assert "Circuit" not in docora.run(*dry, "--reset-circuit").stdout

    open_circuit(docora, timedelta(minutes=20))
    before = docora.dump()
    plain = docora.run(*dry).stdout.splitlines()
    option = docora.run(*dry, "--reset-circuit").stdout.splitlines()
    document = docora.run(*dry, "--reset-circuit", "--json")
    assert docora.dump() == before
    assert re.match(r"Circuit +open until \S+Z \(in 19 min\) after git failures$", plain[-2])
    assert plain[-1].strip() == "only the scheduler waits for that; --reset-circuit would close it"
    assert option[-2] == plain[-2]
    assert option[-1].strip() == "--reset-circuit would close it now"
    assert max(map(len, plain + option)) <= 80
    # As it would be.
    assert (document.data["circuit_open_until"], document.data["circuit_reset"]) == (None, True)
    assert document.data["dry_run"] is True

    real = docora.run(command, APP, REPOSITORY, "--reset-circuit")
    assert re.search(r"^Circuit +closed$", real.stdout, re.MULTILINE)
    assert circuit(docora)["circuit_open_until"] is None


def test_reset_circuit_counts_from_0_again_before_the_circuit_opens(
    docora: Docora, link: TestLink
) -> None:
    docora.connection.execute("UPDATE repositories SET consecutive_failures = 4")
    result = docora.run("retry", APP, REPOSITORY, "--reset-circuit", "--json")
    assert (result.code, result.data["circuit_reset"]) == (0, True)
    assert circuit(docora)["consecutive_failures"] == 0


@pytest.mark.parametrize("arrange", [started, Docora.hold_lock])
def test_a_link_that_is_running_is_left_alone_with_its_open_circuit(
    docora: Docora, link: TestLink, arrange: Arrange
) -> None:
    open_circuit(docora, timedelta(minutes=20))
    before = docora.row(link), circuit(docora)
    arrange(docora, link.job_id)
    result = docora.run("retry", APP, REPOSITORY, "--reset-circuit", "--json")
    assert (result.code, result.data["outcome"]) == (0, "already_running")
    assert result.data["circuit_open_until"] is not None
    assert result.data["circuit_reset"] is False
    assert (docora.row(link), circuit(docora)) == before
    assert docora.waiting() == []


def test_a_missing_worker_is_warned_about_every_time_until_one_listens(
    docora: Docora, link: TestLink
) -> None:
    docora.redis.sadd("rq:workers:snapshot-queue", "rq:worker:died-long-ago")
    dry = docora.run("retry", APP, REPOSITORY, "--dry-run")
    first = docora.run("retry", APP, REPOSITORY, "--json")
    refused = docora.run("retry", APP, REPOSITORY)
    for result in (dry, first, refused):
        assert NO_WORKER in result.stderr, result
    assert first.data["workers"] == 0
    assert refused.code == 4

    docora.add_worker("one")
    docora.add_worker("two")
    fail_again(docora, link)
    result = docora.run("retry", APP, REPOSITORY, "--json")
    assert result.data["workers"] == 2
    assert result.stderr == ""


def test_jobs_in_the_bullmq_queue_are_warned_about_and_a_bullmq_worker_otherwise(
    docora: Docora, link: TestLink
) -> None:
    docora.add_worker()
    command = ("retry", APP, REPOSITORY, "--dry-run")
    docora.redis.set("bull:snapshot-queue:id", 7)
    docora.redis.rpush("bull:other-queue:wait", link.job_id)
    assert docora.run(*command).stderr == "Dry run: nothing was changed.\n"

    def warns_of_jobs() -> bool:
        result = docora.run(*command)
        assert result.code == 0, result
        of_jobs = "no BullMQ worker runs" in result.stderr
        assert of_jobs is ("docora-ops schedule" in result.stderr)
        assert of_jobs is not ("RUN_MODE=api" in result.stderr)
        return of_jobs

    docora.redis.rpush("bull:snapshot-queue:wait", link.job_id)
    assert warns_of_jobs()
    docora.redis.delete("bull:snapshot-queue:wait")
    docora.redis.zadd("bull:snapshot-queue:delayed", {link.job_id: 1})
    assert warns_of_jobs()
    docora.redis.rpush("bull:snapshot-queue:active", link.job_id)
    assert warns_of_jobs(), "its worker was killed"
    docora.redis.set(f"bull:snapshot-queue:{link.job_id}:lock", "token", px=30_000)
    assert not warns_of_jobs()

    docora.redis.delete("bull:snapshot-queue:active")
    docora.redis.set("bull:snapshot-queue:stalled-check", "1", px=30_000)
    assert not warns_of_jobs()
    real = docora.run("retry", APP, REPOSITORY, "--json")
    assert "a BullMQ worker of Docora runs" in real.stderr
    assert (real.code, real.data["outcome"]) == (0, "queued")


@pytest.mark.parametrize("command", ["retry", "resync"])
def test_a_link_that_cannot_be_queued_is_left_as_it_was(
    docora: Docora, link: TestLink, command: str
) -> None:
    dotted = docora.link(docora.add_app("Dotted", "app.dotted"), docora.add_repository())
    docora.add_deliveries(dotted, 2)
    docora.add_deliveries(link, 2)
    docora.redis.set(f"rq:job:{link.job_id}", "not a hash")
    docora.redis.sadd("rq:queues", docora.queue.key)
    before = docora.dump()
    invalid, unreadable = docora.run_together(
        (command, *dotted.ids, "--json"), (command, APP, REPOSITORY, "--json")
    )
    assert docora.dump() == before
    assert (invalid.code, invalid.json["code"]) == (6, "invalid_job_id")
    assert "app.dotted" in invalid.json["error"]
    assert (unreadable.code, unreadable.json["code"]) == (6, "job_unreadable")
    assert link.job_id in unreadable.json["error"]


NOTHING = all_of()


@pytest.mark.parametrize(
    ("queue", "arrange", "outcome", "after"),
    [
        pytest.param("a b", NOTHING, "queued", "LINK a b", id="no job"),
        pytest.param("a LINK b", NOTHING, "already_queued", "LINK a b", id="waiting"),
        pytest.param("a LINK b", expires, "already_queued", "LINK a b", id="waiting, expires"),
        pytest.param("LINK a LINK", NOTHING, "already_queued", "LINK a", id="enqueued twice"),
        pytest.param("a LINK b", hash_gone, "replaced_stale", "LINK a b", id="hash gone"),
        pytest.param("a b", left(JobStatus.FAILED), "replaced_stale", "LINK a b", id="stale"),
        pytest.param("a", scheduled, "already_queued", "a", id="scheduled"),
        pytest.param("a", in_the_intermediate_list, "already_queued", "a", id="taken"),
        pytest.param("a", on_another_queue, "already_queued", "a", id="on another queue"),
    ],
)
def test_front_moves_a_job_in_the_queue_to_its_head_and_no_other(
    docora: Docora, queue: str, arrange: Arrange, outcome: str, after: str
) -> None:
    link = docora.add_link()

    def ids(names: str) -> Sequence[str]:
        return names.replace("LINK", link.job_id).split()

    for job_id in ids(queue):
        docora.enqueue(job_id)
    arrange(docora, link.job_id)
    fields, registries = docora.job_hash(link.job_id), docora.registries(link.job_id)
    result = docora.run("retry", *link.ids, "--front", "--json")
    assert (result.code, result.data["outcome"]) == (0, outcome), result
    assert docora.waiting() == ids(after)
    assert docora.redis.ttl(Job.key_for(link.job_id)) == -1
    if outcome == "already_queued":
        assert docora.job_hash(link.job_id) == fields
        assert docora.registries(link.job_id) == registries
    else:
        assert docora.registries(link.job_id) == set()


def test_without_front_a_waiting_job_keeps_its_place(docora: Docora) -> None:
    link = docora.add_link()
    for job_id in ("first", link.job_id, "last"):
        docora.enqueue(job_id)
    docora.actions().retry(link)
    assert docora.waiting() == ["first", link.job_id, "last"]
