"""States of a Docora that several tests of screens look at."""

from datetime import timedelta

import pytest
from rq.utils import now, utcformat

from docora_ops.settings import FAILURE_TTL
from tests.support.docora import QUEUE, Docora

GIT_ERROR = (
    "fatal: unable to access 'https://github.com/tide/notes/': "
    "The requested URL returned error: 503"
)


@pytest.fixture
def trouble(docora: Docora) -> Docora:
    """Failed, lost and stuck links, an open circuit, and a queue that nobody works on."""
    docora.add_links(11, apps=4, last_error="HTTP 502 on created docs/index.md")
    assert docora.run("retry-all-failed", "--limit", "3", "--yes").code == 0
    queued_at = utcformat(now() - timedelta(hours=2, seconds=10))
    docora.redis.hset(f"rq:job:{docora.waiting()[0]}", "enqueued_at", queued_at)
    first, second = (link.app_id for link in docora.links()[:4:3])
    third, fourth = (docora.add_app("Tidewater Notes", f"app_t{number}") for number in (1, 2))
    for app, status, error, links in (
        (first, "failed", "HTTP 400 on created a", 1),
        (first, "failed", "HTTP 401 on created a", 1),
        (second, "failed", "HTTP 403 on created a", 1),
        (third, "failed", None, 15),
        (fourth, "failed", GIT_ERROR, 4),
        (first, "synced", None, 1),
        (first, "pending_snapshot", None, 2),
        (first, "scanning", None, 1),
    ):
        for _ in range(links):
            repository = docora.add_repository("octo/more", f"repo_{len(docora.links())}th")
            docora.link(app, repository, status, last_error=error)
    circuit = docora.add_repository("octo/open", "repo_open", circuit_open_for=timedelta(hours=1))
    docora.link(first, circuit, "synced", last_error=None)
    docora.age_links()
    hours = "CASE status WHEN 'synced' THEN 0 WHEN 'failed' THEN 2 ELSE 1 END"
    docora.connection.execute(
        f"UPDATE app_repositories SET last_scanned_at = now() - {hours} * interval '61 minutes'"
        " WHERE app_id <> 'app_t1'"
    )
    kept_until = now().timestamp() + FAILURE_TTL
    failed_ago = {"a": 5, "b": 60, "c": 800, "d": 1000}
    scores = {job_id: kept_until - seconds for job_id, seconds in failed_ago.items()}
    year = 365 * 86_400  # as RQ keeps a job of another program by default
    docora.redis.zadd(f"rq:failed:{QUEUE}", scores | {"others": now().timestamp() + year})
    return docora
