"""`--front`: a job comes to the head of the queue, and stands there once."""

from __future__ import annotations

import pytest
from rq.job import Job

from docora_ops.links import Outcome
from tests.support.docora import QUEUE, Docora
from tests.support.job_states import (
    Arrange,
    in_the_intermediate_list,
    on_another_queue,
    scheduled,
)


def test_front_pushes_a_new_job_to_the_head(docora: Docora) -> None:
    for job_id in ("first", "second"):
        docora.enqueue(job_id)
    link = docora.add_link()
    assert docora.actions().retry(link, front=True).outcome is Outcome.QUEUED
    assert docora.waiting() == [link.job_id, "first", "second"]


@pytest.mark.parametrize("ttl", [None, 300])
def test_front_moves_a_waiting_job_to_the_head(docora: Docora, ttl: int | None) -> None:
    link = docora.add_link()
    for job_id in ("first", link.job_id, "last"):
        docora.enqueue(job_id)
    if ttl:
        docora.redis.expire(Job.key_for(link.job_id), ttl)
    before = docora.job_hash(link.job_id)
    assert docora.actions().retry(link, front=True).outcome is Outcome.ALREADY_QUEUED
    assert docora.waiting() == [link.job_id, "first", "last"]
    assert docora.job_hash(link.job_id) == before
    assert docora.redis.ttl(Job.key_for(link.job_id)) == -1


def test_without_front_a_waiting_job_keeps_its_place(docora: Docora) -> None:
    link = docora.add_link()
    for job_id in ("first", link.job_id, "last"):
        docora.enqueue(job_id)
    docora.actions().retry(link)
    assert docora.waiting() == ["first", link.job_id, "last"]


def test_front_moves_a_revived_job_to_the_head(docora: Docora) -> None:
    link = docora.add_link()
    for job_id in ("first", link.job_id, "last"):
        docora.enqueue(job_id)
    docora.redis.delete(Job.key_for(link.job_id))
    assert docora.actions().retry(link, front=True).outcome is Outcome.REPLACED_STALE
    assert docora.waiting() == [link.job_id, "first", "last"]


def test_front_leaves_one_place_of_a_job_that_was_enqueued_twice(docora: Docora) -> None:
    link = docora.add_link()
    for job_id in (link.job_id, "middle", link.job_id):
        docora.enqueue(job_id)
    docora.actions().retry(link, front=True)
    assert docora.waiting() == [link.job_id, "middle"]


def test_front_does_not_bring_a_scheduled_job_forward(docora: Docora) -> None:
    link = docora.add_link()
    scheduled(docora, link.job_id)
    docora.enqueue("first")
    assert docora.actions().retry(link, front=True).outcome is Outcome.ALREADY_QUEUED
    assert docora.waiting() == ["first"]
    assert docora.registries(link.job_id) == {f"rq:scheduled:{QUEUE}"}


@pytest.mark.parametrize("arrange", [in_the_intermediate_list, on_another_queue])
def test_front_does_not_double_a_job_that_waits_elsewhere(docora: Docora, arrange: Arrange) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)
    docora.enqueue("first")
    docora.actions().retry(link, front=True)
    assert docora.waiting() == ["first"]
