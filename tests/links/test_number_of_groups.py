"""However many kinds of errors there are, as many are told apart as memory has room for."""

from __future__ import annotations

import pytest

from docora_ops.actions import links
from docora_ops.link_lists import ErrorGroup
from docora_ops.links import LinkFilter
from docora_ops.pages import Page
from tests.support.docora import Docora


def test_kinds_of_errors_beyond_the_limit_become_one(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(60)
    docora.connection.execute(
        "UPDATE app_repositories SET last_error = 'kind ' || translate(id::text, '0123456789-', '')"
    )
    database = docora.actions().database

    def groups() -> Page[ErrorGroup]:
        return links.count_by_error(database, LinkFilter(), page=1, limit=100)

    every = groups()
    monkeypatch.setattr(links, "_MOST_GROUPS", 10)
    monkeypatch.setattr(links, "_FOLDED_AT_ONCE", 7)
    some = groups()
    assert every.total > 11
    assert some.total == 11
    assert some.rows[0].error_message == links.OTHER_ERRORS
    assert sum(group.links for group in some.rows) == 60
