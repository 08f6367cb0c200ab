"""Verifies that links have received the files of their stored commits. Writes nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from sys import intern

from docora_ops.actions.docora import Docora
from docora_ops.actions.drift import Suspects, pause_between_looks
from docora_ops.actions.lookup import resolve_app, resolve_link
from docora_ops.database import Database
from docora_ops.database.link_rows import names_of
from docora_ops.database.verification import (
    Compare,
    ComparedLink,
    DifferingFile,
    Doubt,
    compare_links,
    compare_page,
    count_links_of_app,
)
from docora_ops.errors import ConflictError, StatementTimeoutError
from docora_ops.links import LinkIds, LinkRef, LinkStatus, batches
from docora_ops.text import mask

_FIRST_PAGE, _LARGEST_PAGE = 20, 2000  # links per statement
_FAST, _SLOW = 0.3, 2  # a statement below or above this many seconds changes the size of the next
_MOST_WITH_EXAMPLES = 1000  # links: a path can have a thousand characters
_AT_ONCE = 5000
_ALL_FILES = Compare()
_MOST_CONFLICTS = 5  # retries of a statement, for example while another session truncates tables


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
    not_synced: skipped, because the status is not `synced`.
    scanning: skipped, because the link or another link of its repository is being scanned.
    changing: skipped, because the delivery records changed during the comparison.
    """

    links: int
    proven: int
    differing: int
    uncertain: int
    not_comparable: int
    not_synced: int
    scanning: int
    changing: int
    differing_links: Sequence[DifferingLink]
    uncertain_links: Sequence[DifferingLink]


class Verdict(StrEnum):
    """The result of the comparison of one link, as `Verification` counts it."""

    PROVEN = "proven"
    DIFFERING = "differing"
    UNCERTAIN = "uncertain"
    NOT_COMPARABLE = "not_comparable"
    NOT_SYNCED = "not_synced"
    SCANNING = "scanning"
    CHANGING = "changing"


_DIFFERS = {Verdict.DIFFERING, Verdict.UNCERTAIN}


@dataclass(frozen=True, slots=True)
class Judged:
    """A link, and the result of its comparison."""

    link: ComparedLink
    verdict: Verdict


@dataclass
class Proof:
    """Adds up judged links."""

    counts: Counter[Verdict] = field(default_factory=Counter)
    differing: list[DifferingLink] = field(default_factory=list)

    def add(self, judged: Judged) -> None:
        """Counts a link."""
        self.counts[judged.verdict] += 1
        if judged.verdict in _DIFFERS:
            with_examples = len(self.differing) < _MOST_WITH_EXAMPLES
            self.differing.append(_differing(judged.link, with_examples=with_examples))

    def result(self, database: Database) -> Verification:
        """Returns the result, with the names of apps and repositories. Raises PostgresError."""
        differing = [
            replace(link, app_name=app_name, repository_name=repository_name)
            for batch in batches(self.differing, _AT_ONCE)
            for link, (app_name, repository_name) in zip(
                batch, names_of(database, batch), strict=True
            )
        ]
        return Verification(
            links=self.counts.total(),
            **{verdict.value: self.counts[verdict] for verdict in Verdict},
            differing_links=[link for link in differing if link.doubt is None],
            uncertain_links=[link for link in differing if link.doubt],
        )


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
    database, ref, app_id = docora.database, None, None
    if app is not None and repository is not None:
        ref = resolve_link(database, app, repository).ref
    elif app is not None:
        app_id = resolve_app(database, app).app_id
    proof = Proof()
    for event in compare_twice(docora, ref, app_id):
        if isinstance(event, Judged):
            proof.add(event)
        else:
            yield event
    yield proof.result(database)


def compare_twice(
    docora: Docora, ref: LinkRef | None, app_id: str | None, which: Compare = _ALL_FILES
) -> Iterator[Compared | Suspects | Judged]:
    """Compares one link, the links of an app, or all links, and yields each link once.

    A link that differs at the first look is judged by a second one, some seconds later. Otherwise
    yields what `verify` does. Raises PostgresError.
    """
    database = docora.database
    total = 1 if ref else count_links_of_app(database, app_id)
    yield Compared(0, total)
    compared, pace = 0, _Pace()
    suspects: dict[LinkRef, str] = {}
    pages = _pages(database, which, app_id, pace)
    for page in [compare_links(database, which, [ref])] if ref else pages:
        for link in page:
            verdict = _judge(link)
            if verdict in _DIFFERS:
                # Interned, because a million links may share the same few ids.
                ids = (intern(link.ref.app_id), intern(link.ref.repository_id))
                suspects[LinkRef(link.ref.id, *ids)] = link.state
            else:
                yield Judged(link, verdict)
        compared += len(page)
        yield Compared(compared, max(total, compared))
    if not suspects:
        return
    yield from pause_between_looks(len(suspects), docora.settings.drift_grace)
    for page in _again(database, which, list(suspects), pace):
        for link in page:
            verdict = _judge(link)
            if verdict in _DIFFERS and link.state != suspects[link.ref]:
                verdict = Verdict.CHANGING
            yield Judged(link, verdict)
        yield Suspects(len(suspects))


def _judge(link: ComparedLink) -> Verdict:
    if link.is_scanned:
        return Verdict.SCANNING
    if link.status != LinkStatus.SYNCED:
        return Verdict.NOT_SYNCED
    if not link.has_commit:
        return Verdict.NOT_COMPARABLE
    if not link.differs:
        return Verdict.PROVEN
    return Verdict.UNCERTAIN if link.doubt else Verdict.DIFFERING


def _differing(link: ComparedLink, *, with_examples: bool) -> DifferingLink:
    examples = [replace(file, path=mask(file.path)) for file in link.examples if with_examples]
    ids = (intern(link.ref.app_id), None, intern(link.ref.repository_id), None)
    counts = (link.missing, link.outdated, link.extra)
    return DifferingLink(*ids, link.last_scanned_at, *counts, examples, link.doubt)


def _pages(
    database: Database, which: Compare, app_id: str | None, pace: _Pace
) -> Iterator[list[ComparedLink]]:
    """Compares all links. Yields as many at a time as Postgres compares in about a second."""
    after: LinkRef | None = None
    while page := pace.compare(partial(compare_page, database, which, after, app_id)):
        yield page
        after = page[-1].ref


def _again(
    database: Database, which: Compare, refs: list[LinkRef], pace: _Pace
) -> Iterator[list[ComparedLink]]:
    while refs:
        links = pace.compare(lambda size: compare_links(database, which, refs[:size]))
        del refs[: pace.last]
        yield links


@dataclass
class _Pace:
    """Adapts the number of links per statement, so that statements end before the timeout."""

    size: int = _FIRST_PAGE
    last: int = 0
    """The number of links in the last statement."""

    def compare(self, compare: Callable[[int], list[ComparedLink]]) -> list[ComparedLink]:
        """Compares as many links as one statement can before its timeout.

        Raises StatementTimeoutError if even a single link takes longer.

        compare: compares at most the given number of links.
        """
        conflicts = 0
        while True:
            self.last, began = self.size, time.monotonic()
            try:
                links = compare(self.size)
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
            return links
