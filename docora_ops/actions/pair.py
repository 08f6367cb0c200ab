"""Judges which database Redis belongs to, by the mark that changes leave in Redis."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from docora_ops.actions.docora import Docora, current_user
from docora_ops.actions.link_jobs import DOCORA_JOB_ID
from docora_ops.database import Database
from docora_ops.database.link_rows import linked_jobs
from docora_ops.database.postgres_server import read_identity, read_standby
from docora_ops.errors import PairMismatchedError, PostgresError, ServersMismatchedError
from docora_ops.links import ids_of_job
from docora_ops.queue import LinkQueue
from docora_ops.queue.audit_stream import AuditEntry, AuditEvent, audit_entry
from docora_ops.queue.redis_client import describe, redis_errors
from docora_ops.queue.redis_signs import (
    PAIR_KEY,
    DatabaseIdentity,
    PairMark,
    StoredMark,
    mark_to_leave,
    read_mark,
    replace_mark,
)
from docora_ops.text import moment

TO_ACCEPT = "check DATABASE_URL and REDIS_URL; if both are right: docora-ops pair --accept"


class PairState(StrEnum):
    """The result of comparing this database with the one that the mark in Redis names."""

    UNMARKED = "unmarked"  # no change has left a mark yet, or Redis was emptied
    UNKNOWN = "unknown"  # our user may not read the mark
    SAME = "same"
    MOVED = "moved"  # another name or server, with apps of the mark: an upgrade, restore or move
    OTHER = "other"  # none of the apps of the mark exists in this database


@dataclass(frozen=True)
class Pair:
    """This database, and the mark in Redis.

    text: the mark as it stands in Redis; empty if there is none.
    """

    state: PairState
    identity: DatabaseIdentity
    mark: PairMark | None
    text: str = ""

    @property
    def finding(self) -> str:
        """Says which database Redis belongs to."""
        if self.state is PairState.UNKNOWN:
            return f"our user may not read {PAIR_KEY}, which names the database of this Redis"
        if self.mark is None:
            return "no change has left a mark in Redis yet"
        if self.state is PairState.SAME:
            return "Redis belongs to this database"
        was, now = self.mark.identity, self.identity
        apps = "none of its apps" if self.state is PairState.OTHER else "its apps"
        return f"Redis belongs to database {was}, and this is {now}, which has {apps}"


def read_pair(docora: Docora) -> Pair:
    """Compares the database with the mark in Redis. Raises PostgresError, RedisError."""
    with redis_errors(docora.redis):
        stored = read_mark(docora.redis)
    return compare_with_mark(docora.database, stored)[0]


def compare_with_mark(
    database: Database, stored: StoredMark, job_ids: Sequence[str] = ()
) -> tuple[Pair, Sequence[str]]:
    """Compares the database with the mark that Redis stores. Raises PostgresError.

    Also returns those of the `job_ids` that have a link in the database.
    """
    mark, text = stored.mark, stored.text
    app_ids = mark.identity.app_ids if mark else ()
    identity, known, linked = read_identity(database, app_ids, job_ids)
    now = DatabaseIdentity(*identity)
    if mark is None:
        state = PairState.UNMARKED if stored.is_permitted else PairState.UNKNOWN
        return Pair(state, now, None, text), linked
    was, systems = mark.identity, {mark.identity.system_identifier, now.system_identifier}
    is_same = was.database == now.database and (len(systems) == 1 or None in systems)
    state = PairState.SAME if is_same else PairState.MOVED
    if not known and (was.app_ids or not is_same):
        state = PairState.OTHER
    return Pair(state, now, mark, text), linked


def accept_pair(docora: Docora, *, reason: str | None = None) -> Pair:
    """Marks Redis as belonging to this database, and writes the audit entry.

    Returns the pair as it was before the change.

    reason: for the audit entry.

    Raises PostgresError, RedisError.
    """
    require_primary(docora.database)
    pair = read_pair(docora)
    entry = _entry(docora, pair, reason)
    replace_mark(docora.redis, pair.identity, current_user(), entry)
    return pair


def require_pair(
    docora: Docora, *, all_jobs: bool = False, ignore_unknown_jobs: bool = False
) -> None:
    """Raises an error if the database and Redis do not seem to belong together.

    Otherwise, prepares the mark that the next change leaves in Redis. Accepts a database that was
    upgraded, restored or moved, with a warning; the next change then also leaves an audit entry.

    all_jobs: compare all jobs with the links, instead of a sample of the jobs.
    ignore_unknown_jobs: accept any number of jobs without a link; judge by the mark alone.

    Raises ServersMismatchedError if too many jobs have no link in the database, PairMismatchedError
    if the mark names another database; PostgresError, RedisError.
    """
    pair, belonging = look_at_pair(docora, all_jobs=all_jobs and not ignore_unknown_jobs)
    if not (ignore_unknown_jobs or belonging.is_plausible):
        raise _mismatch(docora, belonging)
    if pair.state is PairState.OTHER and pair.mark:
        require_primary(docora.database)  # a standby may not have the apps yet
        left = f"{moment(pair.mark.left_at)} by {pair.mark.who}"
        raise PairMismatchedError(
            f"{pair.finding}: {docora.servers}. The mark was left {left}. Nothing was changed",
            hint=TO_ACCEPT,
        )
    entry = None
    if pair.state is PairState.MOVED:
        entry = _entry(docora, pair)
        docora.warn(f"{pair.finding}: taken for the same Docora, restored, upgraded or moved")
    to_leave = pair.identity
    if pair.state is PairState.SAME and pair.mark and not to_leave.system_identifier:
        # A role that may not read the identifier must not remove it from the mark.
        known = pair.mark.identity.system_identifier
        to_leave = replace(to_leave, system_identifier=known)
    if pair.mark and pair.mark.identity == to_leave:
        return
    who = current_user()
    docora.queue.mark_to_leave = mark_to_leave(to_leave, who, pair.text, entry)


def _entry(docora: Docora, pair: Pair, reason: str | None = None) -> AuditEntry:
    was = str(pair.mark.identity) if pair.mark else None
    change = docora.describe_change("pair", reason, was=was, now=str(pair.identity))
    return audit_entry(change, AuditEvent.DONE)


@dataclass(frozen=True, slots=True)
class Belonging:
    """The number of jobs that were made for links, and how many have no link in the database."""

    jobs: int
    without_link: int
    keeps_deleted: bool = False  # failed jobs of deleted links are kept, so any share is fine

    @property
    def is_plausible(self) -> bool:
        """Tells whether enough jobs have a link in the database; True if there are no jobs.

        At least one job must have a link; of 10 or more RQ jobs, at least half.
        """
        if self.without_link == self.jobs:
            return not self.jobs
        return self.keeps_deleted or self.jobs < 10 or self.without_link * 2 <= self.jobs  # noqa: PLR2004

    def __str__(self) -> str:
        return f"{self.without_link} of {self.jobs} jobs in the queue have no link in this database"


def require_primary(database: Database) -> None:
    """Raises PostgresError on a standby, whose links may be older than their jobs."""
    if standby := read_standby(database):
        raise PostgresError(
            f"Postgres database {database.server} is {standby}: it says nothing about drift",
            hint="point DATABASE_URL at the primary; if this standby takes over, try again once it "
            "is promoted",
        )


def _mismatch(docora: Docora, belonging: Belonging) -> ServersMismatchedError:
    """Returns the error for a queue in which too many jobs have no link in this database.

    Even a retry is refused: it would add jobs of this database to the queue of another Docora.
    Database and queue would then seem to belong together, and the next repair would remove the jobs
    of the other Docora. Raises PostgresError on a standby, which may not have the links yet.
    """
    require_primary(docora.database)
    servers = f"{docora.database.place} and Redis at {describe(docora.redis)}"
    return ServersMismatchedError(
        f"{servers} do not seem to belong together: {belonging}. Nothing was changed",
        hint="check DATABASE_URL and REDIS_URL; if both are right, and links were deleted: "
        + docora.queue.advice.to_drop_jobs,
        details={"job_count": belonging.jobs, "jobs_without_link": belonging.without_link},
    )


def look_at_pair(docora: Docora, *, all_jobs: bool = False) -> tuple[Pair, Belonging]:
    """Compares the database with the mark in Redis, and with a sample of the jobs.

    If too few of the sampled jobs have a link in the database, compares all jobs.

    all_jobs: compare all jobs in any case.
    """
    database, queue = docora.database, docora.queue
    sample = list(set(filter(ids_of_job, queue.use.sample)))
    pair, linked = compare_with_mark(database, queue.use.mark, sample)
    belonging = Belonging(len(sample), len(sample) - len(linked), not queue.can_push)
    if all_jobs or not belonging.is_plausible:
        belonging = count_jobs_with_links(database, queue)
    return pair, belonging


def count_jobs_with_links(database: Database, queue: LinkQueue) -> Belonging:
    """Counts all jobs of the queue, and how many of them have no link in the database.

    Ignores jobs that were not made for a link, and finished jobs of deleted links.
    """
    linked: set[str] = set()
    unlinked: set[str] = set()
    for page, is_to_run_or_failed in queue.pages_of_jobs():
        new = {job_id for job_id in page if ids_of_job(job_id)} - linked - unlinked
        new_linked = linked_jobs(database, new)
        linked |= new_linked
        if is_to_run_or_failed:
            unlinked |= {job_id for job_id in new - new_linked if DOCORA_JOB_ID.fullmatch(job_id)}
    return Belonging(len(linked) + len(unlinked), len(unlinked), not queue.can_push)
