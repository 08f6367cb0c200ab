"""Two links whose ids form one job id: a job of the one is none of the other."""

from __future__ import annotations

import pytest

from docora_ops.links import Outcome
from tests.support.docora import Docora


def test_a_job_id_that_the_other_link_takes_during_a_bulk_retry_loses_none(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = {
        link.app_id: link
        for link in (
            docora.link(docora.add_app("One", "a-b"), docora.add_repository("octo/one", "c")),
            docora.link(docora.add_app("Two", "a"), docora.add_repository("octo/two", "b-c")),
        )
    }
    actions, rival = docora.actions(), docora.actions()
    check = actions.queue.is_made_for
    overtaken: list[str] = []

    def check_then_be_overtaken(job_id: str, app_id: str) -> bool:
        answer = check(job_id, app_id)
        if not overtaken:
            overtaken.append(app_id)
            [other] = links.keys() - {app_id}
            rival.retry(links[other])
        return answer

    monkeypatch.setattr(actions.queue, "is_made_for", check_then_be_overtaken)
    result = actions.retry_all()
    [loser] = overtaken
    [winner] = links.keys() - {loser}
    assert result.counts == {Outcome.FAILED: 1, Outcome.SKIPPED: 1}
    assert "held by the job of another link" in result.failures[0].error
    assert docora.status(links[loser]) == "failed"
    assert docora.was_reset(links[winner])
    assert docora.job(links[winner]).kwargs["app_id"] == winner
