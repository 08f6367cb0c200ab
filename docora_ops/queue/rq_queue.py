"""The RQ queue of link jobs, for a Docora whose workers are RQ's.

Reading methods write nothing and unpickle nothing, unlike RQ's own.
"""

import json
import pickle
from collections.abc import Container, Iterator, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from math import ceil
from typing import ClassVar, cast

from redis import Redis
from rq import Queue, Retry
from rq.job import Job
from rq.scheduler import SCHEDULER_LOCKING_KEY_TEMPLATE
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import utcformat

from docora_ops.jobs import (
    QUEUE_NAME,
    Backend,
    HeldApp,
    JobRecord,
    QueuedJob,
    QueueOverview,
    Suspension,
    longest_wait,
)
from docora_ops.links import LinkStatus, Payload
from docora_ops.queue.holds import HOLDS, read_holds
from docora_ops.queue.link_queue import (
    LEAST_WAITING,
    RECENT,
    Answer,
    LinkQueue,
    PushRequest,
    answers_of_script,
    arguments_of,
)
from docora_ops.queue.outcomes import OutcomeFilter, Outcomes, read_outcomes
from docora_ops.queue.redis_client import (
    Command,
    answers_of,
    mapping_of,
    moment_of_timestamp,
    optional_text_of,
    read_hashes,
    redis_errors,
    server_time,
    text_of,
    whole_number,
)
from docora_ops.queue.redis_signs import TO_REMOVE_BULLMQ_JOBS
from docora_ops.queue.rq_entries import Place, QueueSweep
from docora_ops.queue.rq_jobs import (
    JOB_FUNCTION,
    job_id_of,
    moment_of,
    read_jobs,
    read_record,
)
from docora_ops.queue.rq_keys import EXECUTION, INTERMEDIATE, LIST, REGISTRIES, SCRIPT_KEYS, WIP
from docora_ops.queue.rq_workers import read_workers
from docora_ops.settings import FAILURE_TTL, RESULT_TTL

_LIVE_PLACES = {
    Place.SCHEDULED: "delayed",
    Place.LIST: "waiting",
    Place.INTERMEDIATE: "waiting",
}
_PAYLOAD_FIELDS = tuple(field.name for field in fields(Payload))
_VARIABLE_FIELDS = frozenset({"data", "description", "created_at", "enqueued_at"})
_CLOCKS_APART = 60  # seconds by which a worker's clock may be ahead of Redis's
_PAGE, _MOST_SEARCHED = 5000, 100_000  # waiting jobs to search for some whose apps are not held
_NEWEST = 10  # failed jobs to search for the last one, since the registry is sorted by expiry
_SCHEDULE = "docora-ops:schedule"
"""The key with the Unix time at which `schedule` last queued links or ended a pass, by Redis."""
_PASS_EXPIRY = 7 * 86_400  # seconds


