"""Servers that want a client certificate, and files of a URL's TLS options that are of no use."""

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import trustme
from pydantic import SecretStr

from docora_ops.errors import ConfigurationError, RedisError
from docora_ops.queue.redis_client import connect, redis_errors
from tests.support.docora import Docora
from tests.support.proxy import Proxy, eventually, refused_port

REDIS_SERVER = shutil.which("redis-server")
PASSWORD = "pa55"


@dataclass(frozen=True)
class Files:
    """Certificates and keys of a server, of a client and of a stranger, and junk."""

    folder: Path
    server: ssl.SSLContext

    def option(self, name: str, file: str) -> str:
        return f"{name}={self.folder / file}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
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
    for file in folder.iterdir():
        file.chmod(0o600)  # or libpq refuses the key
    issued["server"].configure_cert(server)
    ca.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    return Files(folder, server)


@contextmanager
def redis_server(files: Files, protocol: str, directory: Path) -> Iterator[str]:
    """Start Redis itself, which Valkey's package can't replace: it knows no TLS."""
    assert REDIS_SERVER is not None
    port = refused_port()
    options = {
        "--port": 0,
        "--tls-port": port,
        "--tls-cert-file": files.folder / "server.pem",
        "--tls-key-file": files.folder / "server.key",
        "--tls-ca-cert-file": files.folder / "ca.pem",
        "--tls-protocols": protocol,
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
@pytest.mark.parametrize("protocol", ["TLSv1.2", "TLSv1.3"])
def test_a_redis_that_wants_a_client_certificate_is_said_to(
    docora: Docora, files: Files, tmp_path: Path, protocol: str
) -> None:
    with redis_server(files, protocol, tmp_path) as url:
        without = docora.run("queue", "--json", env={"REDIS_URL": url})
        foreign = f"{url}&{files.option('ssl_certfile', 'stranger.pem')}"
        foreign += f"&{files.option('ssl_keyfile', 'stranger.key')}"
        refused = docora.run("queue", "--json", env={"REDIS_URL": foreign})
        encrypted = f"{url}&{files.option('ssl_certfile', 'client.pem')}"
        encrypted += f"&{files.option('ssl_keyfile', 'encrypted.key')}&ssl_password={PASSWORD}"
        admitted = docora.run("queue", "--json", env={"REDIS_URL": encrypted})
    assert (without.code, without.json["code"]) == (5, "redis"), without
    assert "add ssl_certfile and ssl_keyfile to REDIS_URL" in without.json["hint"]
    # A server of TLS 1.3 may have reset the connection before its alert is read.
    assert "asks for a client certificate" in without.json["error"] + without.json["hint"]
    assert (refused.code, refused.json["code"]) == (5, "redis"), refused
    if "broke the connection" not in refused.json["error"]:
        assert "refuses our client certificate: unknown CA" in refused.json["error"]
    assert "check that ssl_certfile in REDIS_URL comes from a CA" in refused.json["hint"]
    assert admitted.code == 0, admitted


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("missing", "", ""), "ssl_ca_certs, {}/missing, can't be used: no such file"),
        (("junk", "", ""), "ssl_ca_certs, {}/junk, can't be used: no certificate or crl found"),
        (("ca.pem", "missing", "client.key"), "ssl_certfile={}/missing with ssl_keyfile="),
        (("ca.pem", "junk", "client.key"), "can't be used: not in PEM format"),
        (("ca.pem", "client.pem", "missing"), "/missing can't be used: no such file"),
        (
            ("ca.pem", "client.pem", ""),
            "client.pem can't be used: not in PEM format",
        ),
        (("ca.pem", "", "client.key"), "ssl_keyfile needs ssl_certfile"),
        (("ca.pem", "client.pem", "stranger.key"), "can't be used: key values mismatch"),
        (("ca.pem", "client.pem", "encrypted.key"), "{}/encrypted.key can't be used: "),
        (("ca.pem", "client.pem", "encrypted.key&ssl_password=wr0ng"), "can't be used: "),
    ],
)
def test_a_file_that_redis_url_names_in_vain_is_named_with_the_cause(
    docora: Docora, files: Files, options: tuple[str, str, str], reason: str
) -> None:
    names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
    given = [files.option(*each) for each in zip(names, options, strict=True) if each[1]]
    url = SecretStr(f"rediss://h?{'&'.join(given)}")
    with pytest.raises(ConfigurationError) as error:
        connect(docora.settings.model_copy(update={"redis_url": url}))
    assert reason.format(files.folder) in error.value.message
    assert "wr0ng" not in error.value.message


def test_a_file_that_vanishes_later_is_named(docora: Docora, files: Files) -> None:
    ca = files.folder / "passing.pem"
    shutil.copy(files.folder / "ca.pem", ca)
    url = docora.redis_url.replace("redis://", "rediss://") + f"?ssl_ca_certs={ca}"
    client = connect(docora.settings.model_copy(update={"redis_url": SecretStr(url)}))
    ca.unlink()
    sentence = f"the file of ssl_ca_certs, {ca}, can't be used"
    with pytest.raises(RedisError, match=sentence), redis_errors(client):
        client.ping()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("missing", "", ""), 'root certificate file "{}/missing" does not exist'),
        (("ca.pem", "client.pem", "missing"), 'not private key file "{}/missing"'),
        (("ca.pem", "client.pem", "stranger.key"), 'stranger.key": key values mismatch'),
        (("ca.pem", "client.pem", "encrypted.key"), 'private key file "{}/encrypted.key"'),
        (("ca.pem", "stranger.pem", "stranger.key"), "unknown ca"),
    ],
)
def test_a_file_that_database_url_names_in_vain_is_named(
    docora: Docora, files: Files, options: tuple[str, str, str], sentence: str
) -> None:
    names = ("sslrootcert", "sslcert", "sslkey")
    given = [files.option(*each) for each in zip(names, options, strict=True) if each[1]]
    with Proxy.before_postgres(docora.database_url, tls=files.server) as proxy:
        url = f"{proxy.url}?sslmode=verify-full&{'&'.join(given)}"
        result = docora.run("failed", "--json", env={"DATABASE_URL": url})
    assert (result.code, result.json["code"]) == (5, "postgres"), result
    assert sentence.format(files.folder) in result.json["error"]
    assert "check the files of sslrootcert, sslcert and sslkey" in result.json["hint"]
    assert "pass phrase" not in result.stderr
