"""The queue's list is read once, and no id that stands in it is ever missed."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import takewhile
from typing import Any, cast

import pytest
from pydantic import SecretStr
from rq.utils import now, utcformat

from docora_ops.actions.bulk import run as bulk
from docora_ops.jobs import JobState
from docora_ops.links import Outcome
from docora_ops.queue import connect
from docora_ops.queue.link_queue import PushRequest
from docora_ops.queue.rq_queue import RqQueue
from docora_ops.queue.waiting_list import NOT_IN_LIST
from tests.support.docora import WIP, Docora
from tests.support.proxy import Fault, Proxy

KEY = "rq:queue:snapshot-queue"


def test_every_id_is_found_at_its_index(docora: Docora) -> None:
    ids = [f"job-{number}" for number in range(25_000)]
    docora.redis.rpush(KEY, *ids, "twice", "once", "twice")
    found = docora.actions().queue.read_waiting()
    assert [found.hint(job_id) for job_id in ids] == list(map(str, range(25_000)))
    assert (found.hint("twice"), found.hint("once")) == ("25000,25002", "25001")
    for absent in ("job-", "job-25000", "job", "", "ob-1"):
        assert found.hint(absent) == NOT_IN_LIST


# What the script makes of the hints


@pytest.mark.parametrize("shift", ["pop", "push to head", "push", "remove", "reverse"])
def test_hints_are_checked_against_a_list_that_has_shifted(docora: Docora, shift: str) -> None:
    ids = [f"job-{number}" for number in range(60)]
    for job_id in ids:
        docora.enqueue(job_id)
    actions = docora.actions()
    found = actions.queue.read_waiting()
    match shift:
        case "pop":
            docora.redis.lpop(KEY, 7)
        case "push to head":
            docora.redis.lpush(KEY, *(f"new-{number}" for number in range(7)))
        case "push":
            docora.redis.rpush(KEY, *(f"new-{number}" for number in range(7)))
        case "remove":
            for job_id in ids[::7]:
                docora.redis.lrem(KEY, 0, job_id)
        case _:
            docora.redis.delete(KEY)
            docora.redis.rpush(KEY, *reversed(ids))
    standing = set(docora.waiting())
    confirm = [PushRequest(job_id, None, is_rescan=False) for job_id in ids]
    answers = actions.queue.push(confirm, waiting=found)
    assert [answer.state for answer in answers] == [
        JobState.WAITING if job_id in standing else JobState.DOUBTFUL for job_id in ids
    ]


def test_a_look_takes_the_list_as_it_was_read_unless_the_job_has_ended(docora: Docora) -> None:
    for job_id in ("popped", "failed"):
        docora.enqueue(job_id)
    actions = docora.actions()
    found = actions.queue.read_waiting()
    docora.redis.delete(KEY)
    docora.redis.hset("rq:job:failed", "status", "failed")
    with docora.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        answers = actions.queue.look(["popped", "failed"], waiting=found)
        docora.redis.echo("the end")
        commands = list(takewhile(lambda each: each["command"] != "ECHO the end", monitor.listen()))
    assert [answer.state for answer in answers] == [JobState.WAITING, JobState.NONE]
    assert sum(each["command"].startswith("LINDEX") for each in commands) == 1


@pytest.mark.parametrize("change", ["push and pop", "remove what was read", "move it"])
def test_a_long_list_is_read_in_pieces_while_it_changes(docora: Docora, change: str) -> None:
    ids = [f"job-{number}" for number in range(12_345)]
    docora.redis.rpush(KEY, *ids)
    with Proxy.before_redis(docora.redis_url) as proxy, ThreadPoolExecutor() as threads:
        settings = docora.settings.model_copy(update={"redis_url": SecretStr(proxy.url)})
        second = proxy.plan(b"LRANGE", Fault.HOLD_REQUEST, number=2)
        all_at_once = proxy.plan(b"\r\n0\r\n$2\r\n-1\r\n", number=99)
        reading = threads.submit(RqQueue(settings, connect(settings)).read_waiting)
        second.wait()
        if change == "push and pop":
            docora.redis.rpush(KEY, *(f"new-{number}" for number in range(70)))
            docora.redis.lpop(KEY, 80)
        elif change == "remove what was read":
            docora.redis.ltrim(KEY, 0, -101)
        else:
            docora.redis.lrem(KEY, 0, ids[-5001])
            docora.redis.linsert(KEY, "BEFORE", ids[-9000], ids[-5001])
        second.release()
        found = reading.result()
    for job_id in docora.waiting():
        assert found.hint(job_id) != NOT_IN_LIST or job_id.startswith("new-"), job_id
    assert not all_at_once.requests


# At size


def add_jobs(docora: Docora) -> None:
    """A job for each failed link."""
    docora.actions().retry_all(batch_size=1000)
    docora.connection.execute("UPDATE app_repositories SET status = 'failed'")


@pytest.mark.parametrize("command", ["doctor", "repair", "schedule"])
def test_a_look_at_all_jobs_is_linear_and_made_of_short_scripts(
    docora: Docora, command: str
) -> None:
    docora.add_links(2_000)
    docora.actions().retry_all(batch_size=1000)
    docora.age_links()
    docora.redis.config_resetstat()
    dry_run = [] if command == "doctor" else ["--dry-run"]
    assert docora.run(command, *dry_run, env={"DOCORA_OPS_DRIFT_GRACE": "0"}).code in {0, 6}
    calls = {name: each["calls"] for name, each in docora.redis.info("commandstats").items()}
    assert "cmdstat_lindex" not in calls, "each walks over the list"
    assert calls["cmdstat_evalsha"] >= 2_000 / 500
    if command != "schedule":
        assert calls["cmdstat_evalsha"] >= 2_000 / 250


def list_walks(docora: Docora) -> int:
    """How often Redis has been asked for something that makes it walk over a list."""
    found = docora.redis.info("commandstats")
    return sum(found.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("lpos", "lrange"))


@pytest.mark.parametrize(
    ("status", "outcome"), [("failed", Outcome.REPLACED_STALE), ("finished", Outcome.QUEUED)]
)
def test_jobs_of_a_host_that_is_an_hour_ahead_do_not_make_each_batch_walk_over_the_list(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, status: str, outcome: Outcome
) -> None:
    docora.add_links(1000)
    add_jobs(docora)
    docora.redis.delete(KEY)
    ahead = utcformat(now() + timedelta(hours=1))
    for link in docora.links():
        fields = {"status": status, "enqueued_at": ahead}
        docora.redis.hset(f"rq:job:{link.job_id}", mapping=cast("Any", fields))
    # One of them has been enqueued again since the list was read.
    again = docora.links()[500].job_id
    docora.redis.rpush(KEY, *(f"other-{number}" for number in range(100)))
    monkeypatch.setattr(bulk, "SECOND_LOOK_DELAY", 0)
    docora.redis.config_resetstat()

    def enqueue_again(done: int) -> None:
        if done and again not in docora.waiting():
            docora.enqueue(again)

    def prepare(run: bulk.BulkRun) -> None:
        run.on_progress = enqueue_again

    result = docora.actions().retry_all(batch_size=20, prepare=prepare)
    assert result.counts == {outcome: 999, Outcome.ALREADY_QUEUED: 1}
    # 50 batches: a hundred walks at most in each round, and some chunks of the list.
    assert list_walks(docora) < 250
    docora.assert_sound()


def test_executions_that_have_expired_are_read_once_in_a_run_and_cleaned_away(
    docora: Docora,
) -> None:
    docora.add_links(200)
    for link in docora.links()[:50]:
        docora.start_job(link.job_id, heartbeat=-30)
    docora.redis.zadd(WIP, {f"other-{number}:e": 1 + number for number in range(12_000)})
    with docora.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        docora.actions().retry(docora.links()[-1])
        result = docora.actions().retry_all(batch_size=10)
        docora.redis.echo("the end")
        commands = list(takewhile(lambda each: each["command"] != "ECHO the end", monitor.listen()))
    assert result.counts == {Outcome.REPLACED_STALE: 50, Outcome.QUEUED: 149}
    assert docora.redis.zcard(WIP) == 12_000
    ranges = [
        (each["client_type"], each["command"].split()[2])
        for each in commands
        if each["command"].startswith(f"ZRANGE {WIP} ")
    ]
    # Scripts read what expires later. Each action reads the expired ones once.
    assert all(float(start) > 13_000 for kind, start in ranges if kind == "lua")
    assert [start for kind, start in ranges if kind != "lua"] == ["-inf"] * 2
    docora.assert_sound()


def test_more_jobs_run_than_a_script_reads_executions_at_once(docora: Docora) -> None:
    links = [docora.add_link("failed") for _ in range(2)]
    for link in links:
        docora.start_job(link.job_id)
    in_a_minute = docora.redis.time()[0] + 60
    docora.redis.zadd(WIP, {f"other-{number}:e": in_a_minute + number for number in range(1200)})
    docora.redis.delete(*docora.redis.keys("rq:execution*"))
    assert docora.actions().retry(links[0]).outcome is Outcome.ALREADY_RUNNING
    assert docora.actions().retry_all().counts == {Outcome.ALREADY_RUNNING: 2}


def test_a_hundred_thousand_expired_executions_of_one_job_take_no_long_time(docora: Docora) -> None:
    link = docora.add_link()
    for start in range(0, 100_000, 10_000):
        numbers = range(start, start + 10_000)
        docora.redis.zadd(WIP, {f"{link.job_id}:{number}": 1 + number for number in numbers})
    began = time.monotonic()
    docora.actions().drift()
    assert docora.actions().retry_all().counts == {Outcome.REPLACED_STALE: 1}
    assert time.monotonic() - began < 20
    assert docora.redis.zcard(WIP) == 0


def test_an_expired_execution_that_is_not_utf_8_stops_nothing(docora: Docora) -> None:
    link = docora.add_link()
    docora.redis.zadd(WIP, {link.job_id.encode() + b":\xff": 1})
    assert docora.actions().retry_all().counts == {Outcome.QUEUED: 1}
    assert docora.actions().drift().total == 0


def test_twenty_thousand_waiting_jobs_are_all_kept_and_none_is_doubled(docora: Docora) -> None:
    docora.add_links(20_000, apps=4)
    add_jobs(docora)
    waiting_before = docora.waiting()
    result = docora.actions().retry_all()
    assert result.counts == {Outcome.ALREADY_QUEUED: 20_000}
    assert docora.waiting() == waiting_before
    assert docora.statuses() == {"pending_snapshot": 20_000}


def test_workers_that_pop_while_waiting_jobs_are_retried_cause_no_double(docora: Docora) -> None:
    docora.add_links(5_000)
    add_jobs(docora)
    actions = docora.actions()
    popped: list[bytes] = []

    def pop(done: int) -> None:
        popped.extend(cast("list[bytes]", docora.redis.lpop(KEY, 37)))

    def prepare(run: bulk.BulkRun) -> None:
        run.on_progress = pop

    result = actions.retry_all(prepare=prepare)
    # A job that a worker has taken is doubtful, and stale if it is in no list at the second look.
    assert result.completed == result.succeeded == 5_000
    assert docora.doubled_jobs() == []
