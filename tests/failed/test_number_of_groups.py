"""However many kinds of errors there are, as many are told apart as memory has room for."""

import pytest

from docora_ops.actions import failed
from docora_ops.failed_links import ErrorGroup, Page
from docora_ops.links import FailedFilter
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
        return failed.failed_links_by_error(database, FailedFilter(), page=1, limit=100)

    every = groups()
    monkeypatch.setattr(failed, "_MOST_GROUPS", 10)
    monkeypatch.setattr(failed, "_FOLDED_AT_ONCE", 7)
    some = groups()
    assert every.total > 11
    assert some.total == 11
    assert some.rows[0].error_message == failed.OTHER_ERRORS
    assert sum(group.links for group in some.rows) == 60
