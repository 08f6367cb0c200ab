"""Apps and git servers whose certificates a private authority has issued."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from docora_ops.worker import host
from docora_ops.worker.host import AUTHORITY_HINT as HINT
from tests.support.delivery_checks import assert_in_sync, failure, git_failures
from tests.support.git_over_http import GitSite
from tests.support.raw_app import context, raw_app, take_all
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots, Upstream

SYSTEM = Path("/etc/ssl/certs/ca-certificates.crt")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    host.tls_context.cache_clear()


@pytest.fixture
def tls_link(
    snapshots: Snapshots, authority: trustme.CA, tmp_path: Path
) -> Iterator[tuple[TestLink, Upstream]]:
    """Serves a repository and an app, both by TLS, and links them."""
    authority.cert_pem.write_to_path(str(tmp_path / "private.pem"))
    tls = context(authority, "127.0.0.1")
    upstream = snapshots.add_upstream()
    upstream.commit({"a.txt": "1", "b.txt": "2"})
    snapshots.settings_changes["git_protocols"] = "https"
    with (
        GitSite(snapshots.folder / "upstream", tls=tls).serving() as site,
        raw_app(snapshots.receiver, take_all, tls=tls) as app,
    ):
        repository = snapshots.docora.add_repository("octo/api", url=f"{site.url}/octo/api")
        link = snapshots.link(snapshots.add_app(), repository)
        snapshots.set_base_url(app.base_url)
        yield link, upstream


def test_node_extra_ca_certs_is_trusted_for_apps_and_git_beside_the_systems_authorities(
    snapshots: Snapshots, tls_link: tuple[TestLink, Upstream], tmp_path: Path
) -> None:
    env_file = tmp_path / "docora.env"
    env_file.write_text(f"NODE_EXTRA_CA_CERTS={tmp_path / 'private.pem'}\n", encoding="utf-8")
    snapshots.queue(tls_link[0])
    worked = snapshots.work("--env-file", str(env_file), DOCORA_OPS_GIT_PROTOCOLS="https")
    assert worked.code == 0, worked
    assert_in_sync(snapshots, *tls_link)
    [written] = (snapshots.repos / ".docora-ops").glob("*.pem")
    if SYSTEM.exists():
        known, extra = (ssl.create_default_context(cafile=str(each)) for each in (SYSTEM, written))
        assert extra.cert_store_stats()["x509"] == known.cert_store_stats()["x509"] + 1


def test_a_certificate_of_an_unknown_authority_has_a_hint(
    snapshots: Snapshots,
    tls_link: tuple[TestLink, Upstream],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link, _ = tls_link
    error = failure(snapshots, link)
    assert error.startswith("fatal: unable to access 'https://127.0.0.1:")
    assert error.endswith(f"; {HINT}")
    assert git_failures(snapshots, link) == 1
    monkeypatch.setenv("GIT_SSL_CAINFO", str(tmp_path / "private.pem"))
    error = failure(snapshots, link)
    assert error.startswith("the certificate of 127.0.0.1:")
    assert error.endswith(f" on created a.txt: {HINT}")
    assert "NODE_EXTRA_CA_CERTS" in snapshots.docora.run("show", *link.ids).stdout


def test_a_file_that_can_not_be_used_is_a_warning_as_with_node(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    path = tmp_path / "extra.pem"
    path.write_text("hello\n", encoding="utf-8")
    link, upstream = snapshots.add_queued({"a": "1\n"})
    worked = snapshots.work(NODE_EXTRA_CA_CERTS=str(path))
    assert worked.code == 0, worked
    reason = "it holds no certificates in PEM form"
    assert f"WARNING NODE_EXTRA_CA_CERTS is ignored: {path}: {reason}\n" in worked.stderr
    assert worked.stderr.count("NODE_EXTRA_CA_CERTS") == 1
    assert_in_sync(snapshots, link, upstream)
