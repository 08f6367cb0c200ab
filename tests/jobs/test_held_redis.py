"""No command makes Redis walk over a long list more than once at a time."""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from docora_ops.drift import Drift, DriftKind, RepairOutcome
from docora_ops.jobs import Backend, JobState
from docora_ops.links import Outcome
from docora_ops.queue import rq_queue
from docora_ops.queue.audit_stream import AuditEntry
from docora_ops.queue.link_queue import PushRequest
from docora_ops.queue.scripts import JobScript
from docora_ops.queue.waiting_list import WaitingList
from tests.support.docora import QUEUE, Docora
from tests.support.fork_server import ForkServer
from tests.support.own_servers import own_redis
from tests.support.privileges import Access

KEY = "rq:queue:snapshot-queue"


def commands_during(docora: Docora, act: Callable[[], object]) -> list[tuple[str, str]]:
    """Returns who sent each command, `lua` for one of a script, and its words."""
    with docora.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        act()
        docora.redis.echo("the end")
        sent = list(takewhile(lambda each: each["command"] != "ECHO the end", monitor.listen()))
    return [(each["client_type"], each["command"]) for each in sent]


def add_jobs(docora: Docora) -> None:
    """A job for each failed link."""
    docora.actions().retry_all(batch_size=1000)
    docora.connection.execute("UPDATE app_repositories SET status = 'failed'")


@pytest.mark.parametrize(
    "command", ["links --limit 1000", "failed", "show", "status", "metrics", "apps", "queue"]
)
def test_a_screen_searches_no_job_in_the_list(docora: Docora, command: str) -> None:
    docora.add_links(300)
    add_jobs(docora)
    docora.connection.execute("UPDATE app_repositories SET status = 'scanning' WHERE random() < .3")
    docora.age_links()
    words = [*command.split(), *(docora.links()[7].ids if command == "show" else ())]
    commands = commands_during(docora, partial(docora.run, *words))
    searches = [each for _, each in commands if f"POS {KEY} " in each]
    assert all(each.endswith("MAXLEN 10000") for each in searches), searches
    assert len(searches) == (command == "show")
    read = [each.split()[2:] for _, each in commands if each.startswith(f"LRANGE {KEY} ")]
    assert all(0 <= int(end) - int(start) < 5000 for start, end in read), read


@pytest.mark.parametrize("backend", [Backend.RQ, Backend.BULLMQ])
def test_no_script_reads_the_list_and_no_command_reads_all_of_it(
    docora: Docora, backend: Backend
) -> None:
    docora.add_links(300)
    add_jobs(docora)
    actions = docora.actions(backend=backend)

    def act() -> None:
        docora.redis.rpush(KEY, *docora.waiting()[::2])  # twice in the list
        for link in docora.links()[::3]:
            docora.delete_link(link)
        actions.queue.look([link.job_id for link in docora.links()])
        actions.retry_all(batch_size=500)
        actions.repair()

    commands = commands_during(docora, act)
    assert not [each for kind, each in commands if kind == "lua" and each.startswith("LRANGE rq:q")]
    keys = (KEY, f"bull:{QUEUE}:wait")
    everything = [each for _, each in commands if each in {f"LRANGE {key} 0 -1" for key in keys}]
    assert len(everything) == 1, "by this test itself"
    if backend is Backend.RQ:
        assert len(docora.waiting()) == len(docora.links()) == 200
        docora.assert_sound()


def sizes_of_scripts(monkeypatch: pytest.MonkeyPatch, mode: str) -> list[int]:
    """The numbers of jobs of the scripts with this mode, from now on."""
    sizes = []
    run = JobScript.run

    def spy(script: Any, mode_: str, job_ids: Any, *rest: Any, **more: Any) -> Any:
        sizes.extend([len(job_ids)] * (mode_ == mode))
        return run(script, mode_, job_ids, *rest, **more)

    monkeypatch.setattr(JobScript, "run", spy)
    return sizes


