"""A Docora whose Redis may be spoiled."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.docora import Docora
from tests.support.own_servers import OwnRedis


@pytest.fixture
def spoiled(docora: Docora, own: OwnRedis) -> Iterator[Docora]:
    """The same Docora, with a Redis that may be spoiled."""
    docora = replace(docora, redis_access=own.access)
    yield docora
    docora.close()
