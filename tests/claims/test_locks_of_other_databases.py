"""Advisory locks that are not those of a worker."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from docora_ops.links import Outcome
from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.rows import TestLink

CHANGES: dict[str, Callable[[Actions, TestLink], object]] = {
    "retry": lambda actions, link: actions.retry(link).outcome,
    "retry_all": lambda actions, link: next(iter(actions.retry_all().counts)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_lock_in_another_database_is_none_of_a_worker(
    docora: Docora, postgres_url: str, change: Callable[[Actions, TestLink], object]
) -> None:
    """Two Docoras on one server, one a copy of the other: their links have the same ids."""
    link = docora.add_link()
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (link.job_id,))
        assert change(docora.actions(), link) is Outcome.QUEUED
