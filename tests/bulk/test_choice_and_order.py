"""Which links a bulk action chooses, and in which order their jobs stand in the queue."""

import random
from datetime import timedelta

import pytest

from docora_ops.links import Outcome
from tests.support.bulk_actions import RESYNC, RETRY, BulkAction, every_bulk_action
from tests.support.docora import Docora
from tests.support.job_states import scheduled
from tests.support.rows import in_turns


def job_ids_in_order(docora: Docora) -> list[str]:
    return in_turns(link.job_id for link in docora.links())


@every_bulk_action
def test_apps_take_turns_in_the_queue(docora: Docora, bulk: BulkAction) -> None:
    bulk.add_links(docora, 30, apps=1 if bulk is RESYNC else 7)
    for link in reversed(docora.links()[::3]):  # rows in another order
        docora.set_link(link, retry_count=3)
    bulk.run(docora.actions(), batch_size=3)
    assert docora.waiting() == job_ids_in_order(docora)


def test_a_limit_takes_the_first_links_in_order_and_counts_only_these(docora: Docora) -> None:
    docora.add_links(10, apps=3)
    order = job_ids_in_order(docora)
    for left in (7, 3):
        result = docora.actions().retry_all(limit=7, batch_size=3)
        assert result.total == result.completed == left
        assert result.counts == {Outcome.QUEUED: left}
    assert docora.waiting() == order[:7] + in_turns(order[7:])


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


@pytest.mark.parametrize("bulk", [RETRY, RESYNC], ids=str)
def test_new_jobs_stand_ahead_of_all_that_wait_and_those_keep_their_places(
    docora: Docora, bulk: BulkAction
) -> None:
    bulk.add_links(docora, 30, apps=1 if bulk is RESYNC else 4)
    order = job_ids_in_order(docora)
    before = [*order[::2], *(f"other-{number}" for number in range(40))]
    random.Random(7).shuffle(before)
    for job_id in before:
        docora.enqueue(job_id)
    scheduled(docora, order[1])
    result = bulk.run(docora.actions(), batch_size=7, front=True)
    assert result.counts == {Outcome.QUEUED: 14, Outcome.ALREADY_QUEUED: 16}
    assert docora.waiting() == [*order[3::2], *before]
    assert docora.registries(order[1]) == {"rq:scheduled:snapshot-queue"}
