"""What the tests of the worker have in common."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from docora_ops.worker import authorities
from tests.support.git_over_http import GitSite
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots, Upstream


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """Vouches for the certificates of a test's apps; in ca.pem, which nobody trusts yet."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


@pytest.fixture
def trusted(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """The same authority, trusted by the jobs that this process runs."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    authorities.tls_context.cache_clear()
    return authority


@pytest.fixture
def site(snapshots: Snapshots) -> Iterator[GitSite]:
    with GitSite(snapshots.folder / "upstream").serving() as site:
        yield site


@pytest.fixture
def upstream(snapshots: Snapshots) -> Upstream:
    upstream = snapshots.add_upstream()
    upstream.commit({"README.md": "hello\n", "src/a.py": "x = 1\n"})
    return upstream


@pytest.fixture
def link(snapshots: Snapshots, site: GitSite, upstream: Upstream) -> TestLink:
    """Links an app to the upstream on that site."""
    repository = snapshots.docora.add_repository("octo/api", url=f"{site.url}/octo/api")
    return snapshots.link(snapshots.add_app(), repository)
