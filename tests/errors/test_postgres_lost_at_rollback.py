"""Postgres is lost just when a change is to be undone."""

import pytest

from tests.support.docora import Docora
from tests.support.proxy import Fault, Proxy


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY])
def test_it_is_lost_and_no_bug_of_ours(docora: Docora, fault: Fault) -> None:
    link = docora.add_link()
    docora.start_job(link.job_id)  # so nothing is pushed, and the reset is undone
    with Proxy.before_postgres(docora.database_url) as proxy:
        plan = proxy.plan(b"ROLLBACK", fault)
        result = docora.run(
            "retry", link.app_id, link.repository_id, "--json", env={"DATABASE_URL": proxy.url}
        )
        assert plan.reached.is_set()
    assert (result.code, result.json["code"]) == (5, "postgres"), result
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        *("Warning", "Error", "Hint")
    ], result
    assert docora.status(link) == "failed"
