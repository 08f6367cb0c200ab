"""Which links a bulk action chooses, and in which order their jobs stand in the queue."""

from datetime import timedelta

import pytest

from docora_ops.links import Outcome
from tests.support.bulk_actions import RESYNC, BulkAction, every_bulk_action
from tests.support.docora import Docora
from tests.support.rows import in_turns


def job_ids_in_order(docora: Docora) -> list[str]:
    return in_turns(link.job_id for link in docora.links())


@every_bulk_action
@pytest.mark.parametrize("batch_size", [1, 2, 3, 1000])
def test_apps_take_turns_in_the_queue(docora: Docora, bulk: BulkAction, batch_size: int) -> None:
    bulk.add_links(docora, 60, apps=1 if bulk is RESYNC else 7)
    bulk.run(docora.actions(), batch_size=batch_size)
    assert docora.waiting() == job_ids_in_order(docora)


def test_the_order_holds_however_rows_lie_in_the_table(docora: Docora) -> None:
    docora.add_links(40, apps=4)
    for link in reversed(docora.links()[::3]):
        docora.set_link(link, retry_count=3)
    docora.connection.execute("ANALYZE")
    docora.actions().retry_all(batch_size=500)
    assert docora.waiting() == job_ids_in_order(docora)


def test_the_order_holds_though_the_first_batch_takes_longer_than_the_next(docora: Docora) -> None:
    docora.add_links(12)
    docora.add_trigger(
        "PERFORM pg_sleep(0.2)", when=f"old.repository_id = '{docora.links()[0].repository_id}'"
    )
    docora.actions().retry_all(batch_size=3)
    assert docora.waiting() == job_ids_in_order(docora)


def test_a_limit_takes_the_first_links_in_order_and_counts_only_these(docora: Docora) -> None:
    docora.add_links(10)
    result = docora.actions().retry_all(limit=7, batch_size=3)
    assert result.total == result.completed == 7
    assert sorted(docora.waiting()) == job_ids_in_order(docora)[:7]
    assert result.counts == {Outcome.QUEUED: 7}


def test_only_matching_links_with_an_open_circuit_are_counted_as_left_out(docora: Docora) -> None:
    for number, error in enumerate(["HTTP 500", "HTTP 404"]):
        app_id = docora.add_app(f"App {number}")
        repository_id = docora.add_repository(
            f"octo/{number}", circuit_open_for=timedelta(minutes=20)
        )
        docora.link(app_id, repository_id, last_error=error)
    actions = docora.actions()
    assert actions.retry_all(open_circuit=False, errors=["404"]).open_circuits_left_out == 1
    assert actions.retry_all(open_circuit=False, app="App 0").open_circuits_left_out == 1
    assert actions.retry_all(open_circuit=False).open_circuits_left_out == 2
    assert docora.waiting() == []
