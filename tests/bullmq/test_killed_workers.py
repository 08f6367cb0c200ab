"""A job whose worker was killed: what is said of it, and what becomes of it."""

import json

import redis

from tests.support.bullmq import WORKER_NAME, Bullmq, end, start_worker
from tests.support.diagnoses import ONE_LOOK


def test_resync_is_refused_while_the_snapshot_runs(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    running, stalled = docora.add_link("scanning"), docora.add_link("scanning")
    bullmq.start(running)
    bullmq.stall(stalled)
    before = docora.connection.execute("SELECT * FROM app_repositories ORDER BY 1").fetchall()
    with redis.Redis.from_url(docora.redis_access.owner, client_name=WORKER_NAME) as worker:
        worker.ping()
        for link in (running, stalled):
            result = bullmq.run("resync", *link.ids, "--yes", "--json")
            assert (result.code, result.json["code"]) == (4, "snapshot_running"), result
    assert (
        docora.connection.execute("SELECT * FROM app_repositories ORDER BY 1").fetchall() == before
    )


def test_repair_finds_the_link_of_a_job_that_bullmq_has_given_up(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    link = docora.add_link("scanning", retry_count=1)
    docora.age_links()
    bullmq.stall(link)
    first = start_worker(docora.redis_access.owner)
    assert first.stdout
    assert json.loads(first.stdout.readline()) == [link.job_id], "BullMQ runs it again once"
    end(first)
    bullmq.expire_lock(link)
    with bullmq.worker(lambda _job_id: None):
        bullmq.await_state(link, "failed")
        assert docora.status(link) == "scanning"
        result = bullmq.run("repair", "--yes", "--json", env=bullmq.environment(**ONE_LOOK))
    assert (result.code, result.data["stuck"], result.data["reset"]) == (0, 1, 1), result
    assert docora.status(link) == "pending_snapshot"
