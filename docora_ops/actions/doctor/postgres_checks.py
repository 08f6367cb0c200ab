"""What `doctor` makes of Postgres."""

from __future__ import annotations

from collections.abc import Sequence

from docora_ops.database.grants import excess, grant_statements, missing_needs, only_reads
from docora_ops.database.pooling import SESSIONS_FOR_WORKERS, Pooling
from docora_ops.database.postgres_server import PostgresServer, Role
from docora_ops.diagnosis import Check, CheckName, CheckState

_OLDEST_MAJOR = 14
_TO_PRIMARY = "point DATABASE_URL at the primary"


def check_server(server: PostgresServer) -> list[Check]:
    """Version, and whether it takes writes."""
    found = f"PostgreSQL {server.version}"
    if server.version_number >= _OLDEST_MAJOR * 10_000:
        version = Check(CheckName.POSTGRES_VERSION, CheckState.OK, found)
    else:
        version = Check(
            CheckName.POSTGRES_VERSION,
            CheckState.FAILED,
            f"{found} is too old",
            f"upgrade to PostgreSQL {_OLDEST_MAJOR} or newer",
        )
    if server.is_replica:
        primary = _failed(CheckName.POSTGRES_PRIMARY, "it is a replica", _TO_PRIMARY)
    elif server.is_read_only:
        primary = _failed(
            CheckName.POSTGRES_PRIMARY,
            "transactions are read-only",
            f"{_TO_PRIMARY}, or reset default_transaction_read_only",
        )
    else:
        primary = Check(CheckName.POSTGRES_PRIMARY, CheckState.OK, "takes writes")
    return [version, primary]


def check_pooling(pooling: Pooling) -> Check:
    """Tells whether a proxy pools connections, and what works behind it."""
    match pooling:
        case Pooling.TRANSACTIONS:
            return Check(
                CheckName.POSTGRES_POOLING,
                CheckState.WARNING,
                "a proxy that pools transactions: commands work, and a worker refuses to start",
                SESSIONS_FOR_WORKERS,
            )
        case Pooling.UNDECIDED:
            return Check(
                CheckName.POSTGRES_POOLING,
                CheckState.WARNING,
                "unknown: two more connections could not be opened at once",
                "allow the role, and the proxy's pool, more connections: a bulk operation uses "
                "two at once",
            )
        case Pooling.SESSIONS:
            found = "a proxy that pools sessions"
        case Pooling.NONE:
            found = "no pooling proxy"
    return Check(CheckName.POSTGRES_POOLING, CheckState.OK, found)


def check_tables(missing: Sequence[str], tables: int) -> Check:
    """`missing`: tables and columns that are not there."""
    if not missing:
        return Check(CheckName.TABLES, CheckState.OK, f"{tables} tables, and all their columns")
    return _failed(
        CheckName.TABLES,
        f"missing: {', '.join(missing)}",
        "point DATABASE_URL at the database that Docora uses, and let the role use the schema: "
        "GRANT USAGE ON SCHEMA public",
    )


def check_privileges(role: Role) -> Check:
    """Enough, and no more."""
    missing = [] if role.is_superuser else missing_needs(role)
    if missing:
        lacking = "; ".join(
            f"{need.privilege} on {need.table}"
            + (f" ({', '.join(need.columns)})" if need.columns else "")
            + (f", for {need.only_for} only" if need.only_for else "")
            for need in missing
        )
        return Check(
            CheckName.PRIVILEGES,
            CheckState.WARNING if all(need.only_for for need in missing) else CheckState.FAILED,
            f"{role.name} lacks {lacking}",
            grant_statements(missing, role.name),
        )
    if surplus := excess(role):
        return Check(
            CheckName.PRIVILEGES,
            CheckState.WARNING,
            f"{role.name} has more than it needs: {'; '.join(surplus)}",
            "use a role with no more grants than docora-ops help privileges lists",
        )
    if only_reads(role):
        return Check(
            CheckName.PRIVILEGES,
            CheckState.WARNING,
            f"{role.name} may only read: Postgres refuses what changes something",
            "for more than monitoring, use the role docora_ops of docora-ops help privileges",
        )
    return Check(CheckName.PRIVILEGES, CheckState.OK, f"{role.name} has what it needs, and no more")


def _failed(name: CheckName, finding: str, what_to_do: str) -> Check:
    return Check(name, CheckState.FAILED, finding, what_to_do)
