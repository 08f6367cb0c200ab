"""What the tests of the worker have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from docora_ops.demo.receiver import Receiver
from tests.harness import Docora
from tests.snapshots import Snapshots


@pytest.fixture
def snapshots(docora: Docora, server_directory: Path) -> Iterator[Snapshots]:
    """An empty Docora with a receiver."""
    with Receiver().serving() as receiver:
        yield Snapshots(docora, Path(mkdtemp(dir=server_directory)), receiver)
        assert receiver.problems == []
