"""The links that a bulk operation works through, listed once at its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from sys import intern

from docora_ops.database.link_rows import (
    DUE,
    FAILED,
    NOT_HELD_BACK,
    Claim,
    claim_due_links,
    claim_failed_links,
    claim_links_of_app,
)
from docora_ops.database.postgres import Database
from docora_ops.links import App, AppCount, FailedFilter, LinkRef

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

_SELECT = "SELECT l.id::text, l.app_id, l.repository_id"

_COUNT_BY_APP = """
SELECT app_id, app_name, count(*) FROM (SELECT l.app_id, a.app_name {links}) AS selected
GROUP BY app_id, app_name ORDER BY app_id
"""

SELECT_FAILED = f"{_SELECT} {_FAILED} AND {NOT_HELD_BACK} {_ORDER}"
COUNT_FAILED = _COUNT_BY_APP.replace("{links}", f"{_FAILED} AND {NOT_HELD_BACK}")
SELECT_FAILED_SHARES = _SELECT + _FAILED_SHARES + _ORDER
SELECT_OF_APP = _SELECT + _OF_APP + _ORDER
COUNT_OF_APP = _COUNT_BY_APP.replace("{links}", _OF_APP)
SELECT_DUE = _SELECT + _DUE + _ORDER
COUNT_DUE = _COUNT_BY_APP.replace("{links}", _DUE)

_ROWS_AT_ONCE = 1000

Claiming = Callable[[Database, Sequence[str]], list[Claim]]


@dataclass(frozen=True)
class Selection:
    """Links in the order of app id, then repository id, as they were at one moment.

    They are listed once: paging by status would walk over the dead index entries of all the rows
    that are done already, again and again.
    """

    refs: Sequence[LinkRef]
    by_app: Sequence[AppCount]
    claim: Claiming
    """Locks links, by their ids, and tells which do not qualify any more."""
    open_circuits_left_out: int | None = None

    @property
    def total(self) -> int:
        """How many links there are."""
        return len(self.refs)


def select_failed(database: Database, which: FailedFilter) -> Selection:
    """The failed links that match."""
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
            refs = _refs(database, SELECT_FAILED_SHARES, parameters)
        else:
            refs = _refs(database, SELECT_FAILED, parameters)
    return Selection(refs, by_app, partial(claim_failed_links, which=which), left_out)


def select_of_app(database: Database, app_id: str) -> Selection:
    """Every link of an app."""
    parameters = {"app_id": app_id}
    with database.snapshot():
        by_app = _count(database, COUNT_OF_APP, parameters)
        refs = _refs(database, SELECT_OF_APP, parameters)
    return Selection(refs, by_app, partial(claim_links_of_app, app_id=app_id))


def select_due(database: Database, rescan_interval_ms: int) -> Selection:
    """The links that a job is due for."""
    parameters = {"rescan_interval_ms": rescan_interval_ms}
    with database.snapshot():
        by_app = _count(database, COUNT_DUE, parameters)
        refs = _refs(database, SELECT_DUE, parameters)
    claim = partial(claim_due_links, rescan_interval_ms=rescan_interval_ms)
    return Selection(refs, by_app, claim)


def _refs(database: Database, sql: str, parameters: Mapping[str, object]) -> list[LinkRef]:
    rows = database.stream(sql, parameters, at_once=_ROWS_AT_ONCE)
    # One string for all links of an app: there may be a million.
    return [LinkRef(id_, intern(app_id), repository_id) for id_, app_id, repository_id in rows]


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
