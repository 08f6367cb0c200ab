"""What the tests of the worker have in common."""

from pathlib import Path

import pytest
import trustme

from docora_ops.worker import host


@pytest.fixture
def authority() -> trustme.CA:
    """Vouches for the certificates of a test's apps; nobody trusts it yet."""
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """The same authority, trusted by the jobs that this process runs."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    host.tls_context.cache_clear()
    return authority
