"""No app holds up the others: each has its share of the slots, and the jobs of held apps wait."""

import json
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, cast

import pytest
import redis
from rq.executions import Execution
from rq.job import Job, JobStatus

from docora_ops.queue import connect, take
from docora_ops.queue.holds import read_holds
from docora_ops.queue.redis_client import text_of
from docora_ops.queue.take import JobTaker, TakeResult
from docora_ops.worker import rq_worker
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.docora import QUEUE, Docora
from tests.support.proxy import eventually
from tests.support.raw_app import RawApp, Talk, raw_app
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import expire_heartbeats, make_delayed_jobs_due, running

LIST, HOLDS = f"rq:queue:{QUEUE}", "docora-ops:holds"
INTERMEDIATE = f"{LIST}:intermediate"


class Desk:
    """Takes jobs as workers do, whose number is that of the slots, and ends them. Runs none."""

    def __init__(self, docora: Docora, slots: int, *, reserves: bool = True) -> None:
        self._docora, self._client = docora, redis.Redis.from_url(docora.redis_access.worker)
        self.taken: list[str] = []
        self._runs: dict[str, Execution] = {}
        self.slots = [JobTaker(self._client, reserves=reserves) for _ in range(slots)]
        self._names = [f"worker-{number}" for number in range(slots)]
        for name in self._names:
            docora.add_worker(name)

    def close(self) -> None:
        self._client.close()

    def wait(self, *job_ids: str, front: bool = False) -> None:
        for job_id in job_ids:
            (self._docora.redis.lpush if front else self._docora.redis.rpush)(LIST, job_id)

    def take(self, slot: int = 0, *, begins: bool = True) -> str:
        """The id of the job that is taken, or what was found."""
        result, job_id = self.slots[slot].take()
        while result is TakeResult.MORE:
            result, job_id = self.slots[slot].take()
        if result is TakeResult.EMPTY and (waiting := self._docora.waiting()):
            self.slots[slot].wait(1)  # takes nothing
            assert self._docora.waiting() == waiting
            result, job_id = self.slots[slot].take()
        if result is not TakeResult.TAKEN:
            return result.value
        self.taken.append(job_id)
        if begins:
            job = self._docora.leave_job(job_id, JobStatus.STARTED)
            with self._docora.redis.pipeline() as pipeline:
                name = self._names[slot]
                self._runs[job_id] = Execution.create(job, 90, pipeline, worker_name=name)
                pipeline.lrem(INTERMEDIATE, 1, job_id)
                pipeline.execute()
        return job_id

    def take_all(self) -> list[str]:
        """What each slot takes."""
        taken = [self.take(slot) for slot in range(len(self.slots))]
        return [job_id for job_id in taken if job_id not in set(TakeResult)]

    def end(self, job_id: str) -> None:
        with self._docora.redis.pipeline() as pipeline:
            run = self._runs.pop(job_id)
            run.delete(run.job, pipeline)
            pipeline.execute()

    def running(self) -> list[str]:
        return sorted(job_id.partition("-")[0] for job_id in self._runs)


@contextmanager
def desk(docora: Docora, slots: int, *, reserves: bool = True) -> Iterator[Desk]:
    desk = Desk(docora, slots, reserves=reserves)
    yield desk
    desk.close()


def jobs(app: str, size: int) -> list[str]:
    return [f"{app}-{number}" for number in range(size)]


def exempt(docora: Docora, job_id: str) -> None:
    docora.redis.hset(f"rq:job:{job_id}", "created_at", "a moment")
    docora.redis.hset(HOLDS, f"now:{job_id}", "a moment")


def hold(docora: Docora, app_id: str, until: int | None = None, reason: str | None = None) -> None:
    entry = {"since": 0, "until": until, "who": "kim", "reason": reason}
    docora.redis.hset(HOLDS, app_id, json.dumps(entry))


# The share


@pytest.mark.parametrize(
    ("slots", "waiting", "expected"),
    [
        (1, "a", "a"),
        (2, "a", "a"),
        (5, "a", "aaaa"),
        (2, "ab", "ab"),
        (5, "ab", "aabb"),
        (10, "abc", "aaabbbccc"),
        (3, "abcde", "abc"),
    ],
)
def test_an_app_runs_on_its_share_of_the_slots_and_alone_leaves_one_free(
    docora: Docora, slots: int, waiting: str, expected: str
) -> None:
    with desk(docora, slots) as at:
        at.wait(*(job_id for app in waiting for job_id in jobs(app, 10)))
        at.take_all()
        assert "".join(at.running()) == expected
    docora.redis.flushdb()
    with desk(docora, slots, reserves=False) as at:
        at.wait(*(job_id for app in waiting for job_id in jobs(app, 10)))
        at.take_all()
        assert "".join(at.running()) == ("a" * slots if waiting == "a" else expected)


