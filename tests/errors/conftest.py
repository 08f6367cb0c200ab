"""What these tests stop, and what they change."""

import pytest
from rq.job import JobStatus

from tests.support.docora import Docora
from tests.support.own_servers import OwnRedis
from tests.support.privileges import Access
from tests.support.rows import TestLink


@pytest.fixture
def link(docora: Docora) -> TestLink:
    """A failed link with deliveries, over a stale job."""
    link = docora.add_link()
    docora.add_deliveries(link, 3)
    docora.leave_job(link.job_id, JobStatus.FAILED)
    return link


@pytest.fixture
def redis_access(redis_access: Access, request: pytest.FixtureRequest) -> Access:
    """That of the test's own Redis, where it asks for one."""
    if "own" in request.fixturenames:
        own = request.getfixturevalue("own")
        assert isinstance(own, OwnRedis)
        return own.access
    return redis_access