@pytest.mark.parametrize("front", [False, True])
def test_a_push_into_a_long_list_is_made_of_short_scripts(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, front: bool
) -> None:
    monkeypatch.setattr(rq_queue, "_LONG_LIST", 10)
    docora.add_links(120)
    add_jobs(docora)
    docora.enqueue("other")
    job_ids = [link.job_id for link in docora.links()]
    queue = docora.actions().queue
    sizes = sizes_of_scripts(monkeypatch, "push")
    answers = queue.push(
        [PushRequest(job_id, None, is_rescan=False) for job_id in job_ids],
        waiting=queue.read_waiting(),
        front=front,
        audit={Outcome.ALREADY_QUEUED: AuditEntry("docora-ops:audit", ("who", "kim"))},
    )
    assert sizes == [50, 50, 20]
    assert {answer.outcome for answer in answers} == {Outcome.ALREADY_QUEUED}
    assert docora.waiting() == (job_ids[::-1] if front else job_ids) + ["other"]
    assert docora.redis.xlen("docora-ops:audit") == 1


def test_a_repair_removes_fifty_jobs_with_one_script_at_most(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(250, status="synced")
    for link in docora.links():
        docora.enqueue(link.job_id)
    docora.redis.rpush(KEY, *docora.waiting()[::-1], "other")
    sizes = sizes_of_scripts(monkeypatch, "remove")
    result = docora.actions().repair()
    assert (result.counts, sizes) == ({RepairOutcome.REMOVED: 250}, [50] * 5)
    assert docora.waiting() == [link.job_id for link in docora.links()] + ["other"]


def test_redis_searches_a_long_list_once_in_a_script(
    database_access: Access, fork_server: ForkServer, tmp_path: Path
) -> None:
    """It counts the commands of a script too; on a server of its own, nobody else's."""
    with (
        own_redis(tmp_path) as own,
        closing(Docora(database_access, own.access, fork_server)) as docora,
    ):
        job_ids = [docora.enqueue(f"job-{number}").id for number in range(9)]
        queue = docora.actions().queue
        waiting = queue.read_waiting()
        docora.redis.delete(KEY)
        docora.redis.rpush(KEY, *job_ids[::-1])
        for start in range(0, 600_000, 10_000):
            docora.redis.rpush(KEY, *range(start, start + 10_000))
        confirm = [PushRequest(job_id, None, is_rescan=False) for job_id in job_ids]
        for way in (
            partial(queue.look, job_ids),
            partial(queue.push, confirm, waiting=waiting),
            partial(queue.push, confirm, waiting=waiting, front=True),
        ):
            docora.redis.config_resetstat()
            assert {answer.state for answer in way()} == {JobState.WAITING}
            calls = docora.redis.info("commandstats")
            assert calls["cmdstat_lpos"]["calls"] == 1
            assert "cmdstat_lrange" not in calls
        assert docora.redis.llen(KEY) == 600_009
        drifts = [Drift(DriftKind.ORPHAN, *f"app_a{each}-repo_{each}".split("-")) for each in "01"]
        stale = WaitingList([drift.job_id.encode() for drift in drifts], waiting.expired)
        for drift in reversed(drifts):
            docora.enqueue(drift.job_id)
        assert queue.sweep
        removed, left = queue.sweep.remove(drifts, stale)
        assert removed.outcome is RepairOutcome.REMOVED
        # Its place is not known without a second search: another repair removes it.
        assert left.outcome is RepairOutcome.LEFT_ALONE
        assert docora.redis.exists(f"rq:job:{left.drift.job_id}")


def test_a_job_that_may_have_been_queued_meanwhile_is_in_doubt_if_it_is_not_searched(
    docora: Docora,
) -> None:
    for start in range(0, 300_000, 10_000):
        docora.redis.rpush(KEY, *range(start, start + 10_000))
    queue = docora.actions().queue
    waiting = queue.read_waiting()
    job_ids = [docora.enqueue(f"job-{number}").id for number in range(2)]
    docora.redis.lrem(KEY, -1, job_ids[1])
    confirm = [PushRequest(job_id, None, is_rescan=False) for job_id in job_ids]
    answers = queue.push(confirm, waiting=waiting)
    assert [answer.state for answer in answers] == [JobState.WAITING, JobState.DOUBTFUL]
