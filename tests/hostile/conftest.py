"""The world that is full of what strangers may have put there."""

from __future__ import annotations

import pytest

from tests.harness import Docora
from tests.hostile import world as hostile


@pytest.fixture
def world(docora: Docora) -> Docora:
    """A Docora whose every text comes from the corpus."""
    hostile.fill_database(docora)
    hostile.fill_redis(docora)
    return docora
