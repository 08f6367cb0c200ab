"""What the commands that only read tell of a Docora with BullMQ workers."""

import re
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from docora_ops.queue import redis_signs
from docora_ops.queue.holds import HOLDS
from tests.support.bullmq import WORKER_NAME, Bullmq
from tests.support.diagnoses import ONE_LOOK, check
from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.rows import GITHUB_TOKEN, TestLink


def examine(bullmq: Bullmq, name: str) -> Any:
    """This check of `doctor`, which exits with 6 if it is critical."""
    result = bullmq.run("doctor", "--json", env=bullmq.environment(**ONE_LOOK))
    found = check(result, name)
    assert result.code == 6 or found["state"] != "critical"
    return found


@pytest.fixture
def jobs(bullmq: Bullmq) -> dict[str, TestLink]:
    """Links with one job of each live state."""
    links = {
        state: bullmq.docora.add_link("pending_snapshot")
        for state in ("active", "waiting", "delayed")
    }
    bullmq.start(links["active"])
    bullmq.add(links["waiting"])
    bullmq.delay(links["delayed"])
    return links


def test_status_counts_the_jobs_of_each_state(bullmq: Bullmq, jobs: dict[str, TestLink]) -> None:
    status = bullmq.run("status", "--json").data
    counts = {"waiting": 1, "active": 1, "delayed": 1, "completed_jobs": 0, "failed_jobs": 0}
    expected = counts | {"backend": "bullmq", "workers": []}
    assert {name: status["queue"][name] for name in expected} == expected
    assert status["queue"]["oldest_waiting_seconds"] >= 0
    assert status["drift"] == {"lost": 0, "stuck": 0, "at_least": False}


def test_status_says_how_docora_starts_a_worker(bullmq: Bullmq) -> None:
    screen = bullmq.run("status").stdout
    assert "none seen; to start one: run Docora with RUN_MODE=all or worker" in screen
    assert "docora-ops worker" not in screen


def test_status_begins_with_a_missing_worker_as_soon_as_a_link_is_due(bullmq: Bullmq) -> None:
    bullmq.docora.add_link("synced", scanned=timedelta(seconds=50))
    bullmq.docora.add_link("pending_snapshot")
    assert examine(bullmq, "workers")["state"] == "critical"
    shown, document = bullmq.run("status").stdout, bullmq.run("status", "--json").data
    assert document["headline"]["code"] == "no_worker"
    assert re.match("no BullMQ worker is seen; last scan 5[0-9]s ago\n", shown), shown


def test_a_hold_of_an_earlier_time_with_rq_hides_no_link(bullmq: Bullmq, docora: Docora) -> None:
    link = docora.add_link("synced", scanned=timedelta(days=2))
    docora.redis.hset(HOLDS, link.app_id, '{"until": null}')
    assert examine(bullmq, "freshness")["state"] == "critical"
    assert bullmq.run("status", "--json").data["freshness"]["overdue"] == 1
    listed = bullmq.run("links", "--overdue", "--json").data
    assert [row["repository_id"] for row in listed] == [link.repository_id]
    [app] = bullmq.run("apps", "--json").data
    page, details = (bullmq.run("show", *ids, "--json").data for ids in (link.ids[:1], link.ids))
    assert (app["held"], page["held"], details["held"]) == (None, None, None)
    assert page["overdue"] == 1
    assert bullmq.run("verify", "--json").data["held"] == []
    docora.set_link(link, status="failed")
    assert bullmq.run("retry-all-failed", "--yes", "--json").data["total"] == 1


def test_show_waits_for_a_pending_link_that_docora_itself_queues(bullmq: Bullmq) -> None:
    link = bullmq.docora.add_link("pending_snapshot")
    assert f"Next\tdocora-ops wait {' '.join(link.ids)}\n" in bullmq.run("show", *link.ids).stdout


def test_queue_names_the_links_of_its_jobs(bullmq: Bullmq, jobs: dict[str, TestLink]) -> None:
    listed = bullmq.run("queue", "--json").data["jobs"]
    states = [(job["job_id"], job["status"]) for job in listed]
    assert states == [(link.job_id, state) for state, link in jobs.items()]
    names = {(job["app_name"], job["repository_name"]) for job in listed}
    assert names == {("Acme Search", "octo/api")}
    *_, delayed = listed
    assert delayed["due_at"] > delayed["created_at"]
    chosen = [jobs["active"], jobs["delayed"]]
    options = [word for link in chosen for word in ("--app", link.app_id)]
    queue = bullmq.run("queue", *options, "--json").data
    assert [job["job_id"] for job in queue["jobs"]] == [link.job_id for link in chosen]
    assert queue["jobs_of_apps"] == 2


def workers_of(bullmq: Bullmq) -> list[object]:
    found: list[object] = bullmq.run("status", "--json").data["queue"]["workers"]
    return found


def test_status_and_queue_see_a_worker(bullmq: Bullmq) -> None:
    bullmq.add(bullmq.docora.add_link("pending_snapshot"))
    assert "no BullMQ worker" in bullmq.run("queue").stderr
    with bullmq.worker(lambda _job_id: None):
        # The second connection follows the first.
        eventually(lambda: len(workers_of(bullmq)) == 2, "both connections")
        assert "no BullMQ worker" not in bullmq.run("queue").stderr


def test_a_worker_that_reconnects_is_seen(
    bullmq: Bullmq, docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Redis stood still, Docora's worker has no connection for a second."""
    docora.redis.set(bullmq.key("stalled-check"), "1", px=30_000)
    with redis.Redis.from_url(docora.redis_access.owner, client_name=WORKER_NAME) as worker:
        monkeypatch.setattr(redis_signs, "time", SimpleNamespace(sleep=lambda _: worker.ping()))
        assert redis_signs.read_signs(docora.redis).bullmq.workers == 1


@pytest.mark.slow
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
    assert "Job attempts\t1\nJob retries left\t4\n" in bullmq.run("show", *link.ids, "--all").stdout

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
        refused = docora.run(*command, "--json", env={**ONE_LOOK, **env}).ended(4, "wrong_backend")
        assert hint in refused.stderr
    assert docora.dump()[0] == rows


@pytest.mark.slow
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
        refused = docora.run("worker", env={"ENCRYPTION_KEY": "0" * 64}).ended(4)
        assert "a BullMQ worker of Docora runs" in refused.stderr


@pytest.mark.slow
def test_in_bullmq_mode_a_worker_of_rq_is_pointed_out(bullmq: Bullmq, docora: Docora) -> None:
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
