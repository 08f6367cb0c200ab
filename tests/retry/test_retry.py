"""`docora-ops retry`."""

from typing import Any

import psycopg
import pytest
import redis
from redis.connection import AbstractConnection
from rq.job import JobStatus

from docora_ops.actions import retry
from docora_ops.links import Outcome
from tests.support.bullmq import WORKER_NAME
from tests.support.docora import Docora
from tests.support.job_states import Arrange, all_of, expires, left, started
from tests.support.read_only import frozen
from tests.support.rows import TestLink

APP = "app_" + "a" * 24
REPOSITORY = "repo_" + "b" * 24
ERROR = "HTTP 502 Bad Gateway on created docs/intro.md"
RETRY = ("retry", APP, REPOSITORY)
PLANNED = {"queued": "would be queued", "replaced_stale": "would replace a stale job"}
NO_WORKER = "no worker listens on the queue snapshot-queue"


@pytest.fixture
def link(docora: Docora) -> TestLink:
    """A failed link whose ids and names are known."""
    docora.add_app("Acme Search", APP)
    docora.add_repository("octo/api", REPOSITORY)
    return docora.link(APP, REPOSITORY, retry_count=5, last_error=ERROR)


@pytest.mark.parametrize(
    ("outcome", "arrange"),
    [
        ("queued", all_of()),
        ("replaced_stale", left(JobStatus.FAILED)),
        ("already_queued", all_of(Docora.enqueue, expires)),
        ("already_running", started),
    ],
)
def test_each_outcome_succeeds_and_has_its_table_and_its_json(
    docora: Docora, link: TestLink, outcome: str, arrange: Arrange
) -> None:
    """What becomes of row and job: tests/jobs/test_job_states.py."""
    for job_id in ("a", "b"):
        docora.enqueue(job_id)
    arrange(docora, link.job_id)
    waiting, is_kept = docora.waiting(), outcome.startswith("already")
    table = docora.run(*RETRY, "--dry-run")
    result = docora.run(*RETRY, "--front", "--json")
    assert docora.waiting() == (waiting if is_kept else [link.job_id, *waiting])
    assert ("keeps its place" in result.stderr) is (outcome == "already_queued")
    assert (result.code, table.code) == (0, 0), (result, table)
    messages = {
        "already_running": "Snapshot already running",
        "already_queued": "Already queued",
    }
    none = ("circuit_open_until", "circuit_reset", "deliveries_cleared")
    assert result.json == {
        "data": {
            "message": messages.get(outcome, "Retry queued"),
            "job_id": f"{APP}-{REPOSITORY}",
            "outcome": outcome,
            "app_id": APP,
            "app_name": "Acme Search",
            "repository_id": REPOSITORY,
            "repository_name": "octo/api",
            "previous": {"status": "failed", "retry_count": 5, "error_message": ERROR},
            "worker_count": 0,
            "dry_run": False,
            **dict.fromkeys((*none, "waited")),
        }
    }
    assert dict(line.split("\t") for line in table.stdout.splitlines()) == {
        "App": f"Acme Search ({APP})",
        "Repository": f"octo/api ({REPOSITORY})",
        "Was": "failed, 5 tries failed",
        "Last error": ERROR,
        "Outcome": PLANNED.get(outcome, outcome.replace("_", " ")),
        "Job": f"{APP}-{REPOSITORY}",
    }


def test_a_waiting_job_gets_all_tries_again(docora: Docora) -> None:
    """Else the link would fail after the tries that were left to its job."""
    link = docora.add_link()
    docora.queue_job(link)
    docora.redis.hset(f"rq:job:{link.job_id}", "retries_left", 1)
    docora.set_link(link, status="pending_snapshot", retry_count=3)
    result = docora.run("resync", *link.ids, "--yes", "--json")
    assert (result.code, result.data["outcome"]) == (0, "already_queued"), result
    assert docora.row(link)["retry_count"] == 0
    assert docora.job_hash(link.job_id)["retries_left"] == b"4"


@pytest.mark.slow
def test_any_status_but_failed_is_refused_and_the_hint_names_what_helps(docora: Docora) -> None:
    docora.redis.sadd("rq:queues", docora.queue.key)
    app = docora.add_app("Acme Search")
    expected = [
        ("pending_snapshot", "waiting", "nothing needs to be done"),
        ("scanning", "stale", "repair"),
        ("scanning", "running", "wait for it to end"),
        ("pending_snapshot", "none", "repair"),
        ("synced", "none", "resync"),
        # Its job reads as waiting, and no worker would take it.
        ("pending_snapshot", "waiting", "repair"),
    ]
    links = [
        docora.link(app, docora.add_repository(), status, retry_count=1) for status, *_ in expected
    ]
    docora.enqueue(links[0].job_id)
    docora.leave_job(links[1].job_id, JobStatus.FAILED)
    docora.start_job(links[2].job_id)
    docora.leave_job(links[5].job_id, JobStatus.QUEUED)
    retries = [("retry", *link.ids, "--front", "--reset-circuit", "--json") for link in links]
    before = docora.dump()
    *results, person, dry = docora.run_together(
        *retries, ("retry", *links[-1].ids), (*retries[-1], "--dry-run")
    )
    assert docora.dump() == before
    for (status, job, helps), result in zip(expected, results, strict=True):
        assert result.code == 4, result
        assert result.json.keys() == {"error", "code", "hint", "status", "job"}
        assert result.json["error"].startswith("Only failed links can be retried")
        found = (result.json["code"], result.json["status"], result.json["job"])
        assert found == ("not_failed", status, job)
        assert helps in result.json["hint"]
    document = results[-1].json
    assert person.stderr.endswith(f"Error: {document['error']}\nHint: {document['hint']}\n")
    assert (dry.code, dry.json) == (4, document)
    # The advice is good: what it names queues the link.
    for number in (1, 3, 4, 5):
        _, _, advised = results[number].json["hint"].partition("docora-ops ")
        followed = docora.run(*advised.split(), "--json", env={"DOCORA_OPS_DRIFT_GRACE": "0"})
        assert followed.code == 0, followed
        assert docora.waiting().count(links[number].job_id) == 1


