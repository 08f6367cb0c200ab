"""Servers that want a certificate of their clients: which files are named, and what is refused."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pytest
import trustme

from tests.support.docora import Docora
from tests.support.fork_server import ForkServer
from tests.support.receiver import Receiver
from tests.support.snapshots import Snapshots
from tests.support.tls_servers import Certificates, needs_tls_servers, tls_postgres, tls_redis

pytestmark = [needs_tls_servers, pytest.mark.slow]

COMMAND, WORKER, REDIS = "docora_ops_0", "docora_worker_0", "docora-ops"


@dataclass(frozen=True)
class World:
    docora: Docora
    certificates: Certificates

    def postgres(self, certificate: str = COMMAND) -> str:
        """As commands connect."""
        return f"{self.docora.database_url}?{self.certificates.to_postgres(certificate)}"

    def redis(self, certificate: str = REDIS) -> str:
        return f"{self.docora.redis_url}?{self.certificates.to_redis(certificate)}"


@pytest.fixture(scope="module")
def world(server_directory: Path, fork_server: ForkServer) -> Iterator[World]:
    certificates = Certificates(Path(mkdtemp(dir=server_directory)))
    for name in (COMMAND, WORKER, REDIS):
        certificates.issue(name)
    with tls_postgres(certificates) as postgres, tls_redis(certificates) as redis:
        docora = Docora(postgres, redis, fork_server)
        yield World(docora, certificates)
        docora.close()


def test_commands_and_workers_show_their_certificates(world: World, server_directory: Path) -> None:
    docora = world.docora
    with Receiver().serving() as receiver:
        snapshots = Snapshots(docora, Path(mkdtemp(dir=server_directory)), receiver)
        link, _ = snapshots.add_link({"a": "1\n"})
        urls = {"DATABASE_URL": world.postgres(), "REDIS_URL": world.redis()}
        retried = docora.run("retry", *link.ids, "--json", env=urls)
        assert retried.code == 0, retried
        assert docora.waiting() == [link.job_id]
        of_worker = f"{docora.database_access.worker}?{world.certificates.to_postgres(WORKER)}"
        redis = world.redis().replace(docora.redis_url, docora.redis_access.worker)
        worked = snapshots.work(DATABASE_URL=of_worker, REDIS_URL=redis)
        assert worked.code == 0, worked
        assert docora.status(link) == "synced"


def test_a_certificate_that_is_missing_or_of_others_is_refused(
    world: World,
) -> None:
    world.certificates.issue("stranger", trustme.CA())
    postgres, redis = world.postgres(), world.redis()
    ours = world.certificates.path("ca.pem")
    to_check = "check sslmode, sslcert, sslkey and sslrootcert in DATABASE_URL"
    for database_url, redis_url, sentence, hint in (
        (
            f"{world.docora.database_url}?sslmode=require",
            redis,
            "requires a valid client",
            to_check,
        ),
        (world.postgres("stranger"), redis, "unknown ca", to_check),
        (world.postgres(WORKER), redis, "refuses our login", "check the role"),
        (postgres, f"{world.docora.redis_url}?ssl_ca_certs={ours}", "", "such as a client cert"),
        (postgres, world.redis("stranger"), "", "such as a client certificate"),
    ):
        urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
        refused = world.docora.run("retry-all-failed", "--yes", "--json", env=urls)
        assert refused.code == 5, refused
        assert sentence in refused.json["error"], refused
        assert hint in refused.json["hint"], refused


def test_a_key_of_postgres_that_others_may_read_is_refused_and_named(world: World) -> None:
    world.certificates.issue("open")
    key = world.certificates.path("open.key")
    key.chmod(0o644)
    urls = {"DATABASE_URL": world.postgres("open"), "REDIS_URL": world.redis()}
    refused = world.docora.run("failed", "--json", env=urls)
    assert refused.code == 5, refused
    assert f'"{key}" has group or world access; file must have permissions' in refused.json["error"]
    assert key.read_text() not in refused.stdout + refused.stderr
