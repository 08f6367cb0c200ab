"""Jobs that the queue of the other backend has kept: `doctor` fails, and its command works."""

import os
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from rq.utils import now

from tests.support.bullmq import Bullmq
from tests.support.diagnoses import ONE_LOOK, check, examine
from tests.support.docora import QUEUE, Docora

TOPIC = Path(__file__).parents[2] / "docora_ops/help/workers.md"
pytestmark = pytest.mark.skipif(not shutil.which("redis-cli"), reason="needs redis-cli")


def remove(docora: Docora, hint: str) -> None:
    """Runs the command that `doctor` prints, which the topic has, too."""
    command = hint[hint.index("{ redis-cli") :]
    assert command in TOPIC.read_text(encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "REDIS_URL": docora.redis_access.owner}
    subprocess.run(["sh", "-ec", command], check=True, env=environment)


def test_with_rq_the_jobs_of_bullmq_are_to_be_removed(bullmq: Bullmq, docora: Docora) -> None:
    delayed, abandoned, queued = (docora.add_link() for _ in range(3))
    docora.queue_job(queued)
    docora.redis.set("bull:other-queue:wait", "kept")
    docora.add_worker()
    for put, link in ((bullmq.delay, delayed), (bullmq.stall, abandoned)):
        put(link)
        found = check(examine(docora), "bullmq_queue")
        assert found["state"] == "critical", (link, found)
        # Nothing else is refused.
        assert docora.run("retry", *link.ids).code == 0
        jobs = docora.waiting()
        remove(docora, found["command"])
        assert bullmq.state(link) in {None, "unknown"}
    assert {*docora.redis.scan_iter("bull:*")} == {b"bull:other-queue:wait"}
    assert docora.waiting() == jobs
    assert check(examine(docora), "bullmq_queue")["state"] == "ok"
    docora.assert_sound()


def test_with_bullmq_the_jobs_of_rq_are_to_be_removed(bullmq: Bullmq, docora: Docora) -> None:
    waiting, delayed, kept = (docora.add_link() for _ in range(3))
    bullmq.add(kept)
    environment = bullmq.environment(**ONE_LOOK)
    docora.redis.set("rq:job:another", "kept")
    docora.redis.sadd("rq:queues", "rq:queue:emails")
    with bullmq.worker(lambda _job_id: None):
        docora.schedule_job(delayed.job_id, now() + timedelta(hours=1))
        docora.queue_job(waiting)
        found = check(bullmq.run("doctor", "--json", env=environment), "workers")
        assert found["state"] == "critical", found
        assert bullmq.run("retry", *delayed.ids, "--dry-run").code == 0
        remove(docora, found["command"])
        found = check(bullmq.run("doctor", "--json", env=environment), "workers")
        assert found["state"] == "ok", found
    left = {
        key for key in docora.redis.scan_iter("rq:*") if b"app_" in key or QUEUE.encode() in key
    }
    assert left == set()
    assert docora.redis.get("rq:job:another") == b"kept"
    assert bullmq.state(kept) == "completed"