def test_a_killed_workers_job_takes_no_share_and_one_just_taken_does(docora: Docora) -> None:
    """No worker but those that live has slots. A job may be taken, but not begun."""
    with desk(docora, 2) as at:
        docora.start_job("a-9")  # of a worker that Redis has forgotten
        docora.redis.delete("rq:worker:worker-1")
        docora.add_worker("worker-2")
        at.wait(*jobs("a", 3))
        assert at.take(0, begins=False) == "a-0"
        assert at.take(1) == "full"
        # The maintenance has seen that it was never begun.
        docora.redis.set(f"{INTERMEDIATE}:first_seen:a-0", 1)
        assert at.take(1) == "a-1"


def test_an_app_without_further_jobs_leaves_its_share_to_the_others_at_once(
    docora: Docora,
) -> None:
    with desk(docora, 5) as at:
        at.wait(*jobs("a", 10), "b-0")
        assert [at.take() for _ in range(3)] == ["a-0", "a-1", "b-0"]
        at.end("b-0")
        assert [at.take() for _ in range(3)] == ["a-2", "a-3", "full"]


def test_an_app_keeps_its_share_between_two_of_its_jobs(docora: Docora) -> None:
    """A worker that has found all apps at their shares must not forget those that wait."""
    with desk(docora, 3) as at:
        at.wait(*jobs("a", 10), *jobs("b", 10))
        assert [at.take(slot) for slot in range(3)] == ["a-0", "b-0", "full"]
        at.end("b-0")
        assert at.take(2) == "b-1"


def test_a_job_of_another_program_passes_all_that_must_wait(docora: Docora) -> None:
    other = "550e8400-e29b-41d4-a716-446655440000"
    with desk(docora, 2) as at:
        at.wait(*jobs("a", 3), other, "plain")
        assert at.take_all() == ["a-0", other]
        assert at.take(1) == "plain"
        assert docora.waiting() == ["a-1", "a-2"]


@pytest.mark.slow
def test_each_app_keeps_its_order_its_share_and_all_its_jobs(docora: Docora) -> None:
    """Whatever is pushed at either end, held and released meanwhile, and ends in which order."""
    chance = random.Random(1)
    expected: dict[str, list[str]] = {app: [] for app in "abcde"}
    numbers = iter(range(10_000))
    with desk(docora, 4) as at:
        for _ in range(600):
            app, front = chance.choice("aaaaabbcde"), chance.random() < 0.2
            if chance.random() < 0.5:
                job_id = f"{app}-{next(numbers)}"
                at.wait(job_id, front=front)
                expected[app].insert(0 if front else len(expected[app]), job_id)
            if chance.random() < 0.1:
                hold(docora, app)
            if chance.random() < 0.2:
                docora.redis.hdel(HOLDS, app)
            slot = chance.randrange(4)
            if len(at.running()) < 4 and (job_id := at.take(slot)) not in set(TakeResult):
                app = job_id[0]
                assert expected[app].pop(0) == job_id
                assert not docora.redis.hexists(HOLDS, app)
                assert at.running().count(app) <= 3
            if chance.random() < 0.6 and at.running():
                at.end(chance.choice(sorted(at._runs)))
        docora.redis.delete(HOLDS)
        while docora.waiting():
            for job_id in sorted(at._runs):
                at.end(job_id)
            at.take_all()
        assert sorted(at.taken) == sorted(set(at.taken))
        assert len(at.taken) == next(numbers)


def calls(docora: Docora) -> int:
    """How many scripts Redis has run."""
    stats = cast("Mapping[str, Any]", docora.redis.info("commandstats"))
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


def test_behind_100_000_jobs_that_must_wait_another_is_found_in_50_short_looks(
    docora: Docora,
) -> None:
    with desk(docora, 2) as at:
        at.wait("a-0")
        assert at.take(0) == "a-0"
        for start in range(0, 100_000, 10_000):
            docora.redis.rpush(LIST, *(f"a-{number}" for number in range(start, start + 10_000)))
        before = calls(docora)
        assert at.take(1) == "full"
        pages = 100_000 / take._PAGE
        assert calls(docora) - before <= pages + 2
        # It goes on where it ended, whatever was taken from the list and added to it.
        docora.redis.lpop(LIST, 100)
        at.wait(*jobs("b", 2))
        before = calls(docora)
        assert at.take(1) == "b-0"
        assert calls(docora) - before <= 2
        at.end("b-0")
        assert at.take(1) == "b-1"
        at.end("b-1")
        at.wait("c-0", front=True)
        assert at.take(1) == "c-0"
        at.end("c-0")
        at.end("a-0")
        assert at.take(1) == "a-100"


