"""A job of ours is the one that RQ itself would have written; those of others are never run."""

import pickle
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from rq import Retry
from rq.job import Job, JobStatus

from docora_ops.queue.rq_jobs import JOB_FUNCTION
from docora_ops.settings import FAILURE_TTL, RESULT_TTL
from tests.support.clocks import clock_ahead, with_wrong_clock
from tests.support.docora import Docora
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN, TestLink

APP = "Grüße & Söhne 💥 'quoted' [bold]"
TIMESTAMPS = {"created_at", "enqueued_at"}


@pytest.fixture
def link(docora: Docora) -> TestLink:
    repository_id = docora.add_repository("octo/api", url="https://github.com/octo/api")
    return docora.link(docora.add_app(APP), repository_id)


def arguments_of(link: TestLink, *, is_rescan: bool, private: bool = True) -> dict[str, Any]:
    return {
        "app_id": link.app_id,
        "app_name": APP,
        "repository_id": link.repository_id,
        "github_url": "https://github.com/octo/api",
        "owner": "octo",
        "name": "api",
        "base_url": "https://acme.example/docora",
        "github_token_encrypted": GITHUB_TOKEN if private else None,
        "client_auth_key_encrypted": AUTH_KEY,
        "is_rescan": is_rescan,
    }


@pytest.mark.parametrize(
    ("action", "private", "attempts"), [("resync", False, 1), ("retry", True, 5)]
)
def test_the_hash_is_the_one_that_rqs_own_enqueue_writes_and_only_its_data_holds_a_secret(
    docora: Docora, link: TestLink, action: str, private: bool, attempts: int
) -> None:
    if not private:
        docora.connection.execute("UPDATE app_repositories SET github_token_encrypted = NULL")
    actions = docora.actions(max_retry_attempts=attempts, job_timeout=1234)
    arguments = arguments_of(link, is_rescan=action == "retry", private=private)
    delays = actions.settings.retry_delays
    docora.queue.enqueue(
        JOB_FUNCTION,
        kwargs=arguments,
        job_id=link.job_id,
        job_timeout=1234,
        result_ttl=RESULT_TTL,
        failure_ttl=FAILURE_TTL,
        description=f"octo/api → {APP}",
        retry=Retry(max=len(delays), interval=delays) if delays else None,
    )
    expected = docora.job_hash(link.job_id)
    docora.redis.flushdb()

    shown = repr(getattr(actions, action)(link)).encode()

    fields = docora.job_hash(link.job_id)
    assert fields.pop("was_failed") == fields["created_at"]
    assert fields.keys() == expected.keys()
    for name in fields.keys() - TIMESTAMPS - {"data"}:
        assert fields[name] == expected[name], name
    for name in TIMESTAMPS:
        assert len(fields[name]) == len(expected[name])
        assert fields[name] >= expected[name]
    assert pickle.loads(fields["data"]) == pickle.loads(zlib.decompress(expected["data"]))
    assert docora.redis.ttl(Job.key_for(link.job_id)) == -1
    assert docora.redis.smembers("rq:queues") == {docora.queue.key.encode()}
    job = docora.job(link)
    assert list(job.kwargs) == list(arguments)
    assert job.func_name == "docora_ops.worker.snapshot"
    everything_else = b"".join((shown, *(fields[name] for name in fields if name != "data")))
    assert not any(secret.encode() in everything_else for secret in (GITHUB_TOKEN, AUTH_KEY))


@pytest.mark.slow
@with_wrong_clock
def test_a_job_bears_the_time_of_redis_not_of_the_host(docora: Docora, link: TestLink) -> None:
    began = datetime.now(UTC)
    docora.run("retry", *link.ids, env=clock_ahead(3600), cwd="/").ended(0)
    job = docora.job(link)
    assert job.created_at == job.enqueued_at
    assert began <= job.created_at <= datetime.now(UTC)


def test_a_job_bears_the_time_of_redis_though_the_host_has_slept(
    docora: Docora, link: TestLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monotonic clock of Linux stands still while the host sleeps."""
    actions, then = docora.actions(), time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: then)
    actions.retry(docora.add_link())
    began = datetime.now(UTC)
    actions.retry(link)
    assert began <= docora.job(link).created_at <= datetime.now(UTC)


class Trap:
    """Makes a file in whoever unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


@pytest.mark.parametrize("is_waiting", [True, False])
def test_no_change_unpickles_anything(docora: Docora, tmp_path: Path, is_waiting: bool) -> None:
    link, actions = docora.add_link(), docora.actions()
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    pickle.loads(trap)
    assert sprung.exists()
    changes: list[Callable[[], object]] = [
        lambda: actions.retry(link, dry_run=True),
        lambda: actions.retry(link),
        actions.retry_all,
        lambda: actions.resync(link),
        actions.repair,
    ]
    for change in changes:
        docora.redis.flushdb()
        docora.set_link(link, status="failed")
        if is_waiting:
            docora.enqueue(link.job_id)
        else:
            docora.leave_job(link.job_id, JobStatus.FAILED)
        fields = {"data": zlib.compress(trap), "meta": trap, "result": trap}
        docora.redis.hset(Job.key_for(link.job_id), mapping=cast("Any", fields))
        sprung.unlink(missing_ok=True)
        change()
        assert not sprung.exists()
