"""What the tests of `--in-flight` look at: links in flight, and links that were left alone."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.support.docora import Docora


class Watch:
    """What a worker sees of the links in flight."""

    def __init__(self, docora: Docora, error: Callable[[str], str | None] = lambda _: None) -> None:
        self.docora = docora
        self.error = error
        self.taken: list[str] = []
        self.most = 0
        self.most_by_app: Counter[str] = Counter()

    def __call__(self, job_id: str) -> str | None:
        self.taken.append(job_id)
        rows = self.docora.actions().database.rows(
            "SELECT app_id, count(*) FROM docora.app_repositories WHERE status = 'pending_snapshot'"
            " GROUP BY app_id",
            {},
        )
        by_app: Counter[str] = Counter(dict(rows))
        self.most = max(self.most, by_app.total())
        self.most_by_app |= by_app
        return self.error(job_id)


def untouched(docora: Docora, status: str) -> dict[str, Any]:
    """The version of each row with this status."""
    rows = docora.connection.execute(
        "SELECT app_id || '-' || repository_id AS job_id, xmin::text, ctid::text"
        " FROM app_repositories WHERE status = %s",
        (status,),
    ).fetchall()
    return {row["job_id"]: row for row in rows}


def assert_left_as_they_were(docora: Docora, before: dict[str, Any], status: str) -> int:
    """No row with the status has changed. Returns how many there are."""
    left = untouched(docora, status)
    assert left == {job_id: before[job_id] for job_id in left}
    return len(left)
