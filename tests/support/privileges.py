"""The roles of Postgres and the users of Redis that the help topic `privileges` creates."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

import psycopg
import redis

ROLES = ("docora_ops", "docora_worker", "docora_monitor")
"""In Postgres, each with `_` and the number of the test process: roles belong to no database."""
USERS = ("docora-ops", "docora-worker", "docora-monitor", "docora-bullmq")
"""In Redis, likewise with `-`."""

_TOPIC = Path(__file__).parents[2] / "docora_ops" / "help" / "privileges.md"


@dataclass(frozen=True)
class Access:
    """URLs of one server: of the tests, which may do everything, and of the topic's users.

    `bullmq`: of commands beside BullMQ, in Redis only.
    """

    owner: str
    command: str
    worker: str
    monitor: str
    bullmq: str = ""

    @property
    def command_name(self) -> str:
        return urlsplit(self.command).username or ""

    @property
    def worker_name(self) -> str:
        return urlsplit(self.worker).username or ""

    @property
    def monitor_name(self) -> str:
        return urlsplit(self.monitor).username or ""


@dataclass(frozen=True)
class Grant:
    """One privilege on one column or, without one, on a whole table."""

    privilege: str
    table: str
    column: str | None

    def __str__(self) -> str:
        return f"{self.privilege}{f' ({self.column})' if self.column else ''} ON {self.table}"


def grants(role: str) -> list[Grant]:
    """Returns what the topic grants this role on tables, one by one."""
    statements = block(f"CREATE ROLE {role}").replace("\n", " ")
    return [
        Grant(privilege, table, name)
        for privileges, tables in re.findall(r"GRANT (.+?) ON ([\w, ]+) TO", statements)
        for table in tables.split(", ")
        for privilege, columns in re.findall(r"([A-Z]+)(?: \(([^)]*)\))?", privileges)
        for name in (re.split(r",\s*", columns) if columns else [None])
        if privilege != "USAGE"
    ]


def rules(user: str) -> list[str]:
    return [rule for rule in block(f"ACL SETUSER {user} on").split() if rule[0] in "+~%&"]


def block(start: str) -> str:
    text = _TOPIC.read_text(encoding="utf-8")
    found = re.search(rf"```\w*\n({re.escape(start)}\b.*?)```", text, re.DOTALL)
    assert found, start
    return found[1]


def with_login(url: str, user: str, password: str) -> str:
    scheme, host = re.split(r"://(?:[^@/?]*@)?", url, maxsplit=1)
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{host}"


def role_access(url: str, number: int) -> Access:
    return Access(url, *(with_login(url, f"{role}_{number}", "choose one") for role in ROLES))


def create_roles(connection: psycopg.Connection[Any], number: int) -> None:
    # What everybody may do by default would hide that a grant is missing.
    connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    for role in ROLES:
        statements = block(f"CREATE ROLE {role}").replace(role, f"{role}_{number}")
        connection.execute(statements.encode())
        # So that one who is no superuser may see and end their sessions, too.
        connection.execute(f"GRANT {role}_{number} TO CURRENT_USER".encode())


def drop_roles(connection: psycopg.Connection[Any], number: int) -> None:
    for role in ROLES:
        connection.execute(f"DROP ROLE IF EXISTS {role}_{number}".encode())


def user_access(url: str, number: int) -> Access:
    return Access(url, *(with_login(url, f"{user}-{number}", "choose-one") for user in USERS))


def create_users(admin: redis.Redis, number: int) -> None:
    for user in USERS:
        _set_user(admin, f"{user}-{number}", *_words(user))


def drop_users(admin: redis.Redis, number: int) -> None:
    admin.acl_deluser(*(f"{user}-{number}" for user in USERS))


def _words(user: str, start: str = "on") -> list[str]:
    return block(f"ACL SETUSER {user} {start}").split()[3:]


def judges_subcommands(admin: redis.Redis) -> bool:
    """Redis 7 and Valkey do, and know patterns of keys that are only read."""
    return not str(admin.info("server")["redis_version"]).startswith("6.")


def _set_user(admin: redis.Redis, name: str, *words: str) -> None:
    if not judges_subcommands(admin):
        # As the topic says of Redis 6.2, and what redis-py tries, but can do without.
        words = (
            *(word.replace("%R~", "~") for word in words),
            "+client|setname",
            "+client|setinfo",
            "+client|info",
            "+client|maint_notifications",
        )
    admin.execute_command("ACL", "SETUSER", name, *words)  # type: ignore[no-untyped-call]


def denials(admin: redis.Redis, number: int) -> list[str]:
    """What the users were not permitted of late, also where nobody took notice."""
    names = {f"{user}-{number}" for user in USERS}
    try:
        log = cast("list[dict[str, str]]", admin.acl_log())
    except redis.ConnectionError:
        return []  # the test has stopped it
    return [
        f"{entry['username']}: {entry['object']}"
        for entry in log
        if entry["username"] in names and entry["reason"] != "auth"
    ]


@contextmanager
def without_grant(connection: psycopg.Connection[Any], grant: Grant, role: str) -> Iterator[None]:
    connection.execute(f"REVOKE {grant} FROM {role}".encode())
    try:
        yield
    finally:
        connection.execute(f"GRANT {grant} TO {role}".encode())


@contextmanager
def without_rule(admin: redis.Redis, rule: str, user: str, name: str) -> Iterator[None]:
    """The user of the topic has all its rules but one, under this name."""
    _set_user(admin, name, "resetkeys", *(each for each in _words(user) if each != rule))
    try:
        yield
    finally:
        _set_user(admin, name, *_words(user))
