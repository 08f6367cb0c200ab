"""What a worker sees of the links in flight."""

from collections import Counter
from collections.abc import Callable

from tests.support.docora import Docora


class Watch:
    """Notes how many links are in flight, each time that a worker takes a job."""

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