def test_a_missing_worker_is_warned_about_each_time(docora: Docora, link: TestLink) -> None:
    docora.redis.sadd("rq:workers:snapshot-queue", "rq:worker:died-long-ago")
    dry = docora.run(*RETRY, "--dry-run")
    first = docora.run(*RETRY, "--json")
    refused = docora.run(*RETRY)
    assert (first.data["worker_count"], refused.code) == (0, 4)
    for result in (dry, first, refused):
        assert NO_WORKER in result.stderr, result
    docora.add_worker("one")
    docora.add_worker("two")
    docora.set_link(link, status="failed")
    result = docora.run(*RETRY, "--json")
    assert (result.data["worker_count"], result.stderr) == (2, "")


@pytest.mark.usefixtures("link")
def test_a_bullmq_worker_is_warned_about_or_else_its_waiting_jobs(docora: Docora) -> None:
    docora.add_worker()
    dry_run = (*RETRY, "--dry-run")
    docora.redis.set("bull:snapshot-queue:id", 7)
    docora.redis.rpush("bull:other-queue:wait", "job")
    assert "BullMQ" not in docora.run(*dry_run).stderr
    docora.redis.zadd("bull:snapshot-queue:delayed", {"job": 1})
    docora.redis.set("bull:snapshot-queue:stalled-check", "1", px=30_000)  # killed a moment ago
    jobs = docora.run(*dry_run).stderr
    assert "no BullMQ worker runs" in jobs
    assert "docora-ops schedule" in jobs
    with redis.Redis.from_url(docora.redis_access.owner, client_name=WORKER_NAME) as worker:
        worker.ping()
        real = docora.run(*RETRY, "--json")
    assert "a BullMQ worker of Docora runs" in real.stderr
    assert "no BullMQ worker runs" not in real.stderr
    assert (real.code, real.data["outcome"]) == (0, "queued")


# Circuits


@pytest.mark.parametrize("command", ["retry", "resync"])
def test_an_open_circuit_is_named_and_reset_circuit_closes_it_with_the_reset_of_the_link(
    docora: Docora, link: TestLink, command: str
) -> None:
    other = docora.add_repository("octo/other")
    both = (command, *link.ids, "--reset-circuit")
    closed = docora.run(*both, "--dry-run", "--json").data
    assert (closed["circuit_open_until"], closed["circuit_reset"]) == (None, False)
    docora.connection.execute(
        "UPDATE repositories SET consecutive_failures = 5, circuit_open_until = '2099-05-06Z'"
    )
    until = "2099-05-06T00:00:00.000Z"
    with frozen(docora):
        kept, shown_kept, dry, shown = docora.run_together(
            *(
                (*which, "--dry-run", *form)
                for which in (both[:3], both)
                for form in (["--json"], [])
            )
        )
    assert (kept.data["circuit_open_until"], kept.data["circuit_reset"]) == (until, None)
    scheduler = f"Circuit\topen until {until}: only the scheduler waits for it"
    assert scheduler in shown_kept.stdout.splitlines()
    assert (dry.data["circuit_open_until"], dry.data["circuit_reset"]) == (None, True)
    assert "Circuit\twould be closed" in shown.stdout.splitlines()
    assert "Circuit\tclosed" in docora.run(*both).stdout.splitlines()
    rows: dict[str, Any] = {
        row["repository_id"]: row
        for row in docora.connection.execute("SELECT xmin::text, * FROM repositories").fetchall()
    }
    assert (rows[REPOSITORY]["consecutive_failures"], rows[other]["consecutive_failures"]) == (0, 5)
    assert rows[REPOSITORY]["circuit_open_until"] is None
    [same] = docora.connection.execute("SELECT xmin::text FROM app_repositories").fetchall()
    assert same["xmin"] == rows[REPOSITORY]["xmin"]


def test_few_statements_and_round_trips_suffice(
    docora: Docora, link: TestLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_worker()
    sent: dict[str, list[object]] = {"execute": [], "send_packed_command": []}

    def count(kind: type[Any], name: str) -> None:
        call = getattr(kind, name)

        def counted(self: Any, what: Any, *arguments: Any, **options: Any) -> Any:
            sent[name].append(what)
            return call(self, what, *arguments, **options)

        monkeypatch.setattr(kind, name, counted)

    count(psycopg.Cursor, "execute")
    count(AbstractConnection, "send_packed_command")
    result = retry(docora.actions().docora, *link.ids)
    assert (result.outcome, result.workers) == (Outcome.QUEUED, 1)
    assert len(sent["execute"]) <= 12, sent
    of_logins = ("AUTH", "SETNAME")
    requests = [
        what for what in sent["send_packed_command"] if not any(map(str(what).count, of_logins))
    ]
    assert len(requests) <= 7, requests
