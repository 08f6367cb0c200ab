"""What the commands that only read tell of a Docora with BullMQ workers."""

from typing import Any

import redis

from tests.support.bullmq import WORKER_NAME, Bullmq
from tests.support.diagnoses import ONE_LOOK, check
from tests.support.docora import Docora
from tests.support.rows import GITHUB_TOKEN, TestLink


def examine(bullmq: Bullmq, name: str) -> Any:
    """This check of `doctor`, which exits with 6 if it is critical."""
    result = bullmq.run("doctor", "--json", env=bullmq.environment(**ONE_LOOK))
    found = check(result, name)
    assert result.code == 6 or found["state"] != "critical"
    return found


def test_status_and_queue_tell_the_counts_the_oldest_and_the_worker(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    waiting, delayed, active = (docora.add_link("pending_snapshot") for _ in range(3))
    bullmq.start(active)
    bullmq.add(waiting)
    bullmq.delay(delayed)

    status = bullmq.run("status", "--json").data
    counts = {"waiting": 1, "active": 1, "delayed": 1, "completed_jobs": 0, "failed_jobs": 0}
    expected = counts | {"backend": "bullmq", "workers": []}
    assert {name: status["queue"][name] for name in expected} == expected
    assert status["queue"]["oldest_waiting_seconds"] >= 0
    assert status["drift"] == {"lost": 0, "stuck": 0, "at_least": False}
    screen = bullmq.run("status")
    assert "none seen; to start one: run Docora with RUN_MODE=all or worker" in screen.stdout
    assert "docora-ops worker" not in screen.stdout

    jobs = bullmq.run("queue", "--json").data["jobs"]
    assert [(job["job_id"], job["status"]) for job in jobs] == [
        *((active.job_id, "active"), (waiting.job_id, "waiting"), (delayed.job_id, "delayed"))
    ]
    names = {(job["app_name"], job["repository_name"]) for job in jobs}
    assert names == {("Acme Search", "octo/api")}
    assert jobs[2]["due_at"] > jobs[2]["created_at"]
    docora.add_link("pending_snapshot")
    bullmq.add(docora.add_link("pending_snapshot"))
    of_apps = [word for link in (active, delayed) for word in ("--app", link.app_id)]
    found = bullmq.run("queue", *of_apps, "--json").data
    assert (found["jobs"], found["jobs_of_apps"]) == ([jobs[0], jobs[2]], 2)
    bullmq.expire_lock(active)
    with bullmq.worker(lambda _job_id: None):
        assert len(bullmq.run("status", "--json").data["queue"]["workers"]) == 2, "both connections"
        assert "no BullMQ worker" not in bullmq.run("queue").stderr


def test_show_tells_the_state_the_tries_and_the_masked_failure(bullmq: Bullmq) -> None:
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
    screen = bullmq.run("show", *link.ids, "--all").stdout
    assert "Job attempts\t1\nJob retries left\t4\n" in screen

    stalled = docora.add_link("scanning")
    bullmq.stall(stalled)
    assert bullmq.run("status", "--json").data["drift"]["stuck"] == 0
    assert examine(bullmq, "workers")["state"] == "critical"
    shown = bullmq.run("show", *stalled.ids, "--json").data
    assert (shown["job"], shown["job_record"]["status"]) == ("running", "active")


def test_doctor_tells_what_is_wrong_with_workers_jobs_and_version(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    docora.add_link("pending_snapshot")
    bullmq.delay(docora.add_link("synced"))
    workers = examine(bullmq, "workers")
    assert workers["state"] == "critical"
    assert "for 1 pending link and 1 job" in workers["finding"]
    assert workers["hint"] == "run Docora with RUN_MODE=all or worker"
    assert "Docora's scheduler" in examine(bullmq, "drift_lost")["finding"]
    docora.redis.hset(bullmq.key("meta"), "version", "bullmq:6.7.0")
    url = docora.redis_access.owner
    with redis.Redis.from_url(url, client_name=WORKER_NAME) as busy:  # it looks only each 30 s
        busy.ping()
        assert examine(bullmq, "workers")["state"] == "ok"
        version = examine(bullmq, "bullmq_queue")
        assert (version["state"], "bullmq:6.7.0" in version["finding"]) == ("warning", True)
        bullmq.pause(docora.add_link("pending_snapshot"))
        workers = examine(bullmq, "workers")
    assert workers["state"] == "critical"
    assert "the BullMQ queue is paused" in workers["finding"]


def refuse_changes(docora: Docora, link: TestLink, env: dict[str, str], hint: str) -> None:
    rows = docora.dump()[0]
    for command in (
        ("retry", *link.ids),
        ("retry-all-failed", "--dry-run"),
        ("resync", link.app_id, "--all", "--yes"),
        ("repair", "--yes"),
    ):
        refused = docora.run(*command, "--json", env={**ONE_LOOK, **env})
        assert (refused.code, refused.json["code"]) == (4, "wrong_backend"), refused
        assert hint in refused.stderr
    assert docora.dump()[0] == rows


def test_in_rq_mode_a_bullmq_worker_without_an_rq_worker_is_pointed_out(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    link = docora.add_link()
    hint = "set DOCORA_OPS_BACKEND=bullmq"
    with bullmq.worker(lambda _job_id: None):
        result = docora.run("doctor", "--json", env=ONE_LOOK)
        found = check(result, "bullmq_queue")
        assert (result.code, found["state"], found["hint"]) == (6, "critical", hint)
        for name in ("workers", "delayed_jobs", "drift_lost", "drift_stuck"):
            assert check(result, name)["state"] == "not_checked"
        docora.add_link("scanning")
        status = docora.run("status")
        assert (hint in status.stdout, "Drift" in status.stdout) == (True, False)
        refuse_changes(docora, link, {}, hint)
        assert docora.run("schedule", env=ONE_LOOK).code == 4
        assert docora.redis.keys("rq:*") == []
        docora.add_worker()
        both = check(docora.run("doctor", "--json", env=ONE_LOOK), "bullmq_queue")
        assert both["hint"] == "run Docora with RUN_MODE=api"
        refused = docora.run("worker", env={"ENCRYPTION_KEY": "0" * 64})
        assert refused.code == 4
        assert "a BullMQ worker of Docora is at work" in refused.stderr


def test_in_bullmq_mode_a_worker_of_rq_is_pointed_out(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    link = docora.add_link()
    docora.add_worker()
    hint = "set DOCORA_OPS_BACKEND=rq"
    found = examine(bullmq, "workers")
    assert (found["state"], found["hint"]) == ("critical", hint)
    assert examine(bullmq, "drift_stuck")["state"] == "not_checked"
    assert hint in bullmq.run("status").stdout
    refuse_changes(docora, link, bullmq.environment(), hint)
    with bullmq.worker(lambda _job_id: None):
        assert examine(bullmq, "workers")["hint"] == "stop the workers of RQ"
        assert "each link may be worked on twice" in bullmq.run("status").stderr
        assert bullmq.run("retry", *link.ids).code == 0
        for key in docora.redis.scan_iter("rq:workers*"):
            docora.redis.delete(key)
        docora.enqueue(link.job_id)
        left = examine(bullmq, "workers")
        assert (left["state"], "RQ's queue holds jobs" in left["finding"]) == ("critical", True)
