"""No command searches for each of many links: neither the queue's list, nor Postgres's tables."""

from collections import Counter
from itertools import takewhile

import pytest

from docora_ops.database.claims import Claiming, claim_links
from docora_ops.links import LinkFilter, LinkRef
from tests.support.docora import Docora
from tests.support.proxy import patience

KEY = "rq:queue:snapshot-queue"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "searches"),
    [
        *(("links --limit 1000", 0), ("status", 0), ("queue", 0)),
        *(("retry-all-failed --yes", 0), ("show", 1), ("retry", 1)),
    ],
)
def test_a_command_searches_for_no_more_jobs_than_it_names(
    docora: Docora, command: str, searches: int
) -> None:
    docora.add_links(300)
    docora.actions().retry_all(batch_size=1000)
    for link in docora.links()[7:207]:
        docora.set_link(link, status="failed")
    docora.age_links()
    words = [*command.split(), *(docora.links()[7].ids if searches else ())]
    with docora.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        assert docora.run(*words).code == 0
        docora.redis.echo("the end")
        sent = [
            each["command"]
            for each in takewhile(lambda each: each["command"] != "ECHO the end", monitor.listen())
        ]
    found = [each for each in sent if each.upper().startswith(f"LPOS {KEY} ".upper())]
    assert len(found) == searches, found
    if command == "show":
        assert found[0].endswith("MAXLEN 10000")
    read = [each.split()[2:] for each in sent if each.startswith(f"LRANGE {KEY} ")]
    assert all(0 <= int(end) - int(start) < 5000 for start, end in read), read
    whole = [start for start, _ in read if int(start) < 0]
    # One page, and one behind the end of the list.
    assert len(whole) == (2 if "all" in command else 0), read
    assert not [
        each for each in sent if each.upper().startswith((f"LREM {KEY} ".upper(), "LSET", "LINDEX"))
    ]


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
def test_a_claim_needs_no_statistics(docora: Docora, status: str, claiming: Claiming) -> None:
    """Whatever Postgres believes of its tables, a claim does not go through a product of them."""
    connection = docora.connection
    # Many links, when Postgres last counted one, and no apps and repositories at all.
    docora.add_links(LINKS, apps=2)
    connection.execute(EMPTY)
    connection.execute("ANALYZE apps, repositories")
    docora.add_links(1)
    connection.execute("ANALYZE app_repositories")
    connection.execute(EMPTY)
    docora.add_links(LINKS, apps=2, status=status)
    rows = connection.execute("SELECT id, app_id, repository_id FROM app_repositories")
    refs = [LinkRef(str(row["id"]), row["app_id"], row["repository_id"]) for row in rows]
    # Once through all is a tenth of this, a product more than its double: 2 s on a quiet machine.
    database = docora.actions(statement_timeout=round(patience() / 15)).database
    with database.transaction():
        claims = claim_links(database, refs, claiming)
    assert Counter(claim.refusal for claim in claims.values()) == {None: LINKS}
    assert docora.statuses() == {"pending_snapshot": LINKS}
    # TRUNCATE forgets the counts; the tests that follow would be slow with them.
    connection.execute("TRUNCATE apps, repositories, app_repositories CASCADE")
