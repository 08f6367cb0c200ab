"""A Redis that wants a client certificate, and files of REDIS_URL that are of no use."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import trustme

from tests.support.docora import Docora, Result
from tests.support.proxy import eventually, refused_port

REDIS_SERVER = shutil.which("redis-server")
PASSWORD = "pa55"


@dataclass(frozen=True)
class Files:
    """Certificates and keys of a server, of a client and of a stranger, and junk."""

    folder: Path

    def option(self, name: str, file: str) -> str:
        return f"{name}={self.folder / file}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = {
        "server": ca.issue_cert("127.0.0.1"),
        "client": ca.issue_cert("docora"),
        "stranger": other.issue_cert("docora"),
    }
    for name, certificate in issued.items():
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    encrypt = ["openssl", "pkey", "-aes256", "-passout", f"pass:{PASSWORD}"]
    encrypt += ["-in", str(folder / "client.key"), "-out", str(folder / "encrypted.key")]
    subprocess.run(encrypt, check=True)
    (folder / "junk").write_text("not a certificate\n")
    return Files(folder)


@contextmanager
def redis_server(files: Files, directory: Path) -> Iterator[str]:
    """Start Redis itself, which Valkey's package can't replace: it knows no TLS."""
    assert REDIS_SERVER is not None
    port = refused_port()
    options = {
        "--port": 0,
        "--tls-port": port,
        "--tls-cert-file": files.folder / "server.pem",
        "--tls-key-file": files.folder / "server.key",
        "--tls-ca-cert-file": files.folder / "ca.pem",
        "--dir": directory,
    }
    command = [REDIS_SERVER, *(str(word) for pair in options.items() for word in pair)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        url = f"rediss://127.0.0.1:{port}?{files.option('ssl_ca_certs', 'ca.pem')}"
        given = f"&{files.option('ssl_certfile', 'client.pem')}"
        client = redis.Redis.from_url(f"{url}{given}&{files.option('ssl_keyfile', 'client.key')}")

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        try:
            eventually(answers, "a Redis with TLS")
            yield url
        finally:
            client.close()
            process.kill()


@pytest.mark.skipif(REDIS_SERVER is None, reason="Debian's package redis-server has it")
def test_a_redis_that_wants_a_client_certificate_is_said_to(
    docora: Docora, files: Files, tmp_path: Path
) -> None:
    def queue(certificate: str, options: str) -> Result:
        given = f"{url}&{files.option('ssl_certfile', certificate)}&{options}"
        return docora.run("queue", "--json", env={"REDIS_URL": given})

    with redis_server(files, tmp_path) as url:
        without = docora.run("queue", "--json", env={"REDIS_URL": url})
        refused = queue("stranger.pem", files.option("ssl_keyfile", "stranger.key"))
        key = files.option("ssl_keyfile", "encrypted.key")
        admitted = queue("client.pem", f"{key}&ssl_password={PASSWORD}")
    for result in (without, refused):
        assert (result.code, result.json["code"]) == (5, "redis"), result
        assert "needs ssl_certfile and ssl_keyfile" in result.json["hint"]
    assert admitted.code == 0, admitted


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("missing", "", ""), "ssl_ca_certs={}/missing can't be used: no such file"),
        (("junk", "", ""), "ssl_ca_certs={}/junk can't be used: no certificate or crl found"),
        (("ca.pem", "", "client.key"), "ssl_keyfile needs ssl_certfile"),
        (("ca.pem", "client.pem", "stranger.key"), "can't be used: key values mismatch"),
        (("ca.pem", "client.pem", "encrypted.key&ssl_password=wr0ng"), "/encrypted.key can't be"),
    ],
)
def test_a_file_that_redis_url_names_in_vain_is_named_with_the_cause(
    docora: Docora, files: Files, options: tuple[str, str, str], reason: str
) -> None:
    names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
    given = [files.option(*each) for each in zip(names, options, strict=True) if each[1]]
    url = f"{docora.redis_url.replace('redis://', 'rediss://')}?{'&'.join(given)}"
    result = docora.run("queue", "--json", env={"REDIS_URL": url})
    assert (result.code, reason.format(files.folder) in result.json["error"]) == (2, True), result
    assert "wr0ng" not in result.stdout + result.stderr
