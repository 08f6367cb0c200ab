"""What README prescribes for Postgres and Redis."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

from tests.harness import Docora


def block(readme: str, start: str) -> str:
    """The fenced block that begins with these words."""
    found = re.search(rf"```\w*\n({re.escape(start)}.*?)```", readme, re.DOTALL)
    assert found, start
    return found[1]


@contextmanager
def prescribed_role(docora: Docora, readme: str, role: str, number: int) -> Iterator[Docora]:
    """The same Docora, seen by the role that README prescribes under this name."""
    name = f"{role}_{number}"
    grants = block(readme, f"CREATE ROLE {role}").replace(role, name)
    docora.connection.execute(f"DROP ROLE IF EXISTS {name}".encode())
    docora.connection.execute(grants.encode())
    parts = urlsplit(docora.database_url)
    host = parts.netloc.rpartition("@")[2]
    url = urlunsplit(parts._replace(netloc=f"{name}:choose%20one@{host}"))
    limited = replace(docora, database_url=url)
    yield limited
    limited.close()
    docora.connection.execute(f"DROP OWNED BY {name}".encode())
    docora.connection.execute(f"DROP ROLE {name}".encode())
