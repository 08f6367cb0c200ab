"""Links that can't be queued cost a bulk operation only themselves."""

import pytest
from rq.job import Job

from docora_ops.errors import PostgresError
from docora_ops.links import Outcome
from tests.support.bulk_actions import APP
from tests.support.docora import Docora
from tests.support.rows import TestLink


def forbid(docora: Docora, link: TestLink, sqlstate: str) -> None:
    docora.add_trigger(
        f"RAISE EXCEPTION 'the row is cursed' USING ERRCODE = '{sqlstate}'",
        when=f"old.repository_id = '{link.repository_id}'",
    )


@pytest.mark.parametrize("sqlstate", ["P0001", "40P01"])
def test_a_row_that_postgres_refuses_to_change_fails_alone(docora: Docora, sqlstate: str) -> None:
    docora.add_links(8)
    links = docora.links()
    forbid(docora, links[4], sqlstate)
    result = docora.actions().retry_all(batch_size=5)
    assert result.counts == {Outcome.QUEUED: 7, Outcome.NOT_QUEUED: 1}
    assert [failure.job_id for failure in result.failures] == [links[4].job_id]
    assert "the row is cursed" in result.failures[0].error_message
    assert docora.status(links[4]) == "failed"
    assert links[4].job_id not in docora.waiting()
    assert not docora.redis.exists(Job.key_for(links[4].job_id))
    docora.assert_sound()


def test_a_resync_that_is_undone_forgets_no_delivery(docora: Docora) -> None:
    docora.add_links(4, status="synced")
    links = docora.links()
    for link in links:
        docora.add_deliveries(link, 5)
    forbid(docora, links[1], "P0001")
    docora.start_job(links[2].job_id)
    result = docora.actions().resync_all(APP)
    assert result.counts == {Outcome.QUEUED: 2, Outcome.NOT_QUEUED: 1, Outcome.ALREADY_RUNNING: 1}
    assert result.deliveries_cleared == 10
    assert [docora.deliveries(link) for link in links] == [0, 5, 5, 0]
    assert {failure.job_id for failure in result.failures} == {links[1].job_id, links[2].job_id}


def test_one_slow_link_is_left_and_slow_links_in_a_row_end_the_run(docora: Docora) -> None:
    docora.add_links(5, status="synced")
    links = docora.links()
    for link in (links[1], links[3], links[4]):
        docora.add_deliveries(link, 1)
    docora.add_trigger("PERFORM pg_sleep(9)", event="BEFORE DELETE ON app_delivered_files")
    with pytest.raises(PostgresError, match=r"within 0\.3 s"):
        docora.actions(statement_timeout=0.3).resync_all(APP)
    assert [docora.status(link) for link in links] == [
        *("pending_snapshot", "synced", "pending_snapshot", "synced", "synced")
    ]
    docora.assert_sound()
