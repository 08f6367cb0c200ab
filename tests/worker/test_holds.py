"""Holds at work: what a worker and its snapshots send to an app that is held, and what after."""

import time
from collections import Counter

import pytest
import redis

from docora_ops.errors import SnapshotError
from docora_ops.queue import holds
from docora_ops.queue.holds import HOLDS
from docora_ops.queue.rq_jobs import JOB_FUNCTION
from docora_ops.worker import snapshot_job
from tests.support.delivery_checks import link_row
from tests.support.docora import QUEUE, Docora
from tests.support.privileges import without_rule
from tests.support.proxy import eventually
from tests.support.receiver import CREATED, Request
from tests.support.snapshots import Files, Snapshots
from tests.support.worker_processes import (
    expire_heartbeats,
    held_worker,
    make_delayed_jobs_due,
    running,
)

FILES: Files = {name: f"{name}\n" for name in "abcd"}


def sent(snapshots: Snapshots, app: str = "Acme") -> list[str]:
    return [request.path for request in snapshots.received(app).requests]


def await_more_files(snapshots: Snapshots, app: str) -> None:
    goal = len(sent(snapshots, app)) + 2
    eventually(lambda: len(sent(snapshots, app)) >= goal, f"files sent to {app}")


def test_a_running_snapshot_stops_before_its_next_file_and_goes_on_after_the_release(
    snapshots: Snapshots, docora: Docora
) -> None:
    link, _ = snapshots.add_queued(FILES, max_retry_attempts=3)
    with held_worker(snapshots) as (gate, worker):
        held = docora.run("hold", link.app_id, "--json", "--reason", "wrong URL")
        assert (held.code, held.data["running"], held.data["waiting"]) == (0, 1, 0), held
        gate.release()
        worker.await_line("queued again; no failure is counted: the app is held by ")
        assert "wrong URL; 2 files of this snapshot already sent" in worker.log
        eventually(lambda: docora.waiting() == [link.job_id], "the job in the list")
        assert sent(snapshots) == ["a", "b"]
        assert link_row(snapshots, link) == ("pending_snapshot", 0, None)
        assert docora.job(link).retries_left == 2
        shown = docora.run("show", *link.ids)
        assert "some of its files are out" in shown.stdout, shown
        assert docora.run("doctor", "--json").data["drift"]["total"] == 0
        # A job of another app shows that the worker goes on, and passes over the held one.
        repository = docora.one("SELECT repository_id FROM repositories")
        other = snapshots.link(snapshots.add_app("Other"), repository)
        snapshots.queue(other)
        eventually(lambda: docora.status(other) == "synced", "the other app's link")
        assert docora.waiting() == [link.job_id]
        docora.run("release", link.app_id).ended(0)
        eventually(lambda: docora.status(link) == "synced", "the released link")
        worker.stop()
    assert worker.log.count("Acme ← octo/api: began, try 1 of 5") == 2
    assert sent(snapshots) == ["a", "b", "c", "d"]
    docora.assert_sound()


