"""Privileges that commands and workers need, as the help topic `privileges` grants them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from docora_ops.database.postgres_server import Privilege, Role


@dataclass(frozen=True)
class Need:
    """A privilege on some columns of a table or, without any, on the whole of it."""

    privilege: str
    table: str
    columns: tuple[str, ...]
    only_for: str = ""  # the few commands or options that need it; empty if many do

    @property
    def privileges(self) -> list[Privilege]:
        """The privilege on each column, or on the whole table."""
        return [Privilege(self.privilege, self.table, column) for column in self.columns or (None,)]

    def __str__(self) -> str:
        columns = f" ({', '.join(self.columns)})" if self.columns else ""
        return f"{self.privilege} on {self.table}{columns}"


def _need(privilege: str, table: str, columns: str = "", only_for: str = "") -> Need:
    return Need(privilege, table, tuple(columns.split()), only_for)


_DELIVERY = "app_id repository_id file_path file_sha delivered_at"
_SNAPSHOT = "id repository_id commit_sha branch scanned_at"
_SNAPSHOT_FILE = "id snapshot_id path sha size created_at"

_READING_NEEDS = (
    _need("SELECT", "apps", "app_id app_name base_url"),
    _need("SELECT", "repositories", "repository_id github_url owner name circuit_open_until"),
    _need(
        "SELECT",
        "app_repositories",
        "id app_id repository_id status retry_count last_error created_at",
    ),
    _need("SELECT", "app_repositories", "last_scanned_at", "schedule, links, apps and show"),
    _need("SELECT", "app_delivered_files", "app_id repository_id", "resync and show"),
    _need("SELECT", "repositories", "consecutive_failures", "--reset-circuit, show and workers"),
    _need("SELECT", "app_delivered_files", "delivered_at", "show"),
    _need("SELECT", "repository_snapshots", _SNAPSHOT, "show"),
    _need("SELECT", "snapshot_files", "snapshot_id", "show"),
)

NEEDS = (
    *_READING_NEEDS,
    _need("SELECT", "apps", "client_auth_key_encrypted"),
    _need("SELECT", "app_repositories", "github_token_encrypted"),
    _need("UPDATE", "app_repositories", "status retry_count last_error"),
    _need(
        "UPDATE",
        "repositories",
        "consecutive_failures circuit_open_until updated_at",
        "--reset-circuit and repair",
    ),
    _need("DELETE", "app_delivered_files", "", "resync"),
    _need("UPDATE", "app_delivered_files", "file_sha", "resync --update"),
)
"""Needed by every role that runs docora-ops; for monitoring, the reading needs are enough."""

WORKER_NEEDS = (
    _need("UPDATE", "app_repositories", "last_scanned_at", "workers"),
    *(
        _need(privilege, table, columns, "workers")
        for table, columns in (
            ("app_delivered_files", _DELIVERY),
            ("repository_snapshots", _SNAPSHOT),
        )
        for privilege in ("SELECT", "INSERT", "UPDATE")
    ),
    _need("SELECT", "snapshot_files", _SNAPSHOT_FILE, "workers"),
    _need("INSERT", "snapshot_files", _SNAPSHOT_FILE, "workers"),
    _need("DELETE", "snapshot_files", "", "workers"),
)
"""Needed in addition by the role of the workers."""

TABLES = tuple(dict.fromkeys(need.table for need in NEEDS + WORKER_NEEDS))


def missing_columns(existing: Collection[tuple[str, str]]) -> list[str]:
    """Returns `table` or `table.column` of all that is needed and does not exist."""
    tables = {table for table, _ in existing}
    missing = [
        f"{need.table}.{column}" if need.table in tables else need.table
        for need in NEEDS + WORKER_NEEDS
        for column in need.columns
        if (need.table, column) not in existing
    ]
    return list(dict.fromkeys(missing))


def only_reads(role: Role) -> bool:
    """Returns whether the role can change nothing in the tables: a role for monitoring."""
    may_change = role.is_superuser or role.owned_tables
    return not may_change and {each.name for each in role.privileges} == {"SELECT"}


def missing_needs(role: Role, *, read_only: bool) -> list[Need]:
    """Returns the needs that the role lacks, with the missing columns only.

    `read_only`: the role is for monitoring, whatever else it may do.
    """
    lacking = []
    known = set(role.privileges)
    for need in _READING_NEEDS if read_only else _needs_of(role):
        missing = [each for each in need.privileges if each not in known]
        known.update(missing)
        if missing:
            lacking.append(replace(need, columns=_columns(missing)))
    return lacking


def _needs_of(role: Role) -> tuple[Need, ...]:
    """Returns what the role needs for monitoring, for commands, or for commands and workers."""
    if only_reads(role):
        return _READING_NEEDS
    beyond = role.privileges - {each for need in NEEDS for each in need.privileges}
    is_for_workers = any(
        need.privilege != "SELECT" and not beyond.isdisjoint(need.privileges)
        for need in WORKER_NEEDS
    )
    return NEEDS + WORKER_NEEDS if is_for_workers else NEEDS


def excess(role: Role) -> list[str]:
    """Returns what the role may do beyond its needs, in a few words each."""
    if role.is_superuser:
        return ["SUPERUSER"]
    if role.owned_tables:
        return [*role.attributes, f"ownership of {', '.join(role.owned_tables)}"]
    allowed = {each for need in _needs_of(role) for each in need.privileges}
    by_table: dict[tuple[str, str], list[Privilege]] = defaultdict(list)
    for each in role.privileges - allowed:
        by_table[each.table, each.name].append(each)
    surplus = (
        Need(name, table, _columns(sorted(by_table[table, name])))
        for table, name in sorted(by_table)
    )
    return [*role.attributes, *map(str, surplus)]


def grant_statements(needs: Iterable[Need], role: Role) -> str:
    """Returns the SQL that grants these needs to the role."""
    by_table: dict[str, list[str]] = defaultdict(list)
    for need in needs:
        columns = f" ({', '.join(need.columns)})" if need.columns else ""
        by_table[need.table].append(need.privilege + columns)
    return " ".join(
        f"GRANT {', '.join(privileges)} ON {role.schema}.{table} TO {role.name};"
        for table, privileges in by_table.items()
    )


def _columns(privileges: Iterable[Privilege]) -> tuple[str, ...]:
    return tuple(each.column for each in privileges if each.column)
