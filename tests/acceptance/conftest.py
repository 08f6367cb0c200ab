"""What the tests that run the installed command have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.harness import Docora
from tests.own_servers import guarded_postgres
from tests.prescribed import Access
from tests.warm import WarmCommand


@pytest.fixture
def guarded(redis_access: Access, server_directory: Path, warm: WarmCommand) -> Iterator[Docora]:
    """An empty Docora whose Postgres asks everybody but `postgres` for a password."""
    with guarded_postgres(Path(mkdtemp(dir=server_directory))) as database_access:
        docora = Docora(database_access, redis_access, warm)
        docora.redis.flushdb()
        yield docora
        docora.close()
