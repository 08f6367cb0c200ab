"""Checks of Postgres: version, role, pooling, tables and privileges."""

from __future__ import annotations

from collections.abc import Sequence

from docora_ops.database.grants import excess, grant_statements, missing_needs, only_reads
from docora_ops.database.pooling import SESSIONS_FOR_WORKERS, Pooling
from docora_ops.database.postgres_server import PostgresServer, Role
from docora_ops.diagnosis import Check, CheckName, failed, ok, warning

_OLDEST_MAJOR = 14
_TO_PRIMARY = "point DATABASE_URL at the primary"


def check_server(server: PostgresServer) -> list[Check]:
    """Checks the version, and whether the server takes writes."""
    return [_check_version(server), _check_primary(server)]


def _check_version(server: PostgresServer) -> Check:
    name = CheckName.POSTGRES_VERSION
    found = f"PostgreSQL {server.version}"
    if server.version_number >= _OLDEST_MAJOR * 10_000:
        return ok(name, found)
    return failed(name, f"{found} is too old", f"upgrade to PostgreSQL {_OLDEST_MAJOR} or newer")


def _check_primary(server: PostgresServer) -> Check:
    name = CheckName.POSTGRES_PRIMARY
    if server.is_replica:
        return failed(name, "it is a replica", _TO_PRIMARY)
    if server.is_read_only:
        what_to_do = f"{_TO_PRIMARY}, or reset default_transaction_read_only"
        return failed(name, "transactions are read-only", what_to_do)
    return ok(name, "takes writes")


def check_pooling(pooling: Pooling) -> Check:
    """Checks whether a proxy pools connections, and whether workers can run behind it."""
    name = CheckName.POSTGRES_POOLING
    match pooling:
        case Pooling.TRANSACTIONS:
            found = "a proxy that pools transactions: commands work, and a worker refuses to start"
            return warning(name, found, SESSIONS_FOR_WORKERS)
        case Pooling.UNDECIDED:
            found = "unknown: two more connections could not be opened at once"
            more = "allow the role, and the proxy's pool, more connections"
            return warning(name, found, f"{more}: a bulk operation uses two at once")
        case Pooling.SESSIONS:
            return ok(name, "a proxy that pools sessions")
        case Pooling.NONE:
            return ok(name, "no pooling proxy")


def check_tables(missing: Sequence[str], tables: int) -> Check:
    """Checks that no tables and columns are missing."""
    if not missing:
        return ok(CheckName.TABLES, f"{tables} tables, and all their columns")
    to_docora = "point DATABASE_URL at the database that Docora uses"
    grant = "let the role use the schema: GRANT USAGE ON SCHEMA public"
    return failed(CheckName.TABLES, f"missing: {', '.join(missing)}", f"{to_docora}, and {grant}")


def check_privileges(role: Role) -> Check:
    """Checks that the role has all privileges that it needs, and no others."""
    name = CheckName.PRIVILEGES
    missing = [] if role.is_superuser else missing_needs(role)
    if missing:
        lacking = "; ".join(
            f"{need}, for {need.only_for} only" if need.only_for else str(need) for need in missing
        )
        problem = warning if all(need.only_for for need in missing) else failed
        grants = grant_statements(missing, role.name)
        return problem(name, f"{role.name} lacks {lacking}", grants)
    if surplus := excess(role):
        found = f"{role.name} has more than it needs: {'; '.join(surplus)}"
        what_to_do = "use a role with no more grants than docora-ops help privileges lists"
        return warning(name, found, what_to_do)
    if only_reads(role):
        found = f"{role.name} may only read: Postgres refuses what changes something"
        docora_ops = "the role docora_ops of docora-ops help privileges"
        return warning(name, found, f"for more than monitoring, use {docora_ops}")
    return ok(name, f"{role.name} has what it needs, and no more")
