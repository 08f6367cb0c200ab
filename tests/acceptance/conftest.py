"""What the tests that run the installed command have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.harness import Docora
from tests.proxy import guarded_postgres


@pytest.fixture
def guarded(redis_url: str, server_directory: Path) -> Iterator[Docora]:
    """An empty Docora whose Postgres asks everybody but `postgres` for a password."""
    with guarded_postgres(Path(mkdtemp(dir=server_directory))) as url:
        docora = Docora(url, redis_url)
        docora.redis.flushdb()
        yield docora
        docora.close()


def block(readme: str, start: str) -> str:
    """The fenced block that begins with these words."""
    found = re.search(rf"```\w*\n({re.escape(start)}.*?)```", readme, re.DOTALL)
    assert found, start
    return found[1]


@pytest.fixture
def readme(repository_root: Path) -> str:
    return (repository_root / "README.md").read_text(encoding="utf-8")


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


@pytest.fixture
def role(docora: Docora, readme: str, worker_number: int) -> Iterator[Docora]:
    """Seen by whoever runs docora-ops."""
    with prescribed_role(docora, readme, "docora_ops", worker_number) as limited:
        yield limited
