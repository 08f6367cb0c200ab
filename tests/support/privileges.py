"""The roles of Postgres and the users of Redis that the help topic `privileges` creates."""

import re
from pathlib import Path
from typing import Any

import psycopg
import redis

ROLES = ("docora_ops", "docora_worker", "docora_monitor")
"""In Postgres, each with `_` and the number of the test process: roles belong to no database."""
USERS = ("docora-ops", "docora-worker", "docora-monitor", "docora-bullmq")
"""In Redis, likewise with `-`."""

_TOPIC = Path(__file__).parents[2] / "docora_ops" / "help" / "privileges.md"


def block(start: str) -> str:
    """Returns the block of the topic that begins so."""
    text = _TOPIC.read_text(encoding="utf-8")
    found = re.search(rf"```\w*\n({re.escape(start)}\b.*?)```", text, re.DOTALL)
    assert found, start
    return found[1]


def create_roles(connection: psycopg.Connection[Any], number: int) -> None:
    # What everybody may do by default would hide that a grant is missing.
    connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    for role in ROLES:
        statements = block(f"CREATE ROLE {role}").replace(role, f"{role}_{number}")
        connection.execute(statements.encode())


def drop_roles(connection: psycopg.Connection[Any], number: int) -> None:
    for role in ROLES:
        name = f"{role}_{number}"
        connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


def create_users(admin: redis.Redis, number: int) -> None:
    for user in USERS:
        words = block(f"ACL SETUSER {user} on").split()[3:]
        admin.execute_command("ACL", "SETUSER", f"{user}-{number}", *words)  # type: ignore[no-untyped-call]


def drop_users(admin: redis.Redis, number: int) -> None:
    admin.acl_deluser(*(f"{user}-{number}" for user in USERS))
