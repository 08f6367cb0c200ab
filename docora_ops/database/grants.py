"""The privileges that commands and workers need, as the help topic `privileges` grants them."""

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
    """The few commands, or the option, that need it; empty if many do."""

    @property
    def privileges(self) -> list[Privilege]:
        """The same, column by column."""
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
"""Of whoever runs docora-ops."""

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
"""What workers need beyond that."""

TABLES = tuple(dict.fromkeys(need.table for need in NEEDS + WORKER_NEEDS))


def missing_columns(there: Collection[tuple[str, str]]) -> list[str]:
    """`table` or `table.column` of what is needed and not there."""
    tables = {table for table, _ in there}
    needed = dict.fromkeys(
        (need.table, column) for need in NEEDS + WORKER_NEEDS for column in need.columns
    )
    return list(
        dict.fromkeys(
            f"{table}.{column}" if table in tables else table
            for table, column in needed
            if (table, column) not in there
        )
    )


def only_reads(role: Role) -> bool:
    """Returns whether the role can change nothing in the tables: a role for monitoring."""
    may_change = role.is_superuser or role.owned_tables
    return not may_change and {each.name for each in role.privileges} == {"SELECT"}


def missing_needs(role: Role) -> list[Need]:
    """Returns what the role lacks, compared with the commands that such a role is for.

    A role that only reads needs no more than SELECT; a role for workers needs more than others.
    """
    lacking = []
    known = set(role.privileges)
    needs = NEEDS + (WORKER_NEEDS if _is_for_workers(role) else ())
    if only_reads(role):
        needs = tuple(need for need in needs if need.privilege == "SELECT")
    for need in needs:
        missing = [each for each in need.privileges if each not in known]
        known.update(missing)
        if missing:
            columns = tuple(each.column for each in missing if each.column)
            lacking.append(Need(need.privilege, need.table, columns, need.only_for))
    return lacking


def _is_for_workers(role: Role) -> bool:
    """It may change something that only workers change."""
    of_others = {each for need in NEEDS for each in need.privileges}
    of_workers = {each for need in WORKER_NEEDS for each in need.privileges}
    return any(each.name != "SELECT" for each in role.privileges & (of_workers - of_others))


def excess(role: Role) -> list[str]:
    """What the role may do beyond all needs, in a few words each."""
    if role.is_superuser:
        return ["SUPERUSER"]
    found = list(role.attributes)
    if role.owned_tables:
        return [*found, f"ownership of {', '.join(role.owned_tables)}"]
    needs = NEEDS + (WORKER_NEEDS if _is_for_workers(role) else ())
    allowed = {each for need in needs for each in need.privileges}
    return found + _in_words(role.privileges - allowed)


def grant_statements(needs: Iterable[Need], role_name: str) -> str:
    """The SQL that gives the role what it lacks."""
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
