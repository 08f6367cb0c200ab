"""A job is scheduled for its next try in one step, so that it is never in none."""

from __future__ import annotations

from typing import cast

import pytest
from pydantic import SecretStr

from docora_ops.errors import RedisError as LostRedisError
from docora_ops.queue import connect
from docora_ops.queue.connection import redis_errors
from docora_ops.queue.worker import SnapshotWorker
from docora_ops.worker.caretaker import LinkCaretaker
from tests.harness import QUEUE
from tests.proxy import Fault, Proxy
from tests.snapshots import Snapshots
from tests.worker.running import has_live_job
from tests.worker.test_tidy_up import begin


def test_cleaning_that_breaks_off_before_a_job_is_scheduled_again_does_not_lose_it(
    snapshots: Snapshots,
) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    snapshots.queue(link, max_retry_attempts=3)
    begin(snapshots, link)
    docora = snapshots.docora
    wip = f"rq:wip:{QUEUE}"
    for member in cast("list[bytes]", docora.redis.zrange(wip, 0, -1)):
        docora.redis.zadd(wip, {member: 1})
    docora.redis.delete(*cast("list[bytes]", docora.redis.keys("rq:execution*")))

    def clean(url: str) -> None:
        with connect(docora.settings.model_copy(update={"redis_url": SecretStr(url)})) as client:
            caretaker = LinkCaretaker(snapshots.settings, docora.redis)
            with redis_errors("here"):
                SnapshotWorker(snapshots.settings, client, "w", caretaker).run_maintenance_tasks()

    with Proxy.before_redis(docora.redis_url) as proxy:
        plan = proxy.plan(f"rq:scheduled:{QUEUE}".encode(), Fault.LOSE_REQUEST)
        with pytest.raises(LostRedisError):
            clean(proxy.url)
        assert plan.reached.is_set()
    assert docora.status(link) == "pending_snapshot"
    docora.redis.delete(f"rq:clean_registries:{QUEUE}")
    clean(docora.redis_url)
    assert has_live_job(docora, link)
    assert docora.row(link)["retry_count"] == 1
