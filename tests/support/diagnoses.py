"""What doctor says, and what it finds well."""

import time
from datetime import timedelta
from typing import Any

from tests.support.docora import QUEUE, Docora, Result

ONE_LOOK = {"DOCORA_OPS_DRIFT_GRACE": "0"}
DETAILS_OF_POSTGRES = [
    *("postgres_version", "postgres_primary", "postgres_pooling", "tables", "schemas"),
    "privileges",
]
# What INFO of Redis tells.
DETAILS_OF_REDIS = [
    *("redis_version", "redis_primary", "redis_eviction", "redis_memory", "redis_persistence")
]
OF_QUEUE = ["bullmq_queue", "workers", "schedule", "delayed_jobs", "waiting_jobs"]
OF_LINKS = ["freshness", "failed_links", "open_circuits"]
OF_DRIFT = ["drift_lost", "drift_stuck", "drift_orphan", "drift_duplicate", "drift_stale_entry"]
ALL = [
    *("settings", "postgres", *DETAILS_OF_POSTGRES, "redis", *DETAILS_OF_REDIS, *OF_QUEUE),
    *("capacity", "clocks", "latency", "servers_match", *OF_LINKS, *OF_DRIFT),
]
"""Each check, in the order in which they are made."""
OF_BOTH = ["capacity", "servers_match", *OF_DRIFT]


def examine(docora: Docora, **environment: str | None) -> Result:
    return docora.run("doctor", "--json", env=ONE_LOOK | environment)


def states(result: Result) -> dict[str, str]:
    return {check["name"]: check["state"] for check in result.data["checks"]}


def not_ok(result: Result) -> dict[str, str]:
    return {name: state for name, state in states(result).items() if state != "ok"}


def check(result: Result, name: str) -> Any:
    return next(check for check in result.data["checks"] if check["name"] == name)


def make_healthy(docora: Docora) -> None:
    pending, scanning = (docora.add_link(status) for status in ("pending_snapshot", "scanning"))
    synced = docora.add_link("synced", scanned=timedelta(minutes=1))
    docora.enqueue(pending.job_id)
    docora.start_job(scanning.job_id)
    docora.schedule_job(synced.job_id)
    docora.add_worker()
    docora.redis.set(f"rq:scheduler-lock:{QUEUE}", "scheduler", ex=60)
    docora.redis.set("docora-ops:schedule", int(time.time()) - 30)
    docora.age_links()


def scan_links(docora: Docora, *scanned: float) -> None:
    """Only links whose last good scans were so many seconds ago, however long it takes to add them.

    Links with other statuses stay.
    """
    docora.connection.execute("DELETE FROM app_repositories WHERE status = 'synced'")
    docora.redis.delete("rq:scheduled:snapshot-queue", "rq:wip:snapshot-queue")
    app_id = docora.add_app("Acme Search")
    for number, seconds in enumerate(scanned):
        repository_id = docora.add_repository(f"octo/s{number}")
        docora.link(app_id, repository_id, "synced", scanned=timedelta(seconds=seconds))
    docora.connection.execute(
        "UPDATE app_repositories SET created_at = now() - interval '1 day', last_scanned_at ="
        " now() - (%s::float[])[substr(name, 2)::int + 1] * interval '1 second'"
        " FROM repositories r WHERE r.repository_id = app_repositories.repository_id"
        " AND status = 'synced'",
        ([float(seconds) for seconds in scanned],),
    )
