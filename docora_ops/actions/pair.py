"""The pair of servers: which database Redis belongs to, by the mark that changes leave in it."""

from dataclasses import dataclass, replace
from enum import StrEnum

from docora_ops.actions.docora import Docora
from docora_ops.actions.look import require_primary, require_servers_to_match
from docora_ops.database import Database
from docora_ops.database.pair import read_identity
from docora_ops.errors import PairMismatchedError
from docora_ops.queue.audit_stream import AuditEntry, AuditEvent, audit_entry
from docora_ops.queue.pair_mark import (
    PAIR_KEY,
    DatabaseIdentity,
    PairMark,
    StoredMark,
    read_mark,
    replace_mark,
)
from docora_ops.queue.redis_client import redis_errors
from docora_ops.text import moment

TO_ACCEPT = "check DATABASE_URL and REDIS_URL; if both fit: docora-ops pair --accept"


class PairState(StrEnum):
    """Whether the database is the one that the mark in Redis names."""

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
    def to_leave(self) -> DatabaseIdentity:
        """Returns the identity for the next mark.

        Keeps a known system identifier of the same database: another role, which may not read it,
        would take it away in turn.
        """
        if self.state is PairState.SAME and self.mark and not self.identity.system_identifier:
            known = self.mark.identity.system_identifier
            return replace(self.identity, system_identifier=known)
        return self.identity

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
    return compare_with_mark(docora.database, stored)


def compare_with_mark(database: Database, stored: StoredMark) -> Pair:
    """Judges whether the mark was left by changes of this database. Raises PostgresError."""
    mark, text = stored.mark, stored.text
    identity, known = read_identity(database, mark.identity.app_ids if mark else ())
    now = DatabaseIdentity(*identity)
    if mark is None:
        state = PairState.UNMARKED if stored.is_permitted else PairState.UNKNOWN
        return Pair(state, now, None, text)
    was, systems = mark.identity, {mark.identity.system_identifier, now.system_identifier}
    is_same = was.database == now.database and (len(systems) == 1 or None in systems)
    if not known and (was.app_ids or not is_same):
        return Pair(PairState.OTHER, now, mark, text)
    return Pair(PairState.SAME if is_same else PairState.MOVED, now, mark, text)


def accept_pair(docora: Docora, *, reason: str | None = None) -> Pair:
    """Marks Redis as belonging to this database, and writes the audit entry.

    Returns the pair as it was before.

    reason: for the audit entry.

    Raises UsageError for an unconfirmed change of a protected target, PostgresError, RedisError.
    """
    docora.require_confirmation()
    require_primary(docora.database)
    pair = read_pair(docora)
    entry = _entry(docora, pair, reason)
    replace_mark(docora.redis, pair.identity, docora.describe_change("pair", None).who, entry)
    return pair


def require_pair(
    docora: Docora, *, all_jobs: bool = False, ignore_unknown_jobs: bool = False
) -> None:
    """Raises an error if the database and Redis do not seem to belong together.

    Otherwise the next change leaves a mark in Redis. Goes on if the database was upgraded, restored
    or moved, with a warning and an audit entry. Writes nothing by itself.

    all_jobs: count all jobs without a link instead of a sample.
    ignore_unknown_jobs: compare the database with the mark only.

    Raises ServersMismatchedError, PairMismatchedError, PostgresError, RedisError.
    """
    if not ignore_unknown_jobs:
        require_servers_to_match(docora.database, docora.queue, all_jobs=all_jobs)
    pair = read_pair(docora)
    if pair.state is PairState.OTHER and pair.mark:
        require_primary(docora.database)  # it may not have the apps yet
        left = f"{moment(pair.mark.left_at)} by {pair.mark.who}"
        raise PairMismatchedError(
            f"{pair.finding}: {docora.servers}. The mark was left {left}. Nothing was changed",
            hint=TO_ACCEPT,
        )
    entry = None
    if pair.state is PairState.MOVED:
        entry = _entry(docora, pair)
        docora.warn(f"{pair.finding}: taken for the same Docora, restored, upgraded or moved")
    if pair.mark and pair.mark.identity == pair.to_leave:
        return
    who = docora.describe_change("pair", None).who
    docora.queue.leave_mark(pair.to_leave, who, pair.text, entry)


def _entry(docora: Docora, pair: Pair, reason: str | None = None) -> AuditEntry:
    """Returns the audit entry for the replacement of the mark."""
    was = str(pair.mark.identity) if pair.mark else None
    change = docora.describe_change("pair", reason, was=was, now=str(pair.identity))
    return audit_entry(change, AuditEvent.DONE)
