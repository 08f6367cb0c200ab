"""Whatever Postgres believes of its tables, a claim does not go through a product of them."""

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from docora_ops.database.link_rows import (
    Claim,
    claim_due_links,
    claim_matching_links,
    claim_unfinished_links,
)
from docora_ops.links import LinkFilter
from tests.support.docora import Docora
from tests.support.proxy import patience

LINKS = 6_000
EMPTY = b"DELETE FROM app_repositories; DELETE FROM apps; DELETE FROM repositories"


@pytest.mark.parametrize(
    ("status", "claim"),
    [
        ("failed", partial(claim_matching_links, which=LinkFilter())),
        ("scanning", partial(claim_unfinished_links, error="x", max_attempts=9)),
        ("pending_snapshot", partial(claim_due_links, rescan_interval_ms=300_000)),
    ],
)
def test_misleading_statistics_do_not_slow_a_claim(
    docora: Docora, status: str, claim: Callable[..., list[Claim]]
) -> None:
    connection = docora.connection
    # Many links, when Postgres last counted one, and no apps and repositories at all.
    docora.add_links(LINKS, apps=2)
    connection.execute(EMPTY)
    connection.execute("ANALYZE apps, repositories")
    docora.add_links(1)
    connection.execute("ANALYZE app_repositories")
    connection.execute(EMPTY)
    docora.add_links(LINKS, apps=2, status=status)
    ids = [str(row["id"]) for row in connection.execute("SELECT id FROM app_repositories")]
    # Once through all is a tenth of this, a product more than its double: 2 s on a quiet machine.
    database = docora.actions(statement_timeout=round(patience() / 15)).database
    with database.transaction():
        claims = claim(database, ids)
    assert Counter(claim.outcome for claim in claims) == {None: LINKS}
    assert docora.statuses() == {"pending_snapshot": LINKS}
    # TRUNCATE forgets the counts; the tests that follow would be slow with them.
    connection.execute("TRUNCATE apps, repositories, app_repositories CASCADE")
