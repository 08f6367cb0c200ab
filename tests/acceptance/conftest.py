"""What the tests that run the installed command have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.harness import Docora
from tests.prescribed import prescribed_role
from tests.proxy import guarded_postgres
from tests.warm import WarmCommand


@pytest.fixture
def guarded(redis_url: str, server_directory: Path, warm: WarmCommand) -> Iterator[Docora]:
    """An empty Docora whose Postgres asks everybody but `postgres` for a password."""
    with guarded_postgres(Path(mkdtemp(dir=server_directory))) as url:
        docora = Docora(url, redis_url, warm)
        docora.redis.flushdb()
        yield docora
        docora.close()


@pytest.fixture
def role(docora: Docora, readme: str, worker_number: int) -> Iterator[Docora]:
    """Seen by whoever runs docora-ops."""
    with prescribed_role(docora, readme, "docora_ops", worker_number) as limited:
        yield limited
