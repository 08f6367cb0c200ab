"""From the look at its status to the commit, nobody else changes the row of a link."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from docora_ops.database.links import held_job_ids
from docora_ops.models import Outcome
from tests.harness import Docora


@pytest.mark.parametrize("command", ["retry", "resync"])
def test_one_link_cannot_change_between_the_check_and_the_reset(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    link = docora.add_link()
    refusals: list[str] = []

    def try_to_change_then_look(*arguments: Any) -> set[str]:
        with psycopg.connect(docora.database_url, autocommit=True) as other:
            other.execute("SET lock_timeout = '10ms'")
            try:
                other.execute("UPDATE app_repositories SET status = 'synced'")
            except psycopg.errors.LockNotAvailable:
                refusals.append("locked")
        return held_job_ids(*arguments)

    monkeypatch.setattr("docora_ops.actions.single.held_job_ids", try_to_change_then_look)
    assert getattr(docora.rooms(), command)(link).outcome is Outcome.QUEUED
    assert refusals == ["locked"]
