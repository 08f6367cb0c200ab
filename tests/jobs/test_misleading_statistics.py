"""Whatever Postgres believes of its tables, a claim does not go through a product of them."""

from collections import Counter

import pytest

from docora_ops.database.claims import Claiming, claim_links
from docora_ops.links import LinkFilter
from tests.support.docora import Docora
from tests.support.proxy import patience

LINKS = 6_000
EMPTY = b"DELETE FROM app_repositories; DELETE FROM apps; DELETE FROM repositories"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "claiming"),
    [
        ("failed", Claiming.of_matching(LinkFilter())),
        ("scanning", Claiming.of_unfinished(error="x", max_attempts=9)),
    ],
)
def test_misleading_statistics_do_not_slow_a_claim(
    docora: Docora, status: str, claiming: Claiming
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
        claims = claim_links(database, ids, claiming)
    assert Counter(claim.outcome for claim in claims) == {None: LINKS}
    assert docora.statuses() == {"pending_snapshot": LINKS}
    # TRUNCATE forgets the counts; the tests that follow would be slow with them.
    connection.execute("TRUNCATE apps, repositories, app_repositories CASCADE")
