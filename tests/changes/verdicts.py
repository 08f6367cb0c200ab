"""A worker whose jobs only write a verdict: `python -m tests.changes.verdicts SEED`."""

import os
import random
import sys
import time

import psycopg
import redis
from rq import SimpleWorker

from docora_ops.worker import snapshot_job
from tests.support.docora import QUEUE

CHOICE = random.Random(int(sys.argv[1]))
DATABASE = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
REDIS = redis.Redis.from_url(os.environ["REDIS_URL"])
PAUSES = (0.1, *[0] * 30)  # seconds, before and after the verdict
LINK = "WHERE app_id = %s AND repository_id = %s"


def snapshot(*, app_id: str, repository_id: str, **_: object) -> None:
    """Claims the link, works on it for a moment, and writes a verdict, as the real job does."""
    link = (app_id, repository_id)
    with DATABASE.transaction():
        DATABASE.execute(f"SELECT FROM app_repositories {LINK} FOR UPDATE".encode(), link)
        DATABASE.execute(f"UPDATE app_repositories SET status = 'scanning' {LINK}".encode(), link)
    if REDIS.incr(f"test:running:{app_id}-{repository_id}") != 1:
        REDIS.incr("test:twice")
    time.sleep(CHOICE.choice(PAUSES))
    verdict = CHOICE.choice(["synced", "failed"])
    REDIS.decr(f"test:running:{app_id}-{repository_id}")
    DATABASE.execute(
        f"UPDATE app_repositories SET status = %s, last_scanned_at = now() {LINK}".encode(),
        (verdict, *link),
    )
    REDIS.incr("test:done")
    time.sleep(CHOICE.choice(PAUSES))


if __name__ == "__main__":
    setattr(snapshot_job, "snapshot", snapshot)  # noqa: B010 - what jobs name
    SimpleWorker([QUEUE], connection=REDIS, prepare_for_work=True).work(logging_level="ERROR")