# Holds


def test_a_held_app_waits_until_its_hold_ends_and_an_exempt_job_does_not(docora: Docora) -> None:
    with desk(docora, 5) as at:
        seconds = docora.redis.time()[0]
        hold(docora, "a", until=seconds + 3600)
        hold(docora, "b", until=seconds - 1)
        at.wait("a-0", "a-1", "b-0", "a-2")
        assert at.take(0) == "b-0"
        assert at.take(1) == "held"
        exempt(docora, "a-1")
        assert at.take(1) == "a-1"
        assert at.take(2) == "held"
        hold(docora, "a", until=None)
        assert at.take(2) == "held"
        docora.redis.hdel(HOLDS, "a")
        assert at.take(2) == "a-0"


def test_an_exempt_job_for_which_no_share_was_left_is_found_again(docora: Docora) -> None:
    with desk(docora, 2) as at:
        at.wait("a-0")
        assert at.take(0) == "a-0"
        hold(docora, "a")
        at.wait(*(f"a-{number}" for number in range(1, 3000)))
        exempt(docora, "a-2000")
        assert at.take(1) == "held"
        at.end("a-0")
        assert at.take(1) == "a-2000"


NO_ENDS = ['"x"', "true", "null", "1e9", "5.5", "-5", "0x5", "NaN", "-Infinity", "9" * 400]
NO_HOLDS = ["", "[1", "null", "[5]", "{}", b"\xff", *(f'{{"until": {each}}}' for each in NO_ENDS)]


@pytest.mark.parametrize("value", NO_HOLDS, ids=lambda value: ascii(value)[:25])
def test_what_is_no_hold_holds_its_app_for_ever(docora: Docora, value: str | bytes) -> None:
    with desk(docora, 2) as at:
        at.wait("a-0", "b-0")
        docora.redis.hset(HOLDS, "a", value)
        assert at.take(0) == "b-0"
        assert at.take(1) == "held"
        [(app_id, entry)] = read_holds(docora.redis).items()  # commands judge as workers do
        assert (app_id, entry.until_at) == ("a", None)


# Redis's parser of JSON refuses the first one, which Python's accepts.
REASONS = ["\udce9", "\0", 'no "until": null}', '", "until": 99999999999, "', "\\", "\U0001f600"]


@pytest.mark.parametrize("reason", REASONS, ids=ascii)
def test_a_hold_ends_whatever_its_reason_says(docora: Docora, reason: str) -> None:
    with desk(docora, 2) as at:
        at.wait("a-0")
        seconds = docora.redis.time()[0]
        hold(docora, "a", seconds + 3600, reason)
        assert at.take(0) == "held"
        assert list(read_holds(docora.redis)) == ["a"]
        hold(docora, "a", seconds - 1, reason)
        assert read_holds(docora.redis) == {}
        assert at.take(0) == "a-0"