@pytest.mark.slow
def test_an_exempted_job_runs_with_all_its_tries_and_no_later_one(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    link, upstream = snapshots.add_link(FILES)
    docora.run("hold", link.app_id).ended(0)
    answers = iter([500])
    snapshots.receiver.answer = lambda request: (
        next(answers, CREATED) if request.path == "c" else CREATED
    )
    env = {"RETRY_BASE_DELAY_MS": "60000"}
    assert docora.run("retry", *link.ids, "--now", env=env).code == 0
    assert "failed after" in snapshots.work().stderr
    assert docora.redis.zcard(f"rq:scheduled:{QUEUE}") == 1
    make_delayed_jobs_due(docora)
    second = snapshots.work().ended(0)
    assert docora.status(link) == "synced", second
    assert sent(snapshots) == ["a", "b", "c", "c", "d"]
    # Another program queues the link as before: its job is held.
    upstream.commit({"e": "e\n"})
    docora.job(link).delete()
    arguments = {"app_id": link.app_id, "repository_id": link.repository_id}
    docora.queue.enqueue(JOB_FUNCTION, job_id=link.job_id, description="other", kwargs=arguments)
    third = snapshots.work()
    assert "the apps of all waiting jobs are held" in third.stderr, third
    assert docora.waiting() == [link.job_id]
    assert len(sent(snapshots)) == 5


def test_a_snapshot_waits_while_it_can_not_ask_whether_its_app_is_held(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = snapshots.add_link(FILES)
    errors = iter(
        [
            redis.ConnectionError("away"),
            redis.TimeoutError("too slow"),
            redis.AuthenticationError("its users are forgotten"),
            redis.ResponseError("ERR of its own"),
        ]
    )
    seen: list[int] = []

    def find_hold(client: redis.Redis, job_id: str, now: float) -> object:
        seen.append(len(sent(snapshots)))
        if error := next(errors, None):
            raise error
        return holds.find_hold(client, job_id, now)

    monkeypatch.setattr(snapshot_job, "find_hold", find_hold)
    monkeypatch.setattr(snapshot_job, "_REDIS_PAUSE", 0)
    snapshots.run_job(link)
    assert seen == [0, 0, 0, 0, 0, 1, 2, 3]
    assert snapshots.docora.status(link) == "synced"


def test_a_snapshot_stops_if_nobody_can_know_which_apps_are_held(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued(FILES)
    snapshots.docora.redis.set(HOLDS, "no hash")
    snapshots.work().ended(5, says=f"wrong kind of value at {HOLDS}")
    with pytest.raises(SnapshotError, match="the app is held by unknown for ever: its entry in"):
        snapshots.run_job(link)
    assert link_row(snapshots, link) == ("pending_snapshot", 0, None)
    assert sent(snapshots) == []


def test_a_held_app_is_not_told_of_an_open_circuit(snapshots: Snapshots, docora: Docora) -> None:
    snapshots.settings_changes = {"circuit_breaker_threshold": 1}
    links = snapshots.add_links(["Acme", "Other"])
    docora.run("hold", links["Acme"].app_id).ended(0)
    docora.connection.execute("UPDATE repositories SET github_url = 'file:///nowhere'")
    with pytest.raises(SnapshotError):
        snapshots.run_job(links["Other"])
    assert [request.event for request in snapshots.received("Other").requests] == ["sync_failed"]
    assert snapshots.received("Acme").requests == []


def test_a_worker_whose_user_may_not_read_holds_works_on_and_is_named(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_queued(FILES)
    name = docora.redis_access.worker_name
    rule = "%R~docora-ops:holds"
    with (
        without_rule(docora.redis, rule, "docora-worker", name),
        held_worker(snapshots, "--name", "old") as (gate, worker),
    ):
        refused = docora.run("hold", link.app_id, "--json")
        assert (refused.code, refused.json["worker_names"]) == (4, ["old"]), refused
        [shown] = docora.run("queue", "--json").data["workers"]
        assert shown["obeys_holds"] is False
        gate.release()
        eventually(lambda: docora.status(link) == "synced", "the link")
        worker.stop()
    docora.redis.acl_log_reset()


@pytest.mark.slow
def test_a_plain_worker_stops_too_and_its_job_is_not_lost(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_queued(FILES, max_retry_attempts=2)
    docora.run("hold", link.app_id).ended(0)
    for _ in range(3):  # more often than it has tries
        snapshots.work_here()
        assert docora.waiting() + docora.queue.scheduled_job_registry.get_job_ids() == [link.job_id]
        assert docora.status(link) == "pending_snapshot"
        make_delayed_jobs_due(docora)
        docora.queue.scheduled_job_registry.remove(docora.job(link))
        docora.redis.rpush(docora.queue.key, link.job_id)
        docora.job(link).set_status("queued")  # type: ignore[arg-type]
    assert sent(snapshots) == []
    tries = docora.run("show", *link.ids, "--json").data["tries"]
    assert [each["outcome"] for each in tries] == ["held"] * 3


@pytest.mark.slow
def test_kills_while_an_app_is_held_lose_and_double_nothing(snapshots: Snapshots) -> None:
    docora, most, kills = snapshots.docora, {"max_retry_attempts": 20}, 3
    repositories = []
    for number in range(5):
        upstream = snapshots.add_upstream(f"octo/r{number}")
        upstream.commit(FILES)
        repositories.append(snapshots.add_repository(upstream, f"octo/r{number}"))
    apps = {name: snapshots.add_app(name) for name in ("Held", "Other")}
    links = [
        snapshots.link(app, repository) for repository in repositories for app in apps.values()
    ]

    def answer(_: Request) -> int:
        time.sleep(0.05)  # so that a kill meets jobs
        return CREATED

    snapshots.receiver.answer = answer
    for link in links:
        snapshots.queue(link, **most)
    arguments, environment = ("--concurrency", "2"), {"MAX_RETRY_ATTEMPTS": "20"}
    before: list[str] = []
    for kill in range(kills):
        expire_heartbeats(docora)
        with running(snapshots, *arguments, **environment) as worker:
            await_more_files(snapshots, "Other" if kill else "Held")
            if not kill:
                docora.run("hold", links[0].app_id).ended(0)
                eventually(lambda: not docora.redis.keys(f"rq:execution:{apps['Held']}*"), "stops")
                before = sent(snapshots, "Held")
        assert sent(snapshots, "Held") == before
    expire_heartbeats(docora)
    with running(snapshots, *arguments, **environment) as worker:
        eventually(lambda: len(sent(snapshots, "Other")) >= 20, "all files of the other app")
        assert sent(snapshots, "Held") == before
        docora.run("release", links[0].app_id).ended(0)
        eventually(lambda: docora.statuses() == {"synced": len(links)}, "all links")
        worker.stop()
    docora.assert_sound()
    received = Counter(
        (request.app, request.json["repository"]["repository_id"], request.path)
        for app in apps
        for request in snapshots.received(app).requests
    )
    assert len(received) == len(links) * len(FILES)
    # A file whose delivery a killed job had not yet recorded is sent again.
    assert received.total() <= len(received) + 2 * kills
