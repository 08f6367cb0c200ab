"""`docora-ops retry --front`: a job comes to the head of the queue, and stands there once."""

from collections.abc import Sequence

import pytest
from rq.job import Job, JobStatus

from tests.support.docora import Docora
from tests.support.job_states import (
    Arrange,
    all_of,
    expires,
    hash_gone,
    in_the_intermediate_list,
    left,
    on_another_queue,
    scheduled,
)

NOTHING = all_of()


@pytest.mark.parametrize(
    ("queue", "arrange", "outcome", "after"),
    [
        pytest.param("a b", NOTHING, "queued", "LINK a b", id="no job"),
        pytest.param("a LINK b", NOTHING, "already_queued", "LINK a b", id="waiting"),
        pytest.param("a LINK b", expires, "already_queued", "LINK a b", id="waiting, expires"),
        pytest.param("LINK a LINK", NOTHING, "already_queued", "LINK a", id="enqueued twice"),
        pytest.param("a LINK b", hash_gone, "replaced_stale", "LINK a b", id="hash gone"),
        pytest.param("a b", left(JobStatus.FAILED), "replaced_stale", "LINK a b", id="stale"),
        pytest.param("a", scheduled, "already_queued", "a", id="scheduled"),
        pytest.param("a", in_the_intermediate_list, "already_queued", "a", id="taken"),
        pytest.param("a", on_another_queue, "already_queued", "a", id="on another queue"),
    ],
)
def test_front_moves_a_job_in_the_queue_to_its_head_and_no_other(
    docora: Docora, queue: str, arrange: Arrange, outcome: str, after: str
) -> None:
    link = docora.add_link()

    def ids(names: str) -> Sequence[str]:
        return names.replace("LINK", link.job_id).split()

    for job_id in ids(queue):
        docora.enqueue(job_id)
    arrange(docora, link.job_id)
    fields, registries = docora.job_hash(link.job_id), docora.registries(link.job_id)
    result = docora.run("retry", link.app_id, link.repository_id, "--front", "--json")
    assert (result.code, result.data["outcome"]) == (0, outcome), result
    assert docora.waiting() == ids(after)
    assert docora.redis.ttl(Job.key_for(link.job_id)) == -1
    if outcome == "already_queued":
        assert docora.job_hash(link.job_id) == fields
        assert docora.registries(link.job_id) == registries
    else:
        assert docora.registries(link.job_id) == set()


def test_without_front_a_waiting_job_keeps_its_place(docora: Docora) -> None:
    link = docora.add_link()
    for job_id in ("first", link.job_id, "last"):
        docora.enqueue(job_id)
    docora.actions().retry(link)
    assert docora.waiting() == ["first", link.job_id, "last"]