@pytest.mark.slow
def test_a_worker_lets_jobs_of_held_apps_wait_and_looks_each_second(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    links = snapshots.add_links(["Held", "Other"])
    for link in links.values():
        snapshots.queue(link)
    hold(docora, links["Held"].app_id)
    assert "since the apps of all waiting jobs are held" in snapshots.work().stderr
    assert docora.status(links["Other"]) == "synced"
    with running(snapshots, "--name", "w"):
        eventually(lambda: docora.redis.hget("rq:worker:w", "state") == b"idle", "a first look")
        before, began = commands(docora), time.monotonic()
        looks = calls(docora)
        eventually(lambda: calls(docora) >= looks + 4, "four more looks")
        assert time.monotonic() - began > 2
        assert commands(docora) - before < 40 * 4
        assert docora.waiting() == [links["Held"].job_id]
        assert docora.row(links["Held"])["retry_count"] == 0
        docora.redis.delete(HOLDS)
        eventually(lambda: docora.status(links["Held"]) == "synced", "the job")


def commands(docora: Docora) -> int:
    """How many commands others have had Redis run, but for those that tests poll with."""
    stats = cast("Mapping[str, Any]", docora.redis.info("commandstats"))
    return sum(row["calls"] for name, row in stats.items() if name != "cmdstat_info")


def add_hanging_links(snapshots: Snapshots, app: RawApp, size: int) -> TestLink:
    """Queues links of an app that never answers; returns the last one."""
    app_id = snapshots.add_app("Tarpit", base_url=app.base_url)
    for number in range(size):
        upstream = snapshots.add_upstream(f"octo/r{number}")
        upstream.commit({"slow": "1\n"})
        link = snapshots.link(app_id, snapshots.add_repository(upstream, f"octo/r{number}"))
        snapshots.queue(link)
    return link


@pytest.mark.slow
def test_an_app_that_never_answers_holds_up_no_other(snapshots: Snapshots, docora: Docora) -> None:
    with (
        raw_app(snapshots.receiver, Talk.wait_for_hangup) as app,
        running(snapshots, "--concurrency", "2") as worker,
    ):
        worker.await_ready(2)
        link = add_hanging_links(snapshots, app, 3)
        eventually(lambda: app.connections, "a job that gets no answer")
        other = snapshots.link(snapshots.add_app("Other"), link.repository_id)
        for _ in range(2):
            snapshots.queue(other)
            eventually(lambda: docora.status(other) == "synced", "the job of the other app")
        assert len(docora.waiting()) == 2


@pytest.mark.slow
def test_the_reserve_can_be_turned_off(snapshots: Snapshots) -> None:
    off = {"DOCORA_OPS_RESERVE_SLOT": "false"}
    with raw_app(snapshots.receiver, Talk.wait_for_hangup) as app:
        add_hanging_links(snapshots, app, 2)
        with running(snapshots, "--concurrency", "2", **off):
            eventually(lambda: app.connections == 2, "two jobs of one app at once")


class KilledError(BaseException):
    """Ends a worker in this process, as SIGKILL does."""


class MortalConnection(redis.Connection):
    """Kills its process at the last of `left` requests: before it is sent, or after the answer."""

    left = 0.0
    is_sent = False

    def send_packed_command(self, *arguments: Any, **options: Any) -> None:
        cls = MortalConnection
        if cls.left <= 0 or (cls.left == 1 and not cls.is_sent):
            cls.left = 0
            raise KilledError
        cls.left -= 1
        super().send_packed_command(*arguments, **options)  # type: ignore[no-untyped-call]

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        response = super().read_response(*arguments, **options)
        if MortalConnection.left <= 0:
            raise KilledError
        return response


@pytest.mark.slow
@pytest.mark.parametrize("is_sent", [False, True])
def test_a_worker_that_is_killed_at_any_call_of_redis_loses_no_job_and_doubles_none(
    snapshots: Snapshots, docora: Docora, monkeypatch: pytest.MonkeyPatch, *, is_sent: bool
) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    begun: list[str] = []

    def fork(_worker: object, job: Job, _queue: object) -> None:
        begun.append(job.id)
        MortalConnection.left = 0
        raise KilledError

    monkeypatch.setattr(SnapshotWorker, "fork_work_horse", fork)
    monkeypatch.setattr(rq_worker, "handle_ending", lambda _: None)
    monkeypatch.setattr(MortalConnection, "is_sent", is_sent)

    def work(name: str, requests: float) -> None:
        """Until the worker is killed, at the latest when it has a process for its job."""
        monkeypatch.setattr(MortalConnection, "left", requests)
        with connect(snapshots.settings) as client:
            client.connection_pool.connection_class = MortalConnection
            with suppress(KilledError):
                SnapshotWorker(snapshots.settings, client, name).run_jobs(burst=True)

    for number in count(1):
        docora.redis.flushdb()
        snapshots.queue(link, max_retry_attempts=3, retry_base_delay_ms=0)
        work(f"killed-{number}", number)
        if begun:
            break
        places = docora.waiting() + [text_of(job_id) for job_id in intermediate(docora)]
        assert places == [link.job_id], number
        docora.redis.set(f"{INTERMEDIATE}:first_seen:{link.job_id}", 1)
        expire_heartbeats(docora)
        for name in ("second", "third"):
            make_delayed_jobs_due(docora)
            work(f"{name}-{number}", float("inf"))
        assert begun == [link.job_id], number
        assert docora.waiting() == []
        begun.clear()
    assert number > 20


def intermediate(docora: Docora) -> list[bytes]:
    return cast("list[bytes]", docora.redis.lrange(INTERMEDIATE, 0, -1))


@pytest.mark.slow
def test_workers_read_little_of_each_other(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    seconds, reads = 512, {}
    for slots in (100, 400):
        with desk(docora, slots) as at:
            hold(docora, "a")
            at.wait("a-0")
            docora.redis.config_resetstat()
            for _ in range(seconds):
                at.slots[0].take()
                now += 1
            stats = cast("Mapping[str, Any]", docora.redis.info("commandstats"))
            reads[slots] = slots * int(stats["cmdstat_hmget"]["calls"]) / seconds
    assert 0 < reads[400] < 3 * reads[100]
