"""Whether the database is the one that Redis belongs to, by the mark that changes leave there."""

from docora_ops.actions.docora import Docora
from docora_ops.actions.look import require_primary, require_servers_to_match
from docora_ops.database.identity import read_identity
from docora_ops.errors import PairMismatchedError
from docora_ops.pair import TO_ACCEPT, Pair, PairState, compare
from docora_ops.queue.audit_stream import AuditEntry, AuditEvent, audit_entry
from docora_ops.queue.pair_mark import read_mark, replace_mark
from docora_ops.queue.redis_client import redis_errors
from docora_ops.text import moment


def read_pair(docora: Docora) -> Pair:
    """Compares the database with the mark in Redis. Raises PostgresError, RedisError."""
    with redis_errors(docora.redis):
        stored = read_mark(docora.redis)
    app_ids = stored.mark.identity.app_ids if stored.mark else ()
    return compare(stored, *read_identity(docora.database, app_ids))


def accept_pair(docora: Docora, *, reason: str | None = None) -> Pair:
    """Marks Redis as belonging to this database, and writes the audit entry. Returns the old state.

    reason: for the audit entry.

    Raises UsageError for an unconfirmed change of a protected target, PostgresError, RedisError.
    """
    docora.require_confirmation()
    require_primary(docora.database)
    found = read_pair(docora)
    entry = _entry(docora, found, reason)
    replace_mark(docora.redis, found.identity, docora.describe_change("pair", None).who, entry)
    return found


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
    found = read_pair(docora)
    if found.state is PairState.OTHER and found.mark:
        require_primary(docora.database)  # it may not have the apps yet
        left = f"{moment(found.mark.left_at)} by {found.mark.who}"
        raise PairMismatchedError(
            f"{found.finding}: {docora.servers}. The mark was left {left}. Nothing was changed",
            hint=TO_ACCEPT,
        )
    entry = None
    if found.state is PairState.MOVED:
        entry = _entry(docora, found)
        docora.warn(f"{found.finding}: taken for the same Docora, restored, upgraded or moved")
    if found.mark and found.mark.identity == found.to_leave:
        return
    who = docora.describe_change("pair", None).who
    docora.queue.leave_mark(found.to_leave, who, found.text, entry)


def _entry(docora: Docora, found: Pair, reason: str | None = None) -> AuditEntry:
    """Returns the audit entry for another mark."""
    was = str(found.mark.identity) if found.mark else None
    change = docora.describe_change("pair", reason, was=was, now=str(found.identity))
    return audit_entry(change, AuditEvent.DONE)
