"""A fixed selection of links that a bulk operation works through."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial

from docora_ops.database.connection import Database
from docora_ops.database.links import (
    DUE,
    FAILED,
    NOT_HELD_BACK,
    Claim,
    claim_due_links,
    claim_failed_links,
    claim_links,
)
from docora_ops.errors import PostgresError
from docora_ops.models import App, AppCount, FailedFilter, LinkRef

_FAILED = f"""
FROM app_repositories l JOIN apps a USING (app_id) JOIN repositories r USING (repository_id)
WHERE {FAILED}
"""

_FAILED_SHARES = f"""
FROM unnest(%(app_ids)s::text[], %(shares)s::bigint[]) AS share(app_id, links)
CROSS JOIN LATERAL (
    SELECT l.id, l.app_id, l.repository_id {_FAILED} AND {NOT_HELD_BACK} AND l.app_id = share.app_id
    ORDER BY l.repository_id LIMIT share.links
) AS l
"""

_OF_APP = """
FROM app_repositories l JOIN apps a USING (app_id)
WHERE l.app_id = %(app_id)s
"""

_DUE = f"""
FROM app_repositories l JOIN apps a USING (app_id) JOIN repositories r USING (repository_id)
WHERE {DUE}
"""

_ORDER = "ORDER BY l.app_id, l.repository_id"

COUNT_OPEN_CIRCUITS = f"SELECT count(*) {_FAILED} AND r.circuit_open_until > now()"

# Fixed once: paging by status again and again would walk over the dead index entries of all the
# rows that are done already.
_DECLARE = """
DECLARE docora_ops_selection SCROLL CURSOR WITH HOLD FOR
SELECT l.id::text, l.app_id, l.repository_id
"""

_COUNT_BY_APP = """
SELECT app_id, app_name, count(*) FROM (SELECT l.app_id, a.app_name {links}) AS selected
GROUP BY app_id, app_name ORDER BY app_id
"""

DECLARE_FAILED = f"{_DECLARE} {_FAILED} AND {NOT_HELD_BACK} {_ORDER}"
COUNT_FAILED = _COUNT_BY_APP.replace("{links}", f"{_FAILED} AND {NOT_HELD_BACK}")
DECLARE_FAILED_SHARES = _DECLARE + _FAILED_SHARES + _ORDER
DECLARE_OF_APP = _DECLARE + _OF_APP + _ORDER
COUNT_OF_APP = _COUNT_BY_APP.replace("{links}", _OF_APP)
DECLARE_DUE = _DECLARE + _DUE + _ORDER
COUNT_DUE = _COUNT_BY_APP.replace("{links}", _DUE)

# These two take no parameters; what is put in is our own number.
MOVE = "MOVE ABSOLUTE {position} IN docora_ops_selection"
FETCH = "FETCH FORWARD {count} FROM docora_ops_selection"
CLOSE = "CLOSE docora_ops_selection"

Claiming = Callable[[Database, Sequence[str]], list[Claim]]


@dataclass(frozen=True)
class Selection:
    """Links in the order of app id, then repository id, as they were at one moment."""

    database: Database
    by_app: tuple[AppCount, ...]
    claim: Claiming
    """Locks links, by their ids, and tells which do not qualify any more."""
    open_circuits_left_out: int | None = None

    @cached_property
    def total(self) -> int:
        """How many links there are."""
        return sum(count.links for count in self.by_app)

    def batches(self, size: int) -> Iterator[list[LinkRef]]:
        """All links, `size` at a time."""
        self.database.execute(MOVE.replace("{position}", "0"))
        while refs := self._fetch(size):
            yield refs

    def at(self, positions: Sequence[int], size: int) -> Iterator[list[LinkRef]]:
        """The links at these ascending positions, counted from 0, at most `size` at a time."""
        start = 0
        while start < len(positions):
            first = positions[start]
            end = bisect_left(positions, first + size)
            self.database.execute(MOVE.replace("{position}", str(first)))
            refs = self._fetch(positions[end - 1] - first + 1)
            yield [refs[position - first] for position in positions[start:end]]
            start = end

    def _fetch(self, count: int) -> list[LinkRef]:
        return [LinkRef(*row) for row in self.database.rows(FETCH.replace("{count}", str(count)))]


@contextmanager
def select_failed(database: Database, which: FailedFilter) -> Iterator[Selection]:
    """The failed links that match; the selection lives until the block ends."""
    parameters = asdict(which)
    with database.snapshot():
        left_out = None
        if which.skip_open_circuits:
            row = database.row(COUNT_OPEN_CIRCUITS, parameters)
            left_out = int(row[0]) if row else 0
        by_app = _count(database, COUNT_FAILED, parameters)
        if which.limit is not None and which.limit < sum(count.links for count in by_app):
            by_app = _spread(by_app, which.limit)
            parameters["app_ids"] = [count.app.app_id for count in by_app]
            parameters["shares"] = [count.links for count in by_app]
            database.execute(DECLARE_FAILED_SHARES, parameters)
        else:
            database.execute(DECLARE_FAILED, parameters)
    with _closing_in_the_end(database):
        claim = partial(claim_failed_links, which=which)
        yield Selection(database, by_app, claim, left_out)


@contextmanager
def select_of_app(database: Database, app_id: str) -> Iterator[Selection]:
    """Every link of an app; the selection lives until the block ends."""
    parameters = {"app_id": app_id}
    with database.snapshot():
        by_app = _count(database, COUNT_OF_APP, parameters)
        database.execute(DECLARE_OF_APP, parameters)
    with _closing_in_the_end(database):
        yield Selection(database, by_app, claim_links)


@contextmanager
def select_due(database: Database, rescan_interval_ms: int) -> Iterator[Selection]:
    """The links that a job is due for; the selection lives until the block ends."""
    parameters = {"rescan_interval_ms": rescan_interval_ms}
    with database.snapshot():
        by_app = _count(database, COUNT_DUE, parameters)
        database.execute(DECLARE_DUE, parameters)
    with _closing_in_the_end(database):
        claim = partial(claim_due_links, rescan_interval_ms=rescan_interval_ms)
        yield Selection(database, by_app, claim)


def _count(database: Database, sql: str, parameters: Mapping[str, object]) -> tuple[AppCount, ...]:
    rows = database.rows(sql, parameters)
    return tuple(AppCount(App(app_id, app_name), links) for app_id, app_name, links in rows)


def _spread(by_app: Sequence[AppCount], limit: int) -> tuple[AppCount, ...]:
    """Each app's share of `limit` links, which are fewer than there are."""
    share, left = 0, limit
    for apps, links in zip(
        range(len(by_app), 0, -1), sorted(count.links for count in by_app), strict=True
    ):
        if (links - share) * apps > left:
            share, left = share + left // apps, left % apps
            break
        left -= (links - share) * apps
        share = links
    shares = []
    for count in by_app:
        links = min(count.links, share)
        if left and count.links > share:
            links, left = links + 1, left - 1
        if links:
            shares.append(AppCount(count.app, links))
    return tuple(shares)


@contextmanager
def _closing_in_the_end(database: Database) -> Iterator[None]:
    try:
        yield
    finally:
        # Where the connection is lost, so is the cursor.
        with suppress(PostgresError):
            database.execute(CLOSE)
