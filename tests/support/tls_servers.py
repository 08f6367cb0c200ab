"""A Postgres and a Redis that accept only clients with a certificate of their authority.

Those of the packages are built without TLS, so these are the ones that the machine has.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from pwd import getpwnam
from signal import SIGQUIT
from urllib.parse import urlencode

import psycopg
import pytest
import redis
import trustme

from tests.support.database import TestDatabase
from tests.support.privileges import Access, create_users, role_access, user_access
from tests.support.proxy import eventually, free_port


def _find(name: str) -> Path | None:
    """Finds a program that is linked with OpenSSL."""
    folders = [*os.get_exec_path(), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    found = (Path(path) for each in folders if (path := shutil.which(name, path=each)))
    return next((program for program in found if b"libssl.so" in program.read_bytes()), None)


_POSTGRES, _REDIS = _find("postgres"), _find("redis-server")
needs_tls_servers = pytest.mark.skipif(
    None in {_POSTGRES, _REDIS},
    reason="no PostgreSQL and Redis with TLS: Debian's postgresql and redis-server have it",
)


@dataclass(frozen=True)
class Certificates:
    """Certificates of one authority. Those of clients have the name of their role."""

    folder: Path
    authority: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.authority.cert_pem.write_to_path(str(self.path("ca.pem")))

    def path(self, name: str) -> Path:
        return self.folder / name

    def issue(self, name: str, authority: trustme.CA | None = None) -> None:
        issued = (authority or self.authority).issue_cert(
            "localhost", "127.0.0.1", common_name=name
        )
        issued.cert_chain_pems[0].write_to_path(str(self.path(f"{name}.pem")))
        issued.private_key_pem.write_to_path(str(self.path(f"{name}.key")))
        self.path(f"{name}.key").chmod(0o600)

    def to_postgres(self, name: str) -> str:
        files = {"sslcert": f"{name}.pem", "sslkey": f"{name}.key", "sslrootcert": "ca.pem"}
        return urlencode({"sslmode": "verify-full"} | self._paths(files), safe="/")

    def to_redis(self, name: str) -> str:
        files = {"certfile": f"{name}.pem", "keyfile": f"{name}.key", "ca_certs": "ca.pem"}
        return urlencode(
            self._paths({f"ssl_{each}": file for each, file in files.items()}), safe="/"
        )

    def _paths(self, files: dict[str, str]) -> dict[str, str]:
        return {name: str(self.path(file)) for name, file in files.items()}


@contextmanager
def tls_postgres(certificates: Certificates) -> Iterator[Access]:
    """Starts a Postgres with Docora's tables. Commands reach it by TLS, tests by its socket."""
    assert _POSTGRES is not None
    folder, port, user = certificates.folder, free_port(), None
    certificates.issue("server")
    if os.geteuid() == 0:
        user = getpwnam("nobody").pw_uid
        folder.parent.chmod(0o711)
        for path in (folder, folder / "server.key"):
            os.chown(path, user, -1)
    data = folder / "data"
    initdb = str(_POSTGRES.resolve().with_name("initdb"))
    create = [initdb, "--auth=trust", "-N", "-U", "postgres", "-D", str(data)]
    subprocess.run(create, user=user, check=True, stdout=subprocess.DEVNULL)
    login = "hostssl all all 127.0.0.1/32 trust clientcert=verify-full"
    (data / "pg_hba.conf").write_text(f"local all all trust\n{login}\n")
    settings = {
        "ssl": "on",
        "ssl_cert_file": folder / "server.pem",
        "ssl_key_file": folder / "server.key",
        "ssl_ca_file": folder / "ca.pem",
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": folder,
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command = [str(_POSTGRES), "-D", str(data), "-F", *options]
    with subprocess.Popen(command, user=user, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"postgresql://postgres:@/postgres?host={folder}&port={port}"
            eventually(lambda: _answers(lambda: psycopg.connect(url).close()), "a Postgres")
            database = TestDatabase(url, 0)
            database.prepare()
            database.close()
            by_tls = role_access(f"postgresql://127.0.0.1:{port}/{database.name}", 0)
            yield replace(by_tls, owner=database.url)
        finally:
            server.send_signal(SIGQUIT)


@contextmanager
def tls_redis(certificates: Certificates) -> Iterator[Access]:
    """Starts a Redis. Commands reach it by TLS, tests by its socket."""
    assert _REDIS is not None
    folder, port = certificates.folder, free_port()
    certificates.issue("redis")
    settings = {
        "port": 0,
        "tls-port": port,
        "bind": "127.0.0.1",
        "tls-cert-file": folder / "redis.pem",
        "tls-key-file": folder / "redis.key",
        "tls-ca-cert-file": folder / "ca.pem",
        "tls-auth-clients": "yes",
        "unixsocket": folder / "redis",
        "save": "",
        "dir": folder,
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    with subprocess.Popen([_REDIS, *options], stdout=subprocess.DEVNULL) as server:
        try:
            owner = f"unix://{folder}/redis"
            with redis.Redis.from_url(owner) as admin:
                eventually(lambda: _answers(admin.ping), "a Redis")
                create_users(admin, 0)
            yield replace(user_access(f"rediss://127.0.0.1:{port}", 0), owner=owner)
        finally:
            server.kill()


def _answers(ask: object) -> bool:
    assert callable(ask)
    with suppress(psycopg.OperationalError, redis.ConnectionError):
        ask()
        return True
    return False
