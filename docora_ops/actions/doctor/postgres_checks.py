"""Checks of Postgres: version, role, pooling, tables and privileges."""

from __future__ import annotations

from collections.abc import Sequence

from docora_ops.database.postgres_server import (
    PostgresServer,
    Role,
    excess,
    grant_statements,
    missing_needs,
    only_reads,
)
from docora_ops.database.session import SESSIONS_FOR_WORKERS, Pooling
from docora_ops.diagnosis import Check, CheckName, failed, ok, warning
from docora_ops.overview import LinkCounts
from docora_ops.text import amount

_OLDEST_MAJOR = 14
_TO_PRIMARY = "point DATABASE_URL at the primary"
_ROLE = "the role {} of docora-ops help privileges"


def check_server(server: PostgresServer, *, read_only: bool = False) -> list[Check]:
    """Checks the version, and whether the server takes writes.

    `read_only`: a role whose transactions are read-only is as wanted.
    """
    return [_check_version(server), _check_primary(server, read_only=read_only)]


def _check_version(server: PostgresServer) -> Check:
    name = CheckName.POSTGRES_VERSION
    found = f"PostgreSQL {server.version}"
    if server.version_number >= _OLDEST_MAJOR * 10_000:
        return ok(name, found)
    return failed(name, f"{found} is too old", f"upgrade to PostgreSQL {_OLDEST_MAJOR} or newer")


def _check_primary(server: PostgresServer, *, read_only: bool) -> Check:
    name = CheckName.POSTGRES_PRIMARY
    if server.standby:
        return failed(name, f"it is {server.standby}", _TO_PRIMARY)
    if server.is_read_only and read_only:
        return ok(name, "the primary; transactions are read-only, as wanted")
    if server.is_read_only:
        hint = f"{_TO_PRIMARY}, or reset default_transaction_read_only"
        return failed(name, "transactions are read-only", hint)
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


def check_tables(missing: Sequence[str], tables: int, schema: str) -> Check:
    """Checks that no tables and columns are missing."""
    if not missing:
        return ok(CheckName.TABLES, f"{tables} tables, and all their columns")
    to_docora = "point DATABASE_URL at the database that Docora uses"
    grant = f"let the role use the schema: GRANT USAGE ON SCHEMA {schema}"
    return failed(CheckName.TABLES, f"missing: {', '.join(missing)}", f"{to_docora}, and {grant}")


def check_schemas(creators: Sequence[tuple[str, str, bool]]) -> Check:
    """Checks that others can't create tables that would be taken for Docora's.

    `creators`: the schemas and the roles that may create something there, and if each is the owner.
    """
    if not creators:
        return ok(CheckName.SCHEMAS, "no other role may create anything on the search path")
    found = ", ".join(f"{role} in {schema}" for schema, role, _ in creators)
    mend = " ".join(
        f"take {schema} off the search_path of our role."
        if is_owner
        else f"REVOKE CREATE ON SCHEMA {schema} FROM {role};"
        for schema, role, is_owner in creators
    )
    return warning(
        CheckName.SCHEMAS,
        f"others may create tables and functions on the search path: {found}",
        f"docora-ops help privileges, then {mend}",
    )


def check_privileges(role: Role, *, read_only: bool = False) -> Check:
    """Checks that the role has all privileges that it needs, and no others.

    `read_only`: it needs the privileges to read only, and is to have no others.
    """
    name = CheckName.PRIVILEGES
    missing = [] if role.is_superuser else missing_needs(role, read_only=read_only)
    if missing:
        lacking = "; ".join(
            f"{need}, for {need.only_for} only" if need.only_for else str(need) for need in missing
        )
        problem = warning if all(need.only_for for need in missing) else failed
        grants = grant_statements(missing, role)
        return problem(name, f"{role.name} lacks {lacking}", grants)
    if read_only and not only_reads(role):
        found = f"{role.name} may do more than read: {_power(role)}"
        return warning(name, found, f"use {_ROLE.format('docora_monitor')}")
    if role.is_superuser and not role.has_narrower:
        return ok(name, f"{role.name} is a superuser: docora-ops help privileges has less")
    if surplus := excess(role):
        found = f"{role.name} has more than it needs: {'; '.join(surplus)}"
        hint = "use a role with no more grants than docora-ops help privileges lists"
        return warning(name, found, hint)
    if read_only:
        return ok(name, f"{role.name} may only read, as wanted")
    if only_reads(role):
        found = f"{role.name} may only read: Postgres refuses what changes something"
        hint = f"for more than monitoring, use {_ROLE.format('docora_ops')}"
        return warning(name, found, f"{hint}; for monitoring, add --read-only")
    return ok(name, f"{role.name} has what it needs, and no more")


def _power(role: Role) -> str:
    """Names what lets the role change something."""
    if role.is_superuser:
        return "it is a superuser"
    if role.owned_tables:
        return f"it owns {', '.join(role.owned_tables)}"
    names = {(each.name, each.table) for each in role.privileges if each.name != "SELECT"}
    return ", ".join(f"{privilege} on {table}" for privilege, table in sorted(names))


def check_links(counts: LinkCounts, apps: int, max_failed: int | None) -> list[Check]:
    """Checks how many links have failed, and how many circuits are open.

    `apps`: how many apps have failed links. `max_failed`: more failed links are a failure.
    """
    return [_check_failed_links(counts.failed, apps, max_failed), _check_circuits(counts)]


def _check_failed_links(links: int, apps: int, max_failed: int | None) -> Check:
    name = CheckName.FAILED_LINKS
    if not links:
        return ok(name, "none")
    found = f"{amount(links, 'failed link')} of {amount(apps, 'app')}"
    hint = "docora-ops failed --group-by error"
    if max_failed is not None and links > max_failed:
        return failed(name, f"{found}, more than {max_failed}", hint)
    return warning(name, found, hint)


def _check_circuits(counts: LinkCounts) -> Check:
    name = CheckName.OPEN_CIRCUITS
    circuits = counts.open_circuits
    if not circuits:
        return ok(name, "none")
    found = f"{amount(circuits, 'open circuit')}"
    return warning(name, found, "docora-ops links --circuit open --group-by repository")
