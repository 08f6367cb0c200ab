"""Privileges that commands and workers need, as the help topic `privileges` grants them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from docora_ops.database.postgres_server import Privilege, Role


@dataclass(frozen=True)
class Need:
    """A privilege on some columns of a table or, without any, on the whole of it."""

    privilege: str
    table: str
    columns: tuple[str, ...] = ()
    only_for: str = ""
    """The few commands or options that need it; empty if many do."""

    @property
    def privileges(self) -> list[Privilege]:
        """The privilege on each column, or on the whole table."""
        return [Privilege(self.privilege, self.table, column) for column in self.columns] or [
            Privilege(self.privilege, self.table, None)
        ]


NEEDS = (
    Need("SELECT", "apps", ("app_id", "app_name", "base_url", "client_auth_key_encrypted")),
    Need(
        "SELECT",
        "repositories",
        ("repository_id", "github_url", "owner", "name", "circuit_open_until"),
    ),
    Need(
        "UPDATE",
        "repositories",
        ("consecutive_failures", "circuit_open_until", "updated_at"),
        "--reset-circuit and repair",
    ),
    Need(
        "SELECT",
        "app_repositories",
        (
            *("id", "app_id", "repository_id", "github_token_encrypted", "status"),
            *("retry_count", "last_error", "created_at"),
        ),
    ),
    Need("SELECT", "app_repositories", ("last_scanned_at",), "schedule, failed and show"),
    Need("UPDATE", "app_repositories", ("status", "retry_count", "last_error")),
    Need("SELECT", "app_delivered_files", ("app_id", "repository_id"), "resync and show"),
    Need("DELETE", "app_delivered_files", (), "resync"),
    Need("SELECT", "repositories", ("consecutive_failures",), "show and workers"),
    Need("SELECT", "app_delivered_files", ("delivered_at",), "show"),
    Need(
        "SELECT",
        "repository_snapshots",
        ("id", "repository_id", "commit_sha", "branch", "scanned_at"),
        "show",
    ),
    Need("SELECT", "snapshot_files", ("snapshot_id",), "show"),
)
"""Needed by every role that runs docora-ops."""

_DELIVERY = ("app_id", "repository_id", "file_path", "file_sha", "delivered_at")
_SNAPSHOT = ("id", "repository_id", "commit_sha", "branch", "scanned_at")
_SNAPSHOT_FILE = ("id", "snapshot_id", "path", "sha", "size", "created_at")

_WORKERS = "workers"
WORKER_NEEDS = (
    Need("UPDATE", "app_repositories", ("last_scanned_at",), _WORKERS),
    Need("SELECT", "app_delivered_files", _DELIVERY, _WORKERS),
    Need("INSERT", "app_delivered_files", _DELIVERY, _WORKERS),
    Need("UPDATE", "app_delivered_files", _DELIVERY, _WORKERS),
    Need("SELECT", "repository_snapshots", _SNAPSHOT, _WORKERS),
    Need("INSERT", "repository_snapshots", _SNAPSHOT, _WORKERS),
    Need("UPDATE", "repository_snapshots", _SNAPSHOT, _WORKERS),
    Need("SELECT", "snapshot_files", _SNAPSHOT_FILE, _WORKERS),
    Need("INSERT", "snapshot_files", _SNAPSHOT_FILE, _WORKERS),
    Need("DELETE", "snapshot_files", (), _WORKERS),
)
"""Needed in addition by the role of the workers."""

TABLES = tuple(dict.fromkeys(need.table for need in NEEDS + WORKER_NEEDS))


def missing_columns(existing: Collection[tuple[str, str]]) -> list[str]:
    """Returns `table` or `table.column` of all that is needed and does not exist."""
    tables = {table for table, _ in existing}
    needed = dict.fromkeys(
        (need.table, column) for need in NEEDS + WORKER_NEEDS for column in need.columns
    )
    return list(
        dict.fromkeys(
            f"{table}.{column}" if table in tables else table
            for table, column in needed
            if (table, column) not in existing
        )
    )


def only_reads(role: Role) -> bool:
    """Returns whether the role can change nothing in the tables: a role for monitoring."""
    may_change = role.is_superuser or role.owned_tables
    return not may_change and {each.name for each in role.privileges} == {"SELECT"}


def missing_needs(role: Role) -> list[Need]:
    """Returns the needs that the role lacks, with the missing columns only."""
    lacking = []
    known = set(role.privileges)
    for need in _needs_of(role):
        missing = [each for each in need.privileges if each not in known]
        known.update(missing)
        if missing:
            columns = tuple(each.column for each in missing if each.column)
            lacking.append(Need(need.privilege, need.table, columns, need.only_for))
    return lacking


def _needs_of(role: Role) -> tuple[Need, ...]:
    """Returns what the role needs for monitoring, for commands, or for commands and workers."""
    if only_reads(role):
        return tuple(need for need in NEEDS if need.privilege == "SELECT")
    of_others = {each for need in NEEDS for each in need.privileges}
    of_workers = {each for need in WORKER_NEEDS for each in need.privileges}
    is_for_workers = any(
        each.name != "SELECT" for each in role.privileges & (of_workers - of_others)
    )
    return NEEDS + WORKER_NEEDS if is_for_workers else NEEDS


def excess(role: Role) -> list[str]:
    """Returns what the role may do beyond its needs, in a few words each."""
    if role.is_superuser:
        return ["SUPERUSER"]
    found = list(role.attributes)
    if role.owned_tables:
        return [*found, f"ownership of {', '.join(role.owned_tables)}"]
    allowed = {each for need in _needs_of(role) for each in need.privileges}
    return found + _in_words(role.privileges - allowed)


def grant_statements(needs: Iterable[Need], role_name: str) -> str:
    """Returns the SQL that grants these needs to the role."""
    by_table: dict[str, list[str]] = defaultdict(list)
    for need in needs:
        columns = f" ({', '.join(need.columns)})" if need.columns else ""
        by_table[need.table].append(need.privilege + columns)
    return " ".join(
        f"GRANT {', '.join(privileges)} ON {table} TO {role_name};"
        for table, privileges in by_table.items()
    )


def _in_words(privileges: Iterable[Privilege]) -> list[str]:
    columns: dict[tuple[str, str], list[str]] = defaultdict(list)
    for each in sorted(privileges, key=lambda each: (each.table, each.name, each.column or "")):
        columns[each.table, each.name] += [each.column] if each.column else []
    return [
        f"{name} on {table}" + (f" ({', '.join(names)})" if names else "")
        for (table, name), names in columns.items()
    ]