class RqQueue(LinkQueue):
    """The queue of RQ, which accepts jobs."""

    backend: ClassVar = Backend.RQ
    can_push: ClassVar = True
    to_remove_others: ClassVar = TO_REMOVE_BULLMQ_JOBS
    commands_of_push: ClassVar[Sequence[tuple[str | int, ...]]] = (
        *(("DEL",), ("HSET", "x", "x"), ("PERSIST",), ("SADD", "x")),
        *(("LREM", 0, "x"), ("LSET", 0, "x"), ("LPOS", "x"), ("LPUSH", "x"), ("RPUSH", "x")),
        *(("APPEND", "x"), ("ZREM", "x"), ("ZSCORE", "x"), ("HDEL", "x")),
    )
    script_files: ClassVar = ("with_change.lua", "denials.lua", "judge.lua", "look_and_push.lua")
    script_keys: ClassVar = SCRIPT_KEYS
    delayed_key: ClassVar = REGISTRIES["scheduled"]
    scores_per_second: ClassVar = 1

    def _read_suspension(self) -> Suspension | None:
        pipeline = self._client.pipeline(transaction=False)
        pipeline.time()
        pipeline.pttl(WORKERS_SUSPENDED)
        pipeline.get(WORKERS_SUSPENDED)
        (seconds, microseconds), left, value = answers_of(pipeline)
        if left == -2:  # noqa: PLR2004 - Redis: no such key
            return None
        details = mapping_of(value)  # from `suspend_workers`; empty after `rq suspend`
        begin, who, reason = (details.get(name) for name in ("suspended_at", "who", "reason"))
        end = int(seconds + microseconds / 1e6 + left / 1000) if left >= 0 else None
        return Suspension(
            suspended_at=moment_of_timestamp(begin) if isinstance(begin, int) else None,
            ends_at=None if end is None else moment_of_timestamp(end),
            remaining_seconds=ceil(left / 1000) if left >= 0 else None,
            who=str(who) if who else None,
            reason=str(reason) if reason else None,
        )

    @cached_property
    def sweep(self) -> QueueSweep:
        return QueueSweep(self._client)

    @cached_property
    def common_fields(self) -> list[str]:
        """Returns the fields that all jobs' hashes share, with names and values alternating.

        Takes the fields from one job that RQ builds: building a job for each link would be slow.
        """
        settings = self._settings
        delays = settings.retry_delays
        job = Queue(QUEUE_NAME, connection=self._client).create_job(
            JOB_FUNCTION,
            timeout=settings.job_timeout,
            result_ttl=RESULT_TTL,
            failure_ttl=FAILURE_TTL,
            description="of no link",
            retry=Retry(max=len(delays), interval=delays) if delays else None,
        )
        return [
            text
            for name, value in job.to_dict().items()
            if name not in _VARIABLE_FIELDS
            for text in (name, str(getattr(value, "value", value)))
        ]

    def push(
        self,
        requests: Sequence[PushRequest],
        created_at: float,
        *,
        refuses_waiting: bool = False,
        front: bool = False,
        exempts: bool = False,
        changes_links: bool = True,
        commands: Sequence[Command] = (),
    ) -> list[Answer]:
        if not requests:
            return []
        now = utcformat(datetime.fromtimestamp(created_at, UTC))
        config = SCRIPT_KEYS | {
            "fields": [*self.common_fields, "created_at", now, "enqueued_at", now],
            "front": front,
            "refuses_waiting": refuses_waiting,
            "changes_links": changes_links,
            "commands": len(commands),
            **({"holds": HOLDS} if exempts else {}),
        }
        if changes_links:  # a waiting job gets all its tries back, as its link does
            config["retries_left"] = self._settings.max_retry_attempts - 1
        arguments: list[str | bytes | int] = ["push", json.dumps(config)]
        arguments += arguments_of(commands)
        for request in requests:
            payload = request.payload
            arguments += (
                request.job_id,
                request.disproved,
                _call_of(payload, is_rescan=request.is_rescan) if payload else b"",
                payload.description if payload else b"",
                now if request.was_failed else "",
            )
        job_ids = [request.job_id for request in requests]
        return answers_of_script(job_ids, self.script.run(arguments))

    def docora_picks_up(self, status: str, answer: Answer) -> bool:  # noqa: ARG002
        return not self.choice.is_clear and status != LinkStatus.FAILED

    def seconds_until_others_forgotten(self) -> None:
        return None  # Redis forgets a BullMQ worker with its connection

    def outcomes(self, which: OutcomeFilter) -> Outcomes:
        return read_outcomes(self._client, which)

    def job(self, job_id: str) -> JobRecord:
        return read_record(self._client, job_id)

    def overview(self, limit: int) -> QueueOverview:
        client, read = self._client, max(limit, LEAST_WAITING)
        holds = read_holds(client)
        use = self.read_use()
        with redis_errors(client):
            now = server_time(client)
            not_expired = f"({now}", cast("int", "+inf")
            pipeline = client.pipeline(transaction=False)
            pipeline.llen(LIST)
            pipeline.zcard(REGISTRIES["scheduled"])
            pipeline.zcount(REGISTRIES["finished"], *not_expired)
            pipeline.zcount(REGISTRIES["failed"], *not_expired)
            # The score of a failed job is the time until which RQ keeps it. Jobs of other programs
            # may be kept longer, by default for a year.
            kept_until = now + FAILURE_TTL
            pipeline.zcount(REGISTRIES["failed"], kept_until - RECENT, kept_until + _CLOCKS_APART)
            pipeline.lrange(LIST, 0, read - 1)
            pipeline.lrange(INTERMEDIATE, 0, 999)  # at most one id per worker
            pipeline.zrange(WIP, *not_expired, byscore=True)
            pipeline.zrange(REGISTRIES["scheduled"], 0, read - 1, withscores=True)
            pipeline.zrange(REGISTRIES["failed"], -_NEWEST, -1)
            pipeline.get(SCHEDULER_LOCKING_KEY_TEMPLATE % QUEUE_NAME)
            pipeline.get(_SCHEDULE)
            *answers, lock, last = pipeline.execute()
            length, delayed, finished, failed, recent = answers[:5]
            head, intermediate, executions, due, newest = answers[5:]
            last_pass = whole_number(last)
            active = list(dict.fromkeys(job_id_of(member) for member in executions))
            taken = [job_id for job_id in map(text_of, intermediate) if job_id not in active]
            due_at = {text_of(job_id): moment_of_timestamp(score) for job_id, score in due}
            head_ids = [*taken, *map(text_of, head)][:read]
            first = read_jobs(client, head_ids, "waiting")
            later = read_jobs(client, list(due_at)[:limit], "delayed")
            failed_ids = list(map(text_of, newest))
            # Waiting jobs may have been tried before.
            tried = [*failed_ids, *head_ids, *active[:read], *due_at]
            moments = [
                (moment_of(began), moment_of(ended))
                for began, ended in read_hashes(
                    client, map(Job.key_for, tried), ["started_at", "ended_at"]
                )
            ]
            ends = [ended for _, ended in moments[: len(failed_ids)]]
            runs = [EXECUTION + text_of(member) for member in executions[:read]]
            live_runs = int(client.exists(*runs)) if runs else 0
            jobs = [
                *read_jobs(client, active[:limit], "active"),
                *first[:limit],
                *(replace(job, due_at=due_at[job.job_id]) for job in later),
            ]
            workers, killed = read_workers(client, now)
        names = {job.app_id: job.app_name for job in first}
        waiting = self._not_held(first, holds) if holds else first
        oldest, seconds = longest_wait(waiting, now)
        return QueueOverview(
            backend=Backend.RQ,
            waiting=length + len(taken),
            active=len(executions),
            completed_jobs=finished,
            failed_jobs=failed,
            delayed=delayed,
            oldest_waiting_at=oldest,
            oldest_waiting_seconds=seconds,
            suspended=use.suspension is not None,
            suspension=use.suspension,
            other_queue=use.other,
            workers=workers,
            scheduler=optional_text_of(lock),
            jobs=jobs[:limit],
            first_due_at=next(iter(due_at.values()), None),
            last_failed_at=max(filter(None, ends), default=None),
            last_pass_at=None if last_pass is None else moment_of_timestamp(last_pass),
            last_pass_seconds=None if last_pass is None else max(0, int(now - last_pass)),
            backend_source=self.choice.source,
            failed_recently=recent,
            live_runs=live_runs,
            killed_workers=killed,
            last_began_at=max(filter(None, (began for began, _ in moments)), default=None),
            read_at=moment_of_timestamp(now),
            held=[HeldApp(app_id, names.get(app_id), hold) for app_id, hold in holds.items()],
        )

    def _not_held(
        self, first: Sequence[QueuedJob], holds: Container[str | None]
    ) -> list[QueuedJob]:
        """Returns the first waiting jobs of apps that are not held.

        Searches the list if `first` has few such jobs, because jobs of held apps stay at the head.
        `holds`: ids of the held apps.
        """
        jobs = [job for job in first if job.app_id not in holds]
        if len(jobs) >= min(LEAST_WAITING, len(first)):
            return jobs
        ids: list[str] = []
        with redis_errors(self._client):
            for start in range(0, _MOST_SEARCHED, _PAGE):
                page = cast("list[bytes]", self._client.lrange(LIST, start, start + _PAGE - 1))
                waiting = map(text_of, page)
                ids += [job_id for job_id in waiting if job_id.partition("-")[0] not in holds]
                if len(ids) >= LEAST_WAITING or len(page) < _PAGE:
                    break
            return jobs + read_jobs(self._client, ids[:LEAST_WAITING], "waiting")

    def _live_ids(self, prefixes: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
        now = server_time(self._client)
        for place, status in _LIVE_PLACES.items():
            pages = [
                [job_id for job_id in page if job_id.startswith(prefixes)]
                for page in self.sweep.pages(place, now)
            ]
            # The list is read from its tail.
            yield status, list(chain.from_iterable(pages[::-1] if place is Place.LIST else pages))
        executions = self._client.zrange(WIP, f"({now}", cast("int", "+inf"), byscore=True)
        ids = dict.fromkeys(map(job_id_of, cast("list[bytes]", executions)))
        yield "active", [job_id for job_id in ids if job_id.startswith(prefixes)]

    def _jobs(self, job_ids: Sequence[str], status: str) -> list[QueuedJob]:
        return read_jobs(self._client, job_ids, status)


def _call_of(payload: Payload, *, is_rescan: bool) -> bytes:
    """Returns the pickled call of a link's job.

    It is not compressed: RQ accepts that, and compression would take as long as the push.
    """
    # dataclasses.asdict would take several times as long.
    arguments: dict[str, object] = {name: getattr(payload, name) for name in _PAYLOAD_FIELDS}
    arguments["is_rescan"] = is_rescan
    return pickle.dumps((JOB_FUNCTION, None, (), arguments), protocol=pickle.HIGHEST_PROTOCOL)


def keep_pass(client: Redis) -> None:
    """Records that a pass of `schedule` is at work, or has ended, now. Raises RedisError."""
    with redis_errors(client):
        client.set(_SCHEDULE, int(server_time(client)), ex=_PASS_EXPIRY)
