"""The links of a bulk operation, chosen once at its start."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from sys import intern

from docora_ops.database.claims import Claiming
from docora_ops.database.link_rows import COUNT_MATCHING, DUE, MATCHES, filter_parameters
from docora_ops.database.names import app_names
from docora_ops.database.postgres import Database
from docora_ops.links import AppCount, LinkFilter, LinkRef, LinkStatus
from docora_ops.operations import LeftToOperation

_SELECT = """
SELECT l.id::text, l.app_id, l.repository_id
FROM docora.app_repositories l JOIN docora.repositories r USING (repository_id)
WHERE {condition}
ORDER BY row_number() OVER (PARTITION BY l.app_id ORDER BY l.repository_id), l.app_id
LIMIT %(limit)s
"""


@dataclass(frozen=True)
class Selection:
    """The links of a bulk operation, listed once at its start, round-robin across apps.

    Round-robin, so that no app waits for all links of another app. Listed once, because a later
    read would first have to pass the dead index entries of all links already changed.
    """

    refs: Sequence[LinkRef]
    by_app: Sequence[AppCount]
    claiming: Claiming
    open_circuits_left_out: int | None = None  # links with an open circuit; None: not left out
    left_to_operations: Sequence[LeftToOperation] = ()
    held_left_out: Sequence[AppCount] = ()  # held apps, whose links were left out

    @property
    def total(self) -> int:
        """Counts the links."""
        return len(self.refs)

    @property
    def held_names(self) -> list[str]:
        """Returns the names of the held apps, whose links were left out."""
        return [app.app_name for app in self.held_left_out]


def keep_links(selection: Selection, refs: Sequence[LinkRef]) -> Selection:
    """Returns the selection with only the links `refs`."""
    counts = Counter(ref.app_id for ref in refs)
    by_app = [replace(app, links=counts[app.app_id]) for app in selection.by_app]
    return replace(selection, refs=refs, by_app=[app for app in by_app if app.links])


def select_links(
    database: Database,
    which: LinkFilter,
    *,
    limit: int | None = None,
    skip_open_circuits: bool = False,
) -> Selection:
    """Selects at most `limit` links that match.

    skip_open_circuits: exclude links whose circuit is open, and count them. Also done if
        `which.open_circuit` is False.
    """
    if skip_open_circuits or which.open_circuit is False:
        closed = replace(which, open_circuit=False)
        claiming = Claiming.of_matching(replace(closed, or_behind_circuit=False))
        most = 0 if which.open_circuit else limit  # leaves out every link that was chosen
        selection = _select(
            database, MATCHES, filter_parameters(closed) | {"limit": most}, claiming
        )
        opened = filter_parameters(replace(which, open_circuit=True))
        [(left_out,)] = database.rows(COUNT_MATCHING, opened)
        return replace(selection, open_circuits_left_out=left_out)
    behind_circuit = [LinkStatus.PENDING_SNAPSHOT] if which.or_behind_circuit else []
    # The first batch, or the first link that a worker scans, closes the circuit. Later links of the
    # selection must still qualify then.
    statuses = [*which.statuses, *behind_circuit]
    claimed = replace(which, statuses=statuses, or_behind_circuit=False, open_circuit=None)
    parameters = filter_parameters(which) | {"limit": limit}
    return _select(database, MATCHES, parameters, Claiming.of_matching(claimed))


def select_due(database: Database, rescan_interval_ms: int) -> Selection:
    """Selects the links that are due, as Docora's own scheduler does."""
    parameters = {"rescan_interval_ms": rescan_interval_ms, "limit": None}
    return _select(database, DUE, parameters, Claiming.of_due(rescan_interval_ms))


def _select(
    database: Database, condition: str, parameters: Mapping[str, object], claiming: Claiming
) -> Selection:
    with database.consistent_reads():
        rows = database.stream(_SELECT.format(condition=condition), parameters)
        # Interned, because a million links may share the same few apps.
        refs = [LinkRef(id_, intern(app_id), repository_id) for id_, app_id, repository_id in rows]
        counts = Counter(ref.app_id for ref in refs)
        names = app_names(database, list(counts))
    by_app = [AppCount(app_id, names[app_id], count) for app_id, count in counts.items()]
    return Selection(refs, by_app, claiming)
