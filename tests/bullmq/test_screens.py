"""What the commands that only read tell of a Docora with BullMQ workers."""

import re
from collections.abc import Iterator

import redis

from tests.support.bullmq import WORKER_NAME, Bullmq
from tests.support.diagnoses import ONE_LOOK, check, not_ok
from tests.support.rows import GITHUB_TOKEN, TestLink

RQ_ONLY = "docora-ops worker"


def test_status_and_queue_tell_the_counts_the_oldest_and_the_worker(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    waiting, delayed, active = (docora.add_link("pending_snapshot") for _ in range(3))
    bullmq.start(active)
    bullmq.add(waiting)
    bullmq.delay(delayed)

    status = bullmq.run("status", "--json").data
    counts = {"waiting": 1, "active": 1, "delayed": 1, "completed_jobs": 0, "failed_jobs": 0}
    assert {name: status["queue"][name] for name in counts} == counts
    assert (status["queue"]["backend"], status["queue"]["worker_count"]) == ("bullmq", 0)
    assert status["queue"]["oldest_waiting_seconds"] >= 0
    assert status["drift"] == {"lost": 0, "stuck": 0, "at_least": False}
    screen = bullmq.run("status")
    assert "none: run Docora with RUN_MODE=all or worker" in screen.stdout
    assert RQ_ONLY not in screen.stdout

    queue = bullmq.run("queue", "--json").data
    assert [(job["job_id"], job["status"]) for job in queue["jobs"]] == [
        *((active.job_id, "active"), (waiting.job_id, "waiting"), (delayed.job_id, "delayed"))
    ]
    assert {job["app_name"] for job in queue["jobs"]} == {"Acme Search"}
    assert {job["repository_name"] for job in queue["jobs"]} == {"octo/api"}
    assert queue["jobs"][2]["due_at"] > queue["jobs"][2]["created_at"]
    table = bullmq.run("queue")
    assert "no BullMQ worker is seen" in table.stderr
    assert "Scheduler" not in table.stdout
    assert "scheduler" not in table.stderr

    bullmq.expire_lock(active)
    with bullmq.worker(lambda _job_id: None):
        assert bullmq.run("status", "--json").data["queue"]["worker_count"] == 2, "both connections"
        assert "no BullMQ worker" not in bullmq.run("queue").stderr


def test_show_and_links_tell_the_state_the_tries_and_the_masked_failure(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    link = docora.add_link()
    bullmq.fail_once(link, f"clone of https://{GITHUB_TOKEN}@github.com/octo/api failed")

    shown = bullmq.run("show", *link.ids, "--json").data
    record = shown["job_record"]
    assert (shown["backend"], shown["job"], record["status"]) == ("bullmq", "waiting", "delayed")
    assert (record["attempts"], record["retries_left"]) == (1, 4)
    assert [place["where"] for place in record["places"]] == ["delayed"]
    assert "clone of https://" in record["last_failure"]["text"]
    assert GITHUB_TOKEN not in str(shown)
    table = bullmq.run("show", *link.ids).stdout
    assert "delayed, 1 try made, 4 retries left" in table
    assert re.search("Last failure\tin an earlier try\n", table)
    [listed] = bullmq.run("links", "--json").data
    assert listed["job"] == "waiting"

    stalled = docora.add_link("scanning")
    bullmq.stall(stalled)
    assert bullmq.run("status", "--json").data["drift"]["stuck"] == 0
    doctor = bullmq.run("doctor", "--json", env=bullmq.environment(**ONE_LOOK))
    assert (doctor.code, check(doctor, "workers")["state"]) == (6, "critical")
    shown = bullmq.run("show", *stalled.ids, "--json").data
    assert (shown["job"], shown["job_record"]["status"]) == ("running", "active, stalled")
    [job, _] = bullmq.run("queue", "--json").data["jobs"]
    assert (job["job_id"], job["status"]) == (stalled.job_id, "abandoned")

    over = docora.add_link()
    bullmq.fail(over)
    record = bullmq.run("show", *over.ids, "--json").data["job_record"]
    assert (record["status"], record["retries_left"]) == ("failed", None)


def test_doctor_is_content_with_a_docora_at_work(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    docora.add_link("pending_snapshot")
    docora.age_links()
    with bullmq.worker(lambda _job_id: None):
        result = bullmq.run("doctor", "--json", env=bullmq.environment(**ONE_LOOK))
    assert not_ok(result).keys() <= {"redis_persistence", "redis_memory"}, result
    assert check(result, "bullmq_queue")["finding"] == "snapshot-queue, made by bullmq:5.66.4"
    assert "Docora's scheduler" in check(result, "drift_lost")["finding"]


def test_doctor_fails_where_links_are_pending_and_no_worker_runs(bullmq: Bullmq) -> None:
    bullmq.docora.add_link("pending_snapshot")
    bullmq.delay(bullmq.docora.add_link("synced"))
    result = bullmq.run("doctor", "--json", env=bullmq.environment(**ONE_LOOK))
    workers, scheduler = check(result, "workers"), check(result, "scheduler")
    assert (result.code, workers["state"], scheduler["state"]) == (6, "critical", "warning")
    assert "for 1 pending link and 1 job" in workers["finding"]
    assert scheduler["finding"] == "none is seen: Docora's own comes with its worker"
    assert workers["hint"] == scheduler["hint"] == "run Docora with RUN_MODE=all or worker"


def test_doctor_tells_a_paused_queue_and_another_version(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    docora.redis.hset(bullmq.key("meta"), "version", "bullmq:6.7.0")
    url = docora.redis_access.owner
    with redis.Redis.from_url(url, client_name=WORKER_NAME) as busy:  # it looks only each 30 s
        busy.ping()
        result = bullmq.run("doctor", "--json", env=bullmq.environment(**ONE_LOOK))
        workers, version = check(result, "workers"), check(result, "bullmq_queue")
        assert (workers["state"], version["state"]) == ("ok", "warning")
        assert "bullmq:6.7.0" in version["finding"]

        bullmq.pause(docora.add_link("pending_snapshot"))
        result = bullmq.run("doctor", "--json", env=bullmq.environment(**ONE_LOOK))
        workers = check(result, "workers")
    assert (result.code, workers["state"]) == (6, "critical")
    assert "the BullMQ queue is paused" in workers["finding"]
    screen = bullmq.run("status").stdout
    assert "the BullMQ queue is paused" in screen
    assert "docora-ops resume" not in screen


def changes(link: TestLink) -> Iterator[tuple[str, ...]]:
    """Commands that change something, each for real and as a dry run."""
    for command in (("retry", *link.ids), ("retry-all-failed",), ("resync", *link.ids)):
        yield (*command, *(() if command[0] == "retry" else ("--yes",)))
        yield (*command, "--dry-run")
    for option in ("--yes", "--dry-run"):
        yield ("repair", option)
        yield ("resync", link.app_id, "--all", option)


def test_in_rq_mode_a_bullmq_worker_without_an_rq_worker_is_pointed_out(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    link = docora.add_link()
    hint = "set DOCORA_OPS_BACKEND=bullmq"
    with bullmq.worker(lambda _job_id: None):
        result = docora.run("doctor", "--json", env=ONE_LOOK)
        found = check(result, "bullmq_queue")
        assert (result.code, found["state"], found["hint"]) == (6, "critical", hint)
        for name in ("workers", "scheduler", "drift_lost", "drift_stuck"):
            assert check(result, name)["state"] == "not_checked"
        docora.add_link("scanning")
        status = docora.run("status")
        assert (hint in status.stdout, status.stderr) == (True, "")
        assert hint in docora.run("status", "--json").stderr
        assert "Drift" not in status.stdout
        rows = docora.dump()[0]
        for command in (*changes(link), ("schedule",), ("schedule", "--dry-run")):
            refused = docora.run(*command, "--json", env=ONE_LOOK)
            assert (refused.code, refused.json["code"]) == (4, "wrong_backend"), refused
            assert hint in refused.stderr
        assert docora.dump()[0] == rows
        assert docora.redis.keys("rq:*") == []
        docora.add_worker()
        both = check(docora.run("doctor", "--json", env=ONE_LOOK), "bullmq_queue")
        assert both["hint"] == "run Docora with RUN_MODE=api"
        for arguments in ((), ("--burst",)):
            refused = docora.run("worker", *arguments, env={"ENCRYPTION_KEY": "0" * 64})
            assert refused.code == 4
            assert "a BullMQ worker of Docora is at work" in refused.stderr
    gone = check(docora.run("doctor", "--json", env=ONE_LOOK), "bullmq_queue")
    assert gone["state"] == "ok"


def test_in_bullmq_mode_a_worker_of_rq_is_pointed_out(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    link = docora.add_link()
    docora.add_worker()
    hint = "set DOCORA_OPS_BACKEND=rq"
    environment = bullmq.environment(**ONE_LOOK)
    result = bullmq.run("doctor", "--json", env=environment)
    found = check(result, "workers")
    assert (result.code, found["state"], found["hint"]) == (6, "critical", hint)
    assert check(result, "drift_stuck")["state"] == "not_checked"
    assert hint in bullmq.run("status").stdout
    before = docora.dump()
    for command in changes(link):
        refused = bullmq.run(*command, "--json")
        assert (refused.code, refused.json["code"]) == (4, "wrong_backend"), refused
    assert docora.dump() == before
    with bullmq.worker(lambda _job_id: None):
        both = check(bullmq.run("doctor", "--json", env=environment), "workers")
        assert both["hint"] == "stop the workers of RQ"
        assert "each link may be worked on twice" in bullmq.run("status").stderr
        assert bullmq.run("retry", *link.ids).code == 0
        for key in docora.redis.scan_iter("rq:workers*"):
            docora.redis.delete(key)
        docora.enqueue(link.job_id)
        left = check(bullmq.run("doctor", "--json", env=environment), "workers")
        assert (left["state"], "RQ's queue holds jobs" in left["finding"]) == ("critical", True)


HOURS_AGO = 3 * 3600


def age(bullmq: Bullmq, link: TestLink) -> None:
    """Lets a job be made hours ago."""
    key = bullmq.key(link.job_id)
    made_at = int(bullmq.docora.redis.hget(key, "timestamp") or 0)
    bullmq.docora.redis.hset(key, "timestamp", str(made_at - HOURS_AGO * 1000))


def test_the_oldest_job_waits_since_it_was_made_unless_it_was_retried_or_due(
    bullmq: Bullmq,
) -> None:
    docora = bullmq.docora
    link = docora.add_link("pending_snapshot")
    bullmq.add(link)
    age(bullmq, link)
    doctor = bullmq.run("doctor", "--json", env=bullmq.environment(**ONE_LOOK))
    assert check(doctor, "waiting_jobs")["state"] == "warning"
    assert "1, the oldest for 3 h" in check(doctor, "waiting_jobs")["finding"]
    assert bullmq.run("status", "--json").data["queue"]["oldest_waiting_seconds"] >= HOURS_AGO

    due = docora.add_link("pending_snapshot")
    bullmq.delay(due)
    bullmq.promote(due)
    overview = bullmq.run("queue", "--json").data
    assert overview["oldest_waiting_seconds"] is None
    assert {job["job_id"]: job["enqueued_at"] is None for job in overview["jobs"]} == {
        link.job_id: False,
        due.job_id: True,
    }
