"""A job of ours is the job that RQ itself would have written."""

import pickle
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from rq import Retry, SimpleWorker
from rq.job import Job, JobStatus

from docora_ops.jobs import JOB_FUNCTION
from docora_ops.queue import job_template
from docora_ops.settings import FAILURE_TTL, RESULT_TTL
from tests.support.actions import Actions
from tests.support.clocks import clock_ahead, with_wrong_clock
from tests.support.docora import Docora
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN, TestLink

TIMESTAMPS = {"created_at", "enqueued_at"}

calls: list[dict[str, Any]] = []


def record_call(**arguments: Any) -> str:
    """What the workers of these tests run."""
    calls.append(arguments)
    return "done"


def add_link(docora: Docora, *, private: bool = True) -> TestLink:
    app_id = docora.add_app("Grüße & Söhne 💥 'quoted' [bold]")
    repository_id = docora.add_repository("octo/api", url="https://github.com/octo/api")
    link = docora.link(app_id, repository_id)
    if not private:
        docora.connection.execute("UPDATE app_repositories SET github_token_encrypted = NULL")
    return link


def payload(link: TestLink, *, is_rescan: bool, private: bool = True) -> dict[str, Any]:
    return {
        "app_id": link.app_id,
        "app_name": "Grüße & Söhne 💥 'quoted' [bold]",
        "repository_id": link.repository_id,
        "github_url": "https://github.com/octo/api",
        "owner": "octo",
        "name": "api",
        "base_url": "https://acme.example/docora",
        "github_token_encrypted": GITHUB_TOKEN if private else None,
        "client_auth_key_encrypted": AUTH_KEY,
        "is_rescan": is_rescan,
    }


def written_by_rq(
    docora: Docora, actions: Actions, link: TestLink, arguments: Mapping[str, Any]
) -> dict[str, bytes]:
    """The fields of the job that a plain enqueue writes, which is removed again."""
    delays = actions.settings.retry_delays
    docora.queue.enqueue(
        JOB_FUNCTION,
        kwargs=dict(arguments),
        job_id=link.job_id,
        job_timeout=actions.settings.job_timeout,
        result_ttl=RESULT_TTL,
        failure_ttl=FAILURE_TTL,
        description=f"octo/api → {arguments['app_name']}",
        retry=Retry(max=len(delays), interval=delays) if delays else None,
    )
    fields = docora.job_hash(link.job_id)
    docora.redis.flushdb()
    return fields


@pytest.mark.parametrize(
    ("action", "private", "attempts"),
    [("resync", False, 1), ("retry_all", True, 5)],
)
def test_the_hash_is_the_one_that_rqs_own_enqueue_writes(
    docora: Docora, action: str, private: bool, attempts: int
) -> None:
    link = add_link(docora, private=private)
    actions = docora.actions(max_retry_attempts=attempts, job_timeout=1234)
    arguments = payload(link, is_rescan=action != "resync", private=private)
    expected = written_by_rq(docora, actions, link, arguments)

    actions.retry_all() if action == "retry_all" else getattr(actions, action)(link)

    fields = docora.job_hash(link.job_id)
    assert fields.keys() == expected.keys()
    for name in fields.keys() - TIMESTAMPS - {"data"}:
        assert fields[name] == expected[name], name
    assert all(
        len(fields[name]) == len(expected[name]) and fields[name] >= expected[name]
        for name in TIMESTAMPS
    )
    assert pickle.loads(fields["data"]) == pickle.loads(zlib.decompress(expected["data"]))
    assert docora.redis.ttl(Job.key_for(link.job_id)) == -1
    assert docora.redis.smembers("rq:queues") == {docora.queue.key.encode()}
    job = docora.job(link)
    assert list(job.kwargs) == list(arguments)
    assert job.func_name == "docora_ops.worker.snapshot"
    assert (job.timeout, job.result_ttl, job.failure_ttl) == (1234, 86_400, 604_800)


def test_the_description_names_repository_and_app_and_nothing_but_data_holds_a_secret(
    docora: Docora,
) -> None:
    link = add_link(docora)
    shown = repr(docora.actions().retry(link)).encode()
    fields = docora.job_hash(link.job_id)
    assert docora.job(link).description == "octo/api → Grüße & Söhne 💥 'quoted' [bold]"
    everything_else = b"".join((shown, *(fields[name] for name in fields if name != "data")))
    assert not any(secret.encode() in everything_else for secret in (GITHUB_TOKEN, AUTH_KEY))


def test_a_plain_rq_worker_runs_the_job_and_the_next_one(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_template, "JOB_FUNCTION", f"{__name__}.record_call")
    link = add_link(docora)
    actions = docora.actions()
    assert actions.retry(link).outcome == "queued"
    calls.clear()
    SimpleWorker([docora.queue], connection=docora.redis).work(burst=True)
    assert calls == [payload(link, is_rescan=True)]
    job = docora.job(link)
    assert job.get_status() == JobStatus.FINISHED
    assert job.return_value() == "done"
    assert 0 < docora.redis.ttl(Job.key_for(link.job_id)) <= RESULT_TTL
    assert docora.waiting() == []
    docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
    assert actions.retry(link).outcome == "queued"
    SimpleWorker([docora.queue], connection=docora.redis).work(burst=True)
    assert len(calls) == 2


@with_wrong_clock
def test_a_job_bears_the_time_of_redis_whatever_the_clock_of_the_host(docora: Docora) -> None:
    link = add_link(docora)
    began = datetime.now(UTC)
    result = docora.run("retry", *link.ids, env=clock_ahead(3600), cwd="/")
    assert result.code == 0, result
    job = docora.job(link)
    assert job.created_at == job.enqueued_at
    assert began <= job.created_at <= datetime.now(UTC)
