"""Verifies that links have received the files of their stored commits. Writes nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from sys import intern

from docora_ops.actions.docora import Docora
from docora_ops.actions.drift import Suspects, pause_between_looks
from docora_ops.actions.holds import held_apps, warn_of_unknown_holds
from docora_ops.actions.lookup import resolve_app, resolve_link
from docora_ops.database import Database
from docora_ops.database.link_rows import names_of
from docora_ops.database.verification import (
    Compare,
    ComparedLink,
    DifferingFile,
    Doubt,
    compare_links,
    link_ids,
)
from docora_ops.errors import ConfigurationError, ConflictError, RedisError, StatementTimeoutError
from docora_ops.jobs import HeldApp
from docora_ops.links import LinkIds, LinkStatus
from docora_ops.text import mask

_FIRST_PAGE, _LARGEST_PAGE = 20, 2000  # links per statement
_FAST, _SLOW = 0.3, 2  # a statement below or above this many seconds changes the size of the next
_MOST_WITH_EXAMPLES = 1000  # links: a path can have a thousand characters
_ALL_FILES = Compare()
_MOST_CONFLICTS = 5  # tries of a statement, for example while another session truncates tables


@dataclass(frozen=True, slots=True)
class Compared:
    """The number of links compared so far in the first look, out of `total`."""

    links: int
    total: int


@dataclass(frozen=True, slots=True)
class DifferingLink(LinkIds):
    """A link whose delivered files differ from those of the stored commit.

    app_name, repository_name: None if the app or the repository has been removed meanwhile.
    examples: the first files of each kind of difference; empty from the 1,001st link on.
    doubt: why the difference is uncertain; None if it is certain.
    """

    app_id: str
    app_name: str | None
    repository_id: str
    repository_name: str | None
    last_scanned_at: datetime | None
    missing: int
    outdated: int
    extra: int
    examples: Sequence[DifferingFile]
    doubt: Doubt | None


@dataclass(frozen=True)
class Verification:
    """The result of a comparison. Each of the `links` is counted once.

    proven: exactly the files of the stored commit were delivered.
    uncertain: the files differ, but the scan of another link may have stored the commit.
    not_comparable: there is no stored commit.
    failed: the link is failed, so files of the stored commit or of a newer one may be missing.
    pending: skipped, because the link waits for its snapshot.
    scanning: skipped, because the link is being scanned.
    changing: skipped, because the delivery records changed during the comparison.
    held: the held apps to which any of the links belong; None if Redis could not be used.
    """

    links: int
    proven: int
    differing: int
    uncertain: int
    not_comparable: int
    failed: int
    pending: int
    scanning: int
    changing: int
    differing_links: Sequence[DifferingLink]
    uncertain_links: Sequence[DifferingLink]
    held: Sequence[HeldApp] | None

    @property
    def is_complete(self) -> bool:
        """Tells whether there are links, and all of them are proven."""
        return 0 < self.proven == self.links

    @property
    def has_problems(self) -> bool:
        """Tells whether a link differs or is failed."""
        return self.differing + self.failed > 0


class Verdict(StrEnum):
    """The result of the comparison of one link, as `Verification` counts it."""

    PROVEN = "proven"
    DIFFERING = "differing"
    UNCERTAIN = "uncertain"
    NOT_COMPARABLE = "not_comparable"
    FAILED = "failed"
    PENDING = "pending"
    SCANNING = "scanning"
    CHANGING = "changing"


_UNSYNCED: Mapping[str, Verdict] = {
    LinkStatus.FAILED: Verdict.FAILED,
    LinkStatus.SCANNING: Verdict.SCANNING,
}
_DIFFERS = {Verdict.DIFFERING, Verdict.UNCERTAIN}


@dataclass(frozen=True, slots=True)
class Judged:
    """A link, and the result of its comparison."""

    link: ComparedLink
    verdict: Verdict


def verify(
    docora: Docora, app: str | None = None, repository: str | None = None
) -> Iterator[Compared | Suspects | Verification]:
    """Compares delivery records with stored commits, for all links, one app or one link.

    Compares `app_delivered_files` with `snapshot_files` by path and SHA-256. A difference counts
    only if a second look finds the same. Yields Compared after each statement of the first look,
    Suspects every second until the second look, and finally the Verification.

    app: id or name, or an unambiguous prefix of either.
    repository: id, `owner/name` or GitHub URL.

    Raises NotFoundError, AmbiguousError, PostgresError.
    """
    database = docora.database
    if app is not None and repository is not None:
        ids = [resolve_link(database, app, repository).ref.id]
    else:
        app_id = None if app is None else resolve_app(database, app).app_id
        ids = link_ids(database, app_id)
    for event in compare(docora, ids):
        if not isinstance(event, Judged):
            yield event


def compare(
    docora: Docora, ids: Sequence[str], which: Compare = _ALL_FILES
) -> Iterator[Compared | Suspects | Judged | Verification]:
    """Compares the links with these row ids. Yields what `verify` yields, and each link as Judged.

    A link that differs at the first look is judged by a second look, `DOCORA_OPS_DRIFT_GRACE`
    seconds later. Raises PostgresError.

    which: which files and links to compare; see `Compare`.
    """
    database, counts, compared = docora.database, Counter[Verdict](), 0
    app_ids: set[str] = set()
    suspects: dict[str, str] = {}
    differing: list[DifferingLink] = []
    yield Compared(0, len(ids))
    for page in _pages(database, which, ids):
        for link in page:
            app_ids.add(link.ref.app_id)
            verdict = _judge(link)
            if verdict in _DIFFERS:
                suspects[link.ref.id] = link.state
            else:
                counts[verdict] += 1
                yield Judged(link, verdict)
        compared += len(page)
        yield Compared(compared, len(ids))
    if suspects:
        yield from pause_between_looks(len(suspects), docora.settings.drift_grace)
    for page in _pages(database, which, list(suspects)):
        for link in page:
            verdict = _judge(link)
            if verdict in _DIFFERS and link.state != suspects[link.ref.id]:
                verdict = Verdict.CHANGING
            elif verdict in _DIFFERS:
                with_examples = len(differing) < _MOST_WITH_EXAMPLES
                differing.append(_differing(link, with_examples=with_examples))
            counts[verdict] += 1
            yield Judged(link, verdict)
    if differing:
        names = names_of(database, differing)
        differing = [
            replace(link, app_name=app_name, repository_name=repository_name)
            for link, (app_name, repository_name) in zip(differing, names, strict=True)
        ]
    yield Verification(
        links=counts.total(),
        **{verdict.value: counts[verdict] for verdict in Verdict},
        differing_links=[link for link in differing if link.doubt is None],
        uncertain_links=[link for link in differing if link.doubt],
        held=_held_among(docora, app_ids),
    )


def _held_among(docora: Docora, app_ids: set[str]) -> list[HeldApp] | None:
    try:
        return [app for app in held_apps(docora) if app.app_id in app_ids]
    except (ConfigurationError, RedisError) as error:
        warn_of_unknown_holds(docora, error)
        return None


def _judge(link: ComparedLink) -> Verdict:
    if link.status != LinkStatus.SYNCED:
        return _UNSYNCED.get(link.status, Verdict.PENDING)
    if not link.has_commit:
        return Verdict.NOT_COMPARABLE
    if not link.differs:
        return Verdict.PROVEN
    return Verdict.UNCERTAIN if link.doubt else Verdict.DIFFERING


def _differing(link: ComparedLink, *, with_examples: bool) -> DifferingLink:
    examples = [replace(file, path=mask(file.path)) for file in link.examples if with_examples]
    # Interned, because a million links may share the same few ids.
    ids = (intern(link.ref.app_id), None, intern(link.ref.repository_id), None)
    counts = (link.missing, link.outdated, link.extra)
    return DifferingLink(*ids, link.last_scanned_at, *counts, examples, link.doubt)


def _pages(database: Database, which: Compare, ids: Sequence[str]) -> Iterator[list[ComparedLink]]:
    """Compares the links, as many at a time as Postgres compares in about a second.

    Raises StatementTimeoutError if even a single link takes longer than a statement may,
    ConflictError if each of `_MOST_CONFLICTS` tries meets a conflict.
    """
    start, size, conflicts = 0, _FIRST_PAGE, 0
    while start < len(ids):
        began = time.monotonic()
        try:
            links = compare_links(database, which, ids[start : start + size])
        except StatementTimeoutError:
            if size == 1:
                raise
            size = max(1, size // 4)
            continue
        except ConflictError:
            conflicts += 1
            if conflicts == _MOST_CONFLICTS:
                raise
            continue
        seconds = time.monotonic() - began
        start, conflicts = start + size, 0
        if seconds < _FAST:
            size = min(size * 2, _LARGEST_PAGE)
        elif seconds > _SLOW:
            size = max(1, size // 2)
        yield links
