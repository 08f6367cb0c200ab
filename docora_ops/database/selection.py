"""The links that a bulk operation works through, listed once at its start."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from sys import intern

from docora_ops.database.link_rows import (
    DUE,
    LINKS,
    MATCHES,
    NOT_HELD_BACK,
    Claim,
    claim_due_links,
    claim_failed_links,
    claim_links_of_app,
    filter_parameters,
)
from docora_ops.database.postgres import Database
from docora_ops.links import AppCount, LinkFilter, LinkRef, LinkStatus

_LINKS = """
SELECT l.id::text, l.app_id, l.repository_id
FROM docora.app_repositories l JOIN docora.repositories r USING (repository_id)
WHERE {condition}
ORDER BY row_number() OVER (PARTITION BY l.app_id ORDER BY l.repository_id), l.app_id
LIMIT %(limit)s
"""

SELECT_FAILED = _LINKS.format(condition=f"{MATCHES} AND {NOT_HELD_BACK}")
SELECT_OF_APP = _LINKS.format(condition=f"l.app_id = %(app_id)s AND {NOT_HELD_BACK}")
SELECT_DUE = _LINKS.format(condition=DUE)

COUNT_OPEN_CIRCUITS = f"""
SELECT count(*) FROM {LINKS} WHERE {MATCHES} AND r.circuit_open_until > now()
"""

APP_NAMES = "SELECT app_id, app_name FROM docora.apps WHERE app_id = ANY (%(app_ids)s::text[])"

Claiming = Callable[[Database, Sequence[str]], list[Claim]]
"""Locks and changes links, given by their row ids, that still qualify."""


@dataclass(frozen=True)
class Selection:
    """Links as they were at one moment: one of each app, then a second one of each, and so on.

    So no app's jobs wait in the queue behind all of another app.
    Paging by status instead would walk over the dead index entries of all rows that are done.
    """

    refs: Sequence[LinkRef]
    by_app: Sequence[AppCount]
    claim: Claiming
    open_circuits_left_out: int | None = None
    left_to_operations: Mapping[str, int] = field(default_factory=dict)
    """Due links that operations with `--in-flight` are going to queue, by operation id."""

    @property
    def total(self) -> int:
        """Counts the links."""
        return len(self.refs)


def select_failed(
    database: Database,
    which: LinkFilter,
    *,
    limit: int | None = None,
    skip_open_circuits: bool = False,
    or_held_back: bool = False,
) -> Selection:
    """Selects at most `limit` failed links that match.

    skip_open_circuits: exclude and count links of repositories whose circuit is open, as
    `which.open_circuit` False does.
    or_held_back: include pending links that an open circuit holds back.
    """
    statuses = [LinkStatus.FAILED]
    skip_open_circuits |= which.open_circuit is False
    open_circuit = which.open_circuit or None
    which = replace(which, statuses=statuses, open_circuit=open_circuit, or_held_back=or_held_back)
    parameters = filter_parameters(which) | {"skip_open_circuits": skip_open_circuits}
    if or_held_back and not skip_open_circuits:
        statuses = [*statuses, LinkStatus.PENDING_SNAPSHOT]
    # The first batch, or the first link that a worker scans, closes the circuit. The links were
    # chosen before that, so the later ones are not skipped for it.
    claimed = replace(which, statuses=statuses, open_circuit=None, or_held_back=False)
    claim = partial(claim_failed_links, which=claimed, skip_open_circuits=skip_open_circuits)
    selection = _selection(database, SELECT_FAILED, parameters, claim, limit)
    return _with_left_out(database, selection, which, skip_open_circuits)


def select_of_app(
    database: Database, app_id: str, *, skip_open_circuits: bool = False
) -> Selection:
    """Selects the links of an app, whatever their status."""
    of_app = {"app_id": app_id, "skip_open_circuits": skip_open_circuits}
    claim = partial(claim_links_of_app, app_id=app_id, skip_open_circuits=skip_open_circuits)
    selection = _selection(database, SELECT_OF_APP, of_app, claim)
    return _with_left_out(database, selection, LinkFilter(app_ids=[app_id]), skip_open_circuits)


def select_due(database: Database, rescan_interval_ms: int) -> Selection:
    """Selects the links that a job is due for.

    Pending links, synced links whose last scan is longer ago than the interval, and failed links
    whose repository's circuit was not opened since git last succeeded; no link of a repository
    whose circuit is open.
    """
    parameters = {"rescan_interval_ms": rescan_interval_ms}
    claim = partial(claim_due_links, rescan_interval_ms=rescan_interval_ms)
    return _selection(database, SELECT_DUE, parameters, claim)


def _with_left_out(
    database: Database, selection: Selection, which: LinkFilter, skip_open_circuits: bool
) -> Selection:
    """Adds the number of links that an open circuit excludes."""
    if not skip_open_circuits:
        return selection
    [(left_out,)] = database.rows(COUNT_OPEN_CIRCUITS, filter_parameters(which))
    return replace(selection, open_circuits_left_out=left_out)


def _selection(
    database: Database,
    sql: str,
    parameters: Mapping[str, object],
    claim: Claiming,
    limit: int | None = None,
) -> Selection:
    with database.snapshot():
        rows = database.stream(sql, {**parameters, "limit": limit})
        # One string for all links of an app: there may be a million.
        refs = [LinkRef(id_, intern(app_id), repository_id) for id_, app_id, repository_id in rows]
        counts = Counter(ref.app_id for ref in refs)
        names: dict[str, str] = dict(database.rows(APP_NAMES, {"app_ids": list(counts)}))
    by_app = [AppCount(app_id, names[app_id], count) for app_id, count in counts.items()]
    return Selection(refs, by_app, claim)
