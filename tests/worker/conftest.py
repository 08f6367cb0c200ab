"""What the tests of the worker have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
import trustme

from docora_ops.demo.receiver import Receiver
from tests.harness import Docora
from tests.snapshots import Snapshots


@pytest.fixture
def snapshots(docora: Docora, server_directory: Path) -> Iterator[Snapshots]:
    """An empty Docora with a receiver."""
    with Receiver().serving() as receiver:
        yield Snapshots(docora, Path(mkdtemp(dir=server_directory)), receiver)
        assert receiver.problems == []


@pytest.fixture
def authority() -> trustme.CA:
    """Vouches for the certificates of a test's apps; nobody trusts it yet."""
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """The same authority, trusted by the jobs that this process runs."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority
