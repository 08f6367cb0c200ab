"""Every way to reach the two servers, how they are named, and what they see of us."""

import socket
import ssl
from pathlib import Path

import pytest
import redis
import trustme

from docora_ops.actions import Docora as Api
from docora_ops.actions import retry_all_failed
from docora_ops.database import Database
from docora_ops.errors import ConfigurationError
from docora_ops.queue import connect
from docora_ops.queue.redis_client import describe
from docora_ops.settings import Settings
from tests.support.diagnoses import ONE_LOOK
from tests.support.docora import Docora, Result
from tests.support.own_servers import OwnRedis
from tests.support.privileges import with_login
from tests.support.proxy import Proxy, eventually, refused_port
from tests.support.rows import TestLink

SECRET = "5ecr3t@passw0rd/t0ken?#% :é"


@pytest.fixture
def link(docora: Docora) -> TestLink:
    """A failed link."""
    return docora.add_link()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """The server's side of TLS, and the certificate of who vouches for 127.0.0.1."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return server, path


def retry(docora: Docora, link: TestLink, **environment: str) -> Result:
    return docora.run("retry", *link.ids, "--json", env=environment)


def was_queued(docora: Docora, link: TestLink, result: Result) -> None:
    """As `docora` sees it."""
    assert result.code == 0, result
    assert result.data["outcome"] == "queued"
    assert docora.waiting() == [link.job_id]
    assert docora.was_reset(link)


def test_redis_is_reached_by_tls_unless_nobody_vouches_for_it(
    docora: Docora, link: TestLink, tls: tuple[ssl.SSLContext, Path]
) -> None:
    with Proxy.before_redis(docora.redis_url, tls=tls[0]) as proxy:
        url = proxy.url.replace("redis://", "rediss://")
        refused = retry(docora, link, REDIS_URL=url).ended(5, "redis")
        assert "certificate verify failed: unable to get local issuer" in refused.json["error"]
        assert docora.status(link) == "failed"
        url += f"?ssl_ca_certs={tls[1]}"
        was_queued(docora, link, retry(docora, link, REDIS_URL=url))


def test_redis_is_reached_by_its_socket_with_a_login_of_any_characters(
    docora: Docora, link: TestLink, own: OwnRedis, tmp_path: Path
) -> None:
    own.client.acl_setuser(
        "ops:é", enabled=True, passwords=[f"+{SECRET}"], keys=["*"], commands=["+@all"]
    )
    url = with_login(f"unix://{tmp_path / 'r'}?db=3", "ops:é", SECRET)
    retry(docora, link, REDIS_URL=url).ended(0)
    with redis.Redis.from_url(f"{own.access.owner}/3") as third:
        assert third.lrange(docora.queue.key, 0, -1) == [link.job_id.encode()]
    assert own.client.keys() == []
    assert docora.was_reset(link)


def test_a_file_that_redis_url_names_in_vain_is_named_with_the_cause(tmp_path: Path) -> None:
    for name in ("client", "stranger"):
        certificate = trustme.CA().issue_cert("docora")
        certificate.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
    (tmp_path / "junk").write_text("not a certificate\n")
    for options, reason in (
        ("ssl_ca_certs={}/missing", "ssl_ca_certs={}/missing can't be used: no such file"),
        ("ssl_ca_certs={}/junk", "ssl_ca_certs={}/junk can't be used: no certificate"),
        ("ssl_keyfile={}/client.key", "ssl_keyfile needs ssl_certfile"),
        ("ssl_certfile={}/client.pem&ssl_keyfile={}/stranger.key", "key values mismatch"),
    ):
        url = f"rediss://127.0.0.1?{options}"
        with pytest.raises(ConfigurationError) as refused:
            connect(Settings.model_validate({"REDIS_URL": url.replace("{}", str(tmp_path))}))
        assert reason.replace("{}", str(tmp_path)) in refused.value.message


def test_postgres_is_reached_by_tls_as_libpq_and_node_pg_are_told_to(
    docora: Docora, link: TestLink, tls: tuple[ssl.SSLContext, Path]
) -> None:
    server, certificate = tls
    with Proxy.before_postgres(docora.database_url, tls=server) as proxy:
        url = f"{proxy.url}?sslmode=verify-full&sslrootcert={certificate}"
        was_queued(docora, link, retry(docora, link, DATABASE_URL=url))
        unknown = retry(docora, link, DATABASE_URL=f"{url}.missing")
        assert f"{certificate}.missing" in unknown.json["error"]
        assert docora.run("failed", env={"DATABASE_URL": f"{proxy.url}?ssl=true"}).code == 0
    with Proxy.before_postgres(docora.database_url) as proxy:
        result = docora.run("failed", "--json", env={"DATABASE_URL": f"{proxy.url}?ssl=true"})
    assert "server does not support SSL" in result.json["error"]


def test_servers_that_want_a_certificate_of_the_client_get_the_one_that_is_named(
    docora: Docora, link: TestLink, tmp_path: Path
) -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(server)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    for name, issuer in (("ours", authority), ("stranger", trustme.CA())):
        certificate = issuer.issue_cert("docora-ops")
        certificate.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        (tmp_path / f"{name}.key").chmod(0o600)
        certificate.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))

    def of_postgres(name: str) -> str:
        files = f"sslcert={tmp_path}/{name}.pem&sslkey={tmp_path}/{name}.key"
        return f"sslmode=verify-full&sslrootcert={tmp_path}/ca&{files}"

    def of_redis(name: str) -> str:
        files = f"ssl_certfile={tmp_path}/{name}.pem&ssl_keyfile={tmp_path}/{name}.key"
        return f"ssl_ca_certs={tmp_path}/ca&{files}"

    with (
        Proxy.before_postgres(docora.database_url, tls=server) as postgres,
        Proxy.before_redis(docora.redis_url, tls=server) as redis,
    ):
        redis_url = redis.url.replace("redis://", "rediss://")
        for to_postgres, to_redis, hint in (
            ("sslmode=require", of_redis("ours"), "check sslmode, sslcert, sslkey and"),
            (of_postgres("stranger"), of_redis("ours"), "check sslmode, sslcert, sslkey and"),
            (of_postgres("ours"), f"ssl_ca_certs={tmp_path}/ca", "such as a client certificate"),
            (of_postgres("ours"), of_redis("stranger"), "such as a client certificate"),
        ):
            urls = {
                "DATABASE_URL": f"{postgres.url}?{to_postgres}",
                "REDIS_URL": f"{redis_url}?{to_redis}",
            }
            refused = retry(docora, link, **urls)
            assert (refused.code, hint in refused.json["hint"]) == (5, True), refused
        urls["REDIS_URL"] = f"{redis_url}?{of_redis('ours')}"
        was_queued(docora, link, retry(docora, link, **urls))
        (tmp_path / "ours.key").chmod(0o644)
        exposed = docora.run("failed", "--json", env=urls)
    assert f"{tmp_path}/ours.key" in exposed.json["error"]
    assert "has group or world access" in exposed.json["error"]


def test_both_servers_are_told_who_we_are_and_all_timeouts(docora: Docora) -> None:
    separator = "&" if "?" in docora.redis_url else "?"
    url = f"{docora.redis_url}{separator}socket_timeout=60&socket_connect_timeout=60"
    for connecting, answer, limits in ((3, 4, (3, 4)), (7, 11, (5, 5))):
        variables = {"CONNECT": connecting, "STATEMENT": answer}
        chosen = {f"DOCORA_OPS_{name}_TIMEOUT": value for name, value in variables.items()}
        settings = Settings.model_validate({"REDIS_URL": url, **chosen})
        with connect(settings) as client:
            kwargs = client.get_connection_kwargs()
        assert (kwargs["socket_connect_timeout"], kwargs["socket_timeout"]) == limits
    database = docora.actions(statement_timeout=17, lock_timeout=3).database
    sql = "SELECT name, setting || coalesce(unit, '') FROM pg_settings WHERE source = 'session'"
    application = "SELECT current_setting('application_name')"
    with database.transaction():
        timeouts = {name: value for name, value in database.rows(sql) if "timeout" in name}
        assert database.rows(application) == [("docora-ops",)]
    timeouts.pop("transaction_timeout", None)
    assert timeouts == {
        "statement_timeout": "17000ms",
        "lock_timeout": "3000ms",
        "idle_in_transaction_session_timeout": "10000ms",
    }


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("postgres://docora:hunter2@db.example:5433/docora", "docora on db.example"),
        ("postgres://u:hunter%32@db.example/d?sslmode=verify-full", "d on db.example"),
        ("postgres:///docora?host=/run/postgresql&user=u&password=hunter2", "docora on /run/"),
        ("postgres://u:hunter2@one:5433,two/docora", "docora on one:5433, two"),
    ],
)
def test_a_database_is_named_by_host_and_name_only(url: str, target: str) -> None:
    text = Database(Settings.model_validate({"DATABASE_URL": url})).server
    assert text.startswith(target)
    assert "hunter" not in text
    assert "%32" not in text


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://localhost", "localhost:6379/0"),
        ("rediss://docora:hunter%32@redis.example", "redis.example:6379/0"),
        ("redis://redis.example:6380/3?db=1&password=hunter2", "redis.example:6380/3"),
        ("redis://:hunter2@[::1]", "[::1]:6379/0"),
        ("unix://docora:hunter2@/run/redis/0?db=2", "/run/redis/0, database 2"),
    ],
)
def test_a_redis_is_named_by_host_and_number_only(url: str, text: str) -> None:
    client = connect(Settings.model_validate({"REDIS_URL": url}))
    client.close()
    assert describe(client) == text


def test_the_first_server_that_answers_is_used_and_named(docora: Docora) -> None:
    name, nobody = docora.connection.info.dbname, f"127.0.0.1:{refused_port()}"
    with Proxy.before_postgres(docora.database_url) as proxy:
        login, _, server = proxy.url.partition("@")
        url = f"{login}@docora.invalid,{nobody},{server}?target_session_attrs=read-write"
        found = docora.run("failed", env={"DATABASE_URL": url}).ended(0)
        assert f"{name} on 127.0.0.1:{proxy.port} (schema public), " in found.stderr
        proxy.go_away()
        refused = docora.run("failed", "--json", env={"DATABASE_URL": url}).ended(5, "postgres")
    for reason in (
        f"Postgres database {name} has no usable server: docora.invalid can't be reached: ",
        f"; {nobody} can't be reached: connection refused; ",
        f"; 127.0.0.1:{proxy.port} can't be reached: ",
    ):
        assert reason in refused.json["error"], refused
    assert "choose" not in refused.stdout + refused.stderr  # of the password


def test_a_login_that_is_refused_is_told_although_another_server_is_away(docora: Docora) -> None:
    with Proxy.before_postgres(docora.database_url) as proxy:
        server = proxy.url.partition("@")[2]
        url = f"postgres://nobody@127.0.0.1:{refused_port()},{server}"
        refused = docora.run("failed", "--json", env={"DATABASE_URL": url})
    assert "refuses our login" in refused.json["error"], refused
    assert "check the role and the password" in refused.json["hint"]


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_a_statement_may_take_as_long_as_was_set(docora: Docora, command: str) -> None:
    with Proxy.before_postgres(docora.database_url) as proxy:
        for seconds, expected in ((None, b"8"), (600, b"600")):
            plan = proxy.plan(b"SET LOCAL statement_timeout TO '%ss'" % expected)
            env = {"DOCORA_OPS_STATEMENT_TIMEOUT": f"{seconds}"} if seconds else {}
            docora.run(command, env={"DATABASE_URL": proxy.url, **ONE_LOOK, **env})
            assert plan.reached.is_set(), seconds


def test_a_closed_docora_keeps_no_connection_and_a_renewed_one_connects_again(
    docora: Docora,
) -> None:
    earlier = {client["id"] for client in docora.redis.client_list()}  # of other tests

    def connections() -> tuple[int, int]:
        clients = [each["name"] for each in docora.redis.client_list() if each["id"] not in earlier]
        return docora.sessions("true"), clients.count("docora-ops")

    with Api(docora.settings) as api:
        for _ in range(2):
            docora.add_link()
            [*_, step] = retry_all_failed(api)
            assert (step.result.total, connections()) == (1, (1, 1))
            api.renew()
            eventually(lambda: connections() == (0, 0), "renewed")
        [*_] = retry_all_failed(api)
    eventually(lambda: connections() == (0, 0), "closed")


def test_a_server_that_never_answers_is_tried_once_though_a_standby_is_preferred(
    docora: Docora,
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Proxy.before_postgres(docora.database_url) as proxy,
    ):
        port = silent.getsockname()[1]
        url = proxy.url.replace("@127.0.0.1:", f"@127.0.0.1:{port},127.0.0.1:")
        url += f"{'&' if '?' in url else '?'}target_session_attrs=prefer-standby"
        env = {"DATABASE_URL": url, "DOCORA_OPS_CONNECT_TIMEOUT": "1"}
        assert docora.run("failed", env=env).code == 0
        silent.accept()[0].close()
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()
