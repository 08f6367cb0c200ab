"""`retry`, `resync` and `repair` of one link: rows, jobs, exit codes and documents."""

from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest
from rq.job import JobStatus
from rq.results import Result as JobResult

from tests.support.docora import QUEUE, Docora
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN
from tests.support.running_commands import await_locks, row_locks

Prepare = Callable[[Docora, str], object]

# What the queue holds, and what a retry of the failed link makes of it.
STATES: dict[str, tuple[Prepare, str, bool]] = {
    "none": (lambda docora, job_id: None, "queued", True),
    "waiting": (lambda docora, job_id: docora.enqueue(job_id), "already_queued", True),
    "delayed": (lambda docora, job_id: docora.schedule_job(job_id), "already_queued", True),
    "deferred": (
        lambda docora, job_id: docora.leave_job(job_id, JobStatus.DEFERRED),
        "already_queued",
        True,
    ),
    "just taken": (
        lambda docora, job_id: (
            docora.enqueue(job_id),
            docora.redis.lmove(docora.queue.key, f"{docora.queue.key}:intermediate"),
        ),
        "already_queued",
        True,
    ),
    "running": (lambda docora, job_id: docora.start_job(job_id), "already_running", False),
    "finished": (
        lambda docora, job_id: docora.leave_job(job_id, JobStatus.FINISHED),
        "queued",
        True,
    ),
    "failed": (
        lambda docora, job_id: docora.leave_job(job_id, JobStatus.FAILED),
        "replaced_stale",
        True,
    ),
    "stopped": (
        lambda docora, job_id: docora.leave_job(job_id, JobStatus.STOPPED),
        "replaced_stale",
        True,
    ),
    "canceled": (
        lambda docora, job_id: docora.leave_job(job_id, JobStatus.CANCELED),
        "replaced_stale",
        True,
    ),
    "abandoned by a killed worker": (
        lambda docora, job_id: docora.start_job(job_id, is_abandoned=True),
        "replaced_stale",
        True,
    ),
    "queued, but in no list": (
        lambda docora, job_id: docora.leave_job(job_id, JobStatus.QUEUED),
        "replaced_stale",
        True,
    ),
    "a hash that expires": (
        lambda docora, job_id: (
            docora.enqueue(job_id),
            docora.redis.expire(f"rq:job:{job_id}", 60),
        ),
        "already_queued",
        True,
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_a_retry_leaves_one_live_job_whatever_the_queue_held(docora: Docora, state: str) -> None:
    prepare, expected, is_reset = STATES[state]
    link = docora.add_link()
    prepare(docora, link.job_id)
    before = docora.row(link)
    result = docora.run("retry", *link.ids, "--json").ended(0)
    assert result.data["message"] == "Retry queued"
    assert result.data["job_id"] == link.job_id
    assert result.data["state"] == expected
    assert docora.was_reset(link) is is_reset
    if not is_reset:
        assert docora.row(link) == before
    docora.assert_sound()
    if expected in {"queued", "replaced_stale"}:
        assert docora.waiting() == [link.job_id]
        assert docora.registries(link.job_id) == set()
        job = docora.job(link)
        assert job.kwargs["is_rescan"] is True
        assert (job.timeout, job.retries_left) == (3600, 4)
        assert job.get_status() is JobStatus.QUEUED
    elif expected == "already_queued":
        assert docora.redis.ttl(f"rq:job:{link.job_id}") == -1


def test_the_job_has_what_a_worker_needs_and_no_secret_in_its_description(docora: Docora) -> None:
    app_id = docora.add_app("Acme \x1b[31mSearch")
    link = docora.link(app_id, docora.add_repository("octo/api"))
    docora.run("resync", *link.ids, "--yes").ended(0)
    job = docora.job(link)
    assert job.func_name == "docora_ops.worker.snapshot_job.snapshot"
    assert job.kwargs | {"github_url": ""} == {
        "app_id": link.app_id,
        "app_name": "Acme \x1b[31mSearch",
        "repository_id": link.repository_id,
        "github_url": "",
        "owner": "octo",
        "name": "api",
        "base_url": "https://acme.example/docora",
        "github_token_encrypted": GITHUB_TOKEN,
        "client_auth_key_encrypted": AUTH_KEY,
        "is_rescan": False,
    }
    assert job.description == "octo/api → Acme \\x1b[31mSearch"
    assert job.origin == QUEUE
    assert JobResult.fetch_latest(job) is None


@pytest.mark.parametrize("status", ["synced", "pending_snapshot", "scanning"])
def test_a_link_that_is_not_failed_is_refused(docora: Docora, status: str) -> None:
    link = docora.add_link(status)
    before = docora.dump()
    result = docora.run("retry", *link.ids, "--json").ended(4, "not_failed")
    assert "Only failed entries can be retried" in result.json["error"]
    assert docora.dump() == before


def test_a_poison_key_is_reported_and_changes_nothing(docora: Docora) -> None:
    link = docora.add_link()
    docora.redis.set(f"rq:job:{link.job_id}", "not a job")
    before = docora.dump()
    docora.run("retry", *link.ids, "--json").ended(6, "unqueueable")
    assert docora.dump() == before


def test_ids_that_form_no_job_id_are_reported(docora: Docora) -> None:
    link = docora.link(docora.add_app("Odd", "odd id"), docora.add_repository())
    docora.run("retry", "Odd", link.repository_id, "--json").ended(6, "unqueueable")
    assert docora.status(link) == "failed"


@pytest.mark.parametrize("option", [[], ["--update"]])
def test_a_resync_deletes_or_marks_the_delivery_records(docora: Docora, option: list[str]) -> None:
    link, other = docora.add_link("synced"), docora.add_link("synced")
    for each in (link, other):
        docora.add_deliveries(each, 3)
    result = docora.run("resync", *link.ids, *option, "--yes", "--json").ended(0)
    assert result.data["message"] == "Re-sync queued"
    assert docora.was_reset(link)
    assert docora.deliveries(link) == (3 if option else 0)
    marked = "SELECT count(*) FROM app_delivered_files WHERE file_sha = repeat('0', 64)"
    assert docora.one(marked) == (3 if option else 0)
    assert docora.deliveries(other) == 3
    assert docora.waiting() == [link.job_id]


def test_a_resync_of_a_running_link_is_refused(docora: Docora) -> None:
    link = docora.add_link("scanning")
    docora.add_deliveries(link, 3)
    docora.start_job(link.job_id)
    before = docora.dump()
    docora.run("resync", *link.ids, "--yes", "--json").ended(4, "snapshot_running")
    assert docora.dump() == before


def test_a_dry_run_predicts_and_writes_nothing(docora: Docora) -> None:
    failed, synced = docora.add_link(), docora.add_link("synced")
    docora.leave_job(failed.job_id, JobStatus.FAILED)
    docora.add_deliveries(synced, 2)
    before = docora.dump()
    for command, state in (
        (["retry", *failed.ids], "replaced_stale"),
        (["resync", *synced.ids], "queued"),
    ):
        result = docora.run(*command, "--dry-run", "--json").ended(0)
        assert (result.data["dry_run"], result.data["state"]) == (True, state)
    assert docora.dump() == before


def test_reset_circuit_closes_the_circuit_of_the_repository(docora: Docora) -> None:
    repository_id = docora.add_repository(circuit_open_for=timedelta(hours=1))
    link = docora.link(docora.add_app(), repository_id)
    docora.run("retry", *link.ids).ended(0)
    opened = "SELECT circuit_open_until IS NOT NULL FROM repositories"
    assert docora.one(opened) is True  # a retry does not wait for it, nor close it
    docora.set_link(link, status="failed")
    docora.run("retry", *link.ids, "--reset-circuit").ended(0)
    assert docora.one(opened) is False
    assert docora.one("SELECT consecutive_failures FROM repositories") == 0


def test_a_retry_waits_for_a_lock_and_gives_up_in_time(docora: Docora) -> None:
    link = docora.add_link()
    with row_locks(docora, link) as holder:
        retry = docora.start("retry", *link.ids)
        await_locks(docora)
        holder.commit()
        assert retry.wait() == 0
    docora.set_link(link, status="failed")
    with row_locks(docora, link):
        docora.run("retry", *link.ids, "--json").ended(5, "link_locked")
    assert docora.status(link) == "failed"


def test_a_link_that_another_command_has_just_queued_is_not_queued_twice(docora: Docora) -> None:
    link = docora.add_link()
    codes = sorted(result.code for result in docora.run_together(*[["retry", *link.ids]] * 4))
    assert codes[0] == 0
    assert set(codes) <= {0, 4}
    assert docora.waiting() == [link.job_id]


def test_a_commit_that_fails_leaves_a_job_that_the_next_try_finds(docora: Docora) -> None:
    link = docora.add_link()
    docora.refuse_at_commit()
    docora.run("retry", *link.ids, "--json").ended(5)
    assert docora.status(link) == "failed"
    assert docora.waiting() == [link.job_id]
    docora.connection.execute("DROP TRIGGER refuse ON app_repositories")
    result = docora.run("retry", *link.ids, "--json").ended(0)
    assert result.data["state"] == "already_queued"
    assert docora.waiting() == [link.job_id]


def test_a_worker_waits_for_the_commit(docora: Docora) -> None:
    """A job that was pushed but not committed must not be run on the old row."""
    link = docora.add_link()
    from docora_ops.actions.changes import change_batch
    from docora_ops.links import Change, LinkFilter

    with docora.actions() as actions, actions.database.transaction():
        change_batch(actions, Change.retry(LinkFilter()), [str(docora.row(link)["id"])])
        assert docora.waiting() == [link.job_id]
        with (
            psycopg.connect(docora.database_url) as worker,
            pytest.raises(psycopg.errors.LockNotAvailable),
        ):
            worker.execute("SELECT FROM app_repositories FOR UPDATE NOWAIT")
    assert docora.was_reset(link)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["acme search", "OCTO/api"], 0),
        (["Acme", "octo/api"], 0),
        (["Acme Search", "nothing/here"], 3),
        (["Nobody", "octo/api"], 3),
        (["A", "octo/api"], 2),
        (["", "octo/api"], 2),
    ],
)
def test_apps_and_repositories_are_named_as_people_name_them(
    docora: Docora, words: list[str], code: int
) -> None:
    link = docora.link(docora.add_app("Acme Search"), docora.add_repository("octo/api"))
    docora.add_app("Another")
    docora.run("retry", *words).ended(code)
    assert docora.was_reset(link) is (code == 0)


QUICK = {"DOCORA_OPS_DRIFT_GRACE": "0"}


def test_repair_of_one_link_queues_what_has_lost_its_job(docora: Docora) -> None:
    link = docora.add_link("pending_snapshot", retry_count=2)
    result = docora.run("repair", *link.ids, "--json", env=QUICK).ended(0)
    assert result.data["state"] == "queued"
    assert docora.waiting() == [link.job_id]
    assert docora.row(link)["retry_count"] == 2
    again = docora.run("repair", *link.ids, "--json", env=QUICK).ended(0)
    assert again.data["state"] == "already_queued"
    assert docora.waiting() == [link.job_id]
