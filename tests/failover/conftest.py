"""A Docora whose Postgres has a standby."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.support.docora import Docora
from tests.support.fork_server import ForkServer
from tests.support.privileges import Access
from tests.support.standby import Pair, primary_and_standby


@pytest.fixture
def pair(server_directory: Path) -> Iterator[Pair]:
    """A primary and its standby."""
    with primary_and_standby(Path(mkdtemp(dir=server_directory))) as pair:
        yield pair


@pytest.fixture
def replicated(pair: Pair, redis_access: Access, fork_server: ForkServer) -> Iterator[Docora]:
    """An empty Docora on the primary."""
    docora = Docora(pair.primary, redis_access, fork_server)
    docora.redis.flushdb()
    yield docora
    docora.close()
