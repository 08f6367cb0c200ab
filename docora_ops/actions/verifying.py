"""Verifies that links have received the files of their stored commits. Writes nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from sys import intern

from docora_ops.actions.docora import Docora
from docora_ops.actions.find_drift import Suspects, pause_between_looks
from docora_ops.actions.lookup import resolve_app, resolve_link
from docora_ops.database import Database
from docora_ops.database.link_rows import names_of
from docora_ops.database.verification import (
    ComparedLink,
    compare_links,
    compare_page,
    count_links_of_app,
)
from docora_ops.errors import ConflictError, StatementTimeoutError
from docora_ops.links import LinkRef, LinkStatus, batches
from docora_ops.text import mask
from docora_ops.verification import DifferingLink, Verification

_FIRST_PAGE, _LARGEST_PAGE = 20, 2000  # links in one statement
_FAST, _SLOW = 0.3, 2  # seconds of a statement, after which the next one gets more or fewer links
_MOST_WITH_EXAMPLES = 1000  # links: a path can have a thousand characters
_AT_ONCE = 5000
_MOST_CONFLICTS = 5  # of one statement with another session, such as one that truncates tables


@dataclass(frozen=True, slots=True)
class Compared:
    """The number of links compared so far at the first look, out of `total`."""

    links: int
    total: int


class _Verdict(StrEnum):
    PROVEN = "proven"
    DIFFERING = "differing"
    UNCERTAIN = "uncertain"
    NOT_COMPARABLE = "not_comparable"
    NOT_SYNCED = "not_synced"
    SCANNING = "scanning"
    CHANGING = "changing"


_DIFFERS = {_Verdict.DIFFERING, _Verdict.UNCERTAIN}


def verify(
    docora: Docora, app: str | None = None, repository: str | None = None
) -> Iterator[Compared | Suspects | Verification]:
    """Compares what was delivered with the stored commits: of all links, of one app, or one link.

    Compares `app_delivered_files` with `snapshot_files` by path and SHA-256. Only what differs in
    the same way in two looks counts. Yields Compared after each statement of the first look,
    Suspects until the second look, and finally the Verification.

    app: id or name, or an unambiguous prefix of either.
    repository: id, `owner/name` or GitHub URL.

    Raises NotFoundError, AmbiguousError, PostgresError.
    """
    database, ref, app_id = docora.database, None, None
    if app is not None and repository is not None:
        ref = resolve_link(database, app, repository).ref
    elif app is not None:
        app_id = resolve_app(database, app).app_id
    total = 1 if ref else count_links_of_app(database, app_id)
    yield Compared(0, total)
    counts: Counter[_Verdict] = Counter()
    suspects: dict[LinkRef, str] = {}
    pace = _Pace()
    first = iter([compare_links(database, [ref])]) if ref else _pages(database, app_id, pace)
    for page in first:
        for link in page:
            verdict = _judge(link)
            if verdict in _DIFFERS:
                # One string for all links of an app or a repository: there may be a million.
                ids = (intern(link.ref.app_id), intern(link.ref.repository_id))
                suspects[LinkRef(link.ref.id, *ids)] = link.state
            else:
                counts[verdict] += 1
        compared = counts.total() + len(suspects)
        yield Compared(compared, max(total, compared))
    found: list[DifferingLink] = []
    if suspects:
        yield from pause_between_looks(len(suspects), docora.settings.drift_grace)
        for links in _again(database, list(suspects), pace):
            for link in links:
                verdict = _judge(link)
                if verdict in _DIFFERS and link.state != suspects[link.ref]:
                    verdict = _Verdict.CHANGING
                counts[verdict] += 1
                if verdict in _DIFFERS:
                    found.append(_differing(link, with_examples=len(found) < _MOST_WITH_EXAMPLES))
            yield Suspects(len(suspects))
    named = [
        replace(link, app_name=app_name, repository_name=repository_name)
        for some in batches(found, _AT_ONCE)
        for link, (app_name, repository_name) in zip(some, names_of(database, some), strict=True)
    ]
    yield Verification(
        links=counts.total(),
        **{verdict.value: counts[verdict] for verdict in _Verdict},
        differing_links=[link for link in named if link.doubt is None],
        uncertain_links=[link for link in named if link.doubt],
    )


def _judge(link: ComparedLink) -> _Verdict:
    """Returns the verdict of one look."""
    if link.is_scanned:
        return _Verdict.SCANNING
    if link.status != LinkStatus.SYNCED:
        return _Verdict.NOT_SYNCED
    if not link.has_commit:
        return _Verdict.NOT_COMPARABLE
    if not link.differs:
        return _Verdict.PROVEN
    return _Verdict.UNCERTAIN if link.doubt else _Verdict.DIFFERING


def _differing(link: ComparedLink, *, with_examples: bool) -> DifferingLink:
    examples = [replace(each, path=mask(each.path)) for each in link.examples if with_examples]
    ids = (intern(link.ref.app_id), None, intern(link.ref.repository_id), None)
    counts = (link.missing, link.outdated, link.extra)
    return DifferingLink(*ids, link.last_scanned_at, *counts, examples, link.doubt)


def _pages(database: Database, app_id: str | None, pace: _Pace) -> Iterator[list[ComparedLink]]:
    """Compares all links, as many in one statement as take about a second."""
    after: LinkRef | None = None
    while page := pace.compare(partial(compare_page, database, after, app_id)):
        yield page
        after = page[-1].ref


def _again(database: Database, refs: list[LinkRef], pace: _Pace) -> Iterator[list[ComparedLink]]:
    while refs:
        links = pace.compare(lambda size: compare_links(database, refs[:size]))
        del refs[: pace.last]
        yield links


@dataclass
class _Pace:
    """Adapts the number of links in a statement, so that each ends before the statement timeout."""

    size: int = _FIRST_PAGE
    last: int = 0
    """The number of links that the last statement was given."""

    def compare(self, compare: Callable[[int], list[ComparedLink]]) -> list[ComparedLink]:
        """Compares as many links as fit. Raises StatementTimeoutError if one alone does not."""
        conflicts = 0
        while True:
            self.last, began = self.size, time.monotonic()
            try:
                found = compare(self.size)
            except StatementTimeoutError:
                if self.size == 1:
                    raise
                self.size = max(1, self.size // 4)
                continue
            except ConflictError:
                conflicts += 1
                if conflicts == _MOST_CONFLICTS:
                    raise
                continue
            seconds = time.monotonic() - began
            if seconds < _FAST:
                self.size = min(self.size * 2, _LARGEST_PAGE)
            elif seconds > _SLOW:
                self.size = max(1, self.size // 2)
            return found
